//! Records of the attempts of transactions, for checkers of isolation.
//!
//! An *attempt recorder*, in this crate *recorder* for short, receives one record of each attempt
//! when the attempt ends, however it ends: also if its future is dropped, or its closure panics. A
//! transaction whose client has no recorder makes no record. `coord-testkit` has a recorder and a
//! checker; `stm/record.rs` makes the records.
//!
//! ```text
//! closure                      record, made at the end
//! get x      from the store    reads    x@7 = 100
//! put x 90                     writes   x = 90
//! get x      own write
//! range p/   from the store    ranges   p/: p/1@5, and in reads p/1@5 = ...
//! commit, at revision 8        end      committed at revision 8
//! ```
//!
//! An attempt that did not commit is recorded too, because its closure has seen what it read: at
//! the strong levels that must be one snapshot. Only an attempt that failed before its first read
//! makes no record.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::kv::{KeyRange, Revision};
use crate::stm::isolation::Isolation;

/// Receives a record of each attempt of the transactions of a client:
/// [`Client::record_transactions`](crate::Client::record_transactions), or of one
/// [`Stm`](crate::Stm).
///
/// The task that runs the transaction calls the methods, [`record`](Self::record) also while a
/// future is dropped. They must not block or panic.
pub trait AttemptRecorder: fmt::Debug + Send + Sync + 'static {
    /// Returns a number for a transaction that begins. No other transaction may have it.
    fn transaction_number(&self) -> u64;

    /// Returns the time. To keep the order of transactions that follow each other at one instant,
    /// as on tokio's paused clock, never return the same time twice.
    fn now(&self) -> Duration;

    /// Receives an attempt, which has ended at the time `ended`.
    fn record(&self, attempt: Attempt, ended: Duration);
}

/// One attempt of a transaction, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "tests of checkers construct histories")]
pub struct Attempt {
    /// The number of the transaction, which no other transaction of the recorder has.
    pub transaction: u64,
    /// The number of the attempt in its transaction, from 1.
    ///
    /// [`CommitInfo::attempts`](crate::stm::CommitInfo::attempts) does not count attempts that have
    /// yielded to a conflict queue, and this number does. An attempt that made no record leaves a
    /// gap.
    pub number: u32,
    /// The isolation level of the transaction.
    pub isolation: Isolation,
    /// When the attempt began. If it started with keys that were read before, by an earlier attempt
    /// or by another transaction of the client: when the transaction began. So nothing that the
    /// attempt has read was read before this time.
    pub began: Duration,
    /// The keys that it has read from the store, each once, in key order. The keys that were found
    /// in ranges are among them.
    pub reads: Vec<KeyRead>,
    /// The ranges that it has read from the store, in the order of the reads.
    pub ranges: Vec<RangeRead>,
    /// The keys that it has written, or would have written, each once, in key order.
    /// A deletion is not among them if a confirmed commit has applied it to an absent key.
    ///
    /// After a commit that was sent with an idempotency key, that key is among them. Its value is
    /// unique to the commit, so that the changes of the store show whether it was applied.
    pub writes: Vec<KeyWrite>,
    /// How it ended.
    pub end: AttemptEnd,
}

/// A key that an attempt has read from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "tests of checkers construct histories")]
pub struct KeyRead {
    /// The key.
    pub key: Bytes,
    /// The mod revision and the value that were read; `None` if the key did not exist.
    pub found: Option<(Revision, Bytes)>,
}

/// A range that an attempt has read from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "tests of checkers construct histories")]
pub struct RangeRead {
    /// The range.
    pub range: KeyRange,
    /// The keys as the closure sees them before its own writes are applied, with their mod
    /// revisions, in key order. A key that the attempt had read before has the mod revision of that
    /// read.
    pub found: Vec<(Bytes, Revision)>,
}

/// A key that was put or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "tests of checkers construct histories")]
pub struct KeyWrite {
    /// The key.
    pub key: Bytes,
    /// The value; `None` if the key was deleted. A put with `ignore_value` has the value that the
    /// attempt has read, and an empty value if it has not read the key.
    pub value: Option<Bytes>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a checker must handle every end")]
pub enum AttemptEnd {
    /// Its writes were applied. Without writes: its reads were accepted.
    Committed {
        /// The revision of the writes. Without writes: the revision as of which it has read, as in
        /// [`CommitInfo`](crate::stm::CommitInfo::revision).
        revision: Revision,
    },
    /// A key that it has read was changed. Nothing was written.
    Conflict,
    /// The closure returned an error. Nothing was written.
    Aborted,
    /// It ended without a commit, and nothing was written: the backend failed, the session of the
    /// idempotency keys was lost, the attempt yielded to a conflict queue, its future was dropped
    /// before the commit, or its closure panicked.
    Failed,
    /// The writes may have been applied: the commit has no response, or the future was dropped
    /// during the commit.
    Unknown,
}

impl fmt::Display for KeyRead {
    /// Writes the key with its mod revision, `x@3`, or `x absent`.
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
