//! Transactions in a history: what each attempt has read and written, and what the store has
//! changed.
//!
//! An attempt is one event, at the time of its end. It has what the isolation checker needs, and no
//! order of its reads:
//!
//! ```text
//! attempt 1 of transaction 7 reads x@3, y absent; puts x; committed at revision 9
//! the store changes x at revision 9
//! ```
//!
//! The changes of the store are the *ground truth*: they show in which revision each key was put or
//! deleted, also by clients whose transactions are not recorded, and whether an attempt with an
//! unknown outcome was applied.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::{KeyRange, Revision};
use coord_core::stm::Isolation;

/// One attempt of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The number of the transaction, which no other transaction of the history has.
    pub transaction: u64,
    /// The number of the attempt in its transaction, from 1.
    pub number: u32,
    /// The isolation level that the transaction was run with.
    pub isolation: Isolation,
    /// When the attempt began, on the clock of the history. It ended at the time of its event.
    pub began: Duration,
    /// The keys that it has read from the store, each once.
    pub reads: Vec<KeyRead>,
    /// The ranges that it has read from the store.
    pub ranges: Vec<RangeRead>,
    /// The keys that it has written, or would have written, each once.
    pub writes: Vec<KeyWrite>,
    /// How it ended.
    pub end: AttemptEnd,
}

/// A key that an attempt has read from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRead {
    /// The key.
    pub key: Bytes,
    /// The mod revision and the value that were read; `None` if the key did not exist.
    pub found: Option<(Revision, Bytes)>,
}

/// A range that an attempt has read from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRead {
    /// The range.
    pub range: KeyRange,
    /// The keys that were found, with their mod revisions, in key order.
    pub found: Vec<(Bytes, Revision)>,
}

/// A key that was put or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyWrite {
    /// The key.
    pub key: Bytes,
    /// The value; `None` if the key was deleted.
    pub value: Option<Bytes>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttemptEnd {
    /// Its writes were applied. Without writes: its reads were accepted.
    Committed {
        /// The revision of the writes. Without writes: the revision as of which it has read, as in
        /// [`CommitInfo`](coord_core::stm::CommitInfo::revision).
        revision: Revision,
    },
    /// A key that it has read was changed. Nothing was written.
    Conflict,
    /// The closure returned an error. Nothing was written.
    Aborted,
    /// The backend failed, and nothing was written.
    Failed,
    /// The writes may have been applied.
    Unknown,
}

/// The changes of the store in one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreChange {
    /// The revision.
    pub revision: Revision,
    /// The keys that were put or deleted, each once.
    pub writes: Vec<KeyWrite>,
}

impl fmt::Display for KeyRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.found {
            Some((revision, _)) => write!(f, "{}@{revision}", self.key.escape_ascii()),
            None => write!(f, "{} absent", self.key.escape_ascii()),
        }
    }
}

impl fmt::Display for KeyWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.value.is_some() { "puts" } else { "deletes" };
        write!(f, "{verb} {}", self.key.escape_ascii())
    }
}

impl fmt::Display for AttemptEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Committed { revision } => write!(f, "committed at revision {revision}"),
            Self::Conflict => f.write_str("conflict"),
            Self::Aborted => f.write_str("aborted"),
            Self::Failed => f.write_str("failed"),
            Self::Unknown => f.write_str("outcome unknown"),
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {} of transaction {}", self.number, self.transaction)?;
        for (i, read) in self.reads.iter().enumerate() {
            write!(f, "{}{read}", if i == 0 { " reads " } else { ", " })?;
        }
        for RangeRead { range, found } in &self.ranges {
            write!(f, "; {range} has {} keys", found.len())?;
        }
        for write in &self.writes {
            write!(f, "; {write}")?;
        }
        write!(f, "; {}", self.end)
    }
}

impl fmt::Display for StoreChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {}", self.revision)?;
        self.writes
            .iter()
            .enumerate()
            .try_for_each(|(i, write)| write!(f, "{}{write}", if i == 0 { " " } else { ", " }))
    }
}
