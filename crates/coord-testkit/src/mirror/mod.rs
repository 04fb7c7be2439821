//! Two backends, the same operations, and the first place where they differ.
//!
//! [`Mirror`] drives a sequence of [`Operation`]s to two backends at once, one operation at a
//! time, and compares all that can be seen: each answer in full, of each error the kind, the
//! outcome and what it tells, and what each watch delivers, batch by batch. It is how `MemBackend`
//! is known to tell the truth about etcd, and how any store can be held against any other:
//!
//! ```text
//!                +-> left  -> answer --+
//! operation -----+                     +--> the same, but for the masks? else stop
//!                +-> right -> answer --+
//! ```
//!
//! # What is masked
//!
//! Some things two stores that both keep the contract may see differently, and only these are not
//! compared:
//!
//! - cluster, member and term in headers; that they are there where they should be is compared;
//! - the header's revision in the answers to `compact` and `leases`, which a server samples when
//!   it responds;
//! - the ids of leases that a store chooses: the mirror chooses them instead;
//! - what is left of a lease's time, within the time that the calls took and a second of rounding;
//! - the order of a lease's keys, and of the list of leases;
//! - details of errors that one of the two was not told;
//! - bookmarks: when one comes is left open. What one *says* is checked, on each side alone;
//! - with [`Tombstones::MayBeLost`], deletions at exactly the revision of a compaction.
//!
//! Ties in a sorted range are compared, since sequences of [`strategy`](crate::strategy) have no
//! more than twelve keys; beyond that many etcd leaves their order open.
//!
//! # How watches are compared
//!
//! A store may take its time to deliver, so *nothing yet* is never a difference. What each side
//! has delivered is queued, and compared as far as both have come. To know that nothing is missing
//! in the end, a **marker** is written into the range of every open watch, and both sides must
//! deliver up to it within the mirror's [patience](Mirror::patience):
//!
//! ```text
//! left    put a=1 @7   put a=2 @8   [marker @12]
//! right   put a=1 @7                [marker @12]
//!                      ^ the difference: right has no batch at 8
//! ```
//!
//! A store may also refuse what is compacted before it was delivered, and leave out what a key was
//! before if that is gone when it tells of an event. So a watch that starts in the past, or wants
//! to be told what was before, is brought up to date, by a marker of its own, before history is
//! compacted. One that leaves out puts and deletions both cannot be marked; if it starts in the
//! past, it is given up then.
//!
//! The parts: this file, the mirror; `calls`, one operation on both sides; `mask`, when two answers
//! are the same; `pair`, a watch on both sides; `settle`, all watches.

mod calls;
mod mask;
mod pair;
mod settle;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use coord_core::{
    KvBackend,
    kv::{LeaseId, Revision},
};
use tokio::time::Instant;

use crate::strategy::Operation;
use pair::Pair;

/// Two backends side by side.
///
/// Both must have the same past, best none: fresh stores, each driven by this mirror alone. Any
/// number of sequences can be run one after the other; each begins with all keys deleted and all
/// leases revoked, and goes on in the revisions and compactions of those before.
///
/// ```
/// use coord_core::kv::{Delete, Put};
/// use coord_mem::MemBackend;
/// use coord_testkit::Mirror;
/// use coord_testkit::strategy::Operation;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let sequence = [
///     Operation::Put(Put::new("a", "1")),
///     Operation::Delete(Delete::new("a")),
///     Operation::Put(Put::new("", "both refuse an empty key")),
/// ];
/// let mut mirror = Mirror::new(MemBackend::new(), MemBackend::new());
/// mirror.run(&sequence).await.expect("two stores of one kind do not differ");
/// assert_eq!(mirror.tally().sequences, 1);
/// # }
/// ```
///
/// With the feature `proptest` the module [`strategy`](crate::strategy) draws random sequences;
/// `docs/guide/backends.md` shows a loop over them.
#[derive(Debug)]
pub struct Mirror<L, R> {
    left: L,
    right: R,
    patience: Duration,
    tombstones: Tombstones,
    /// The newest revision that an answer showed.
    current: Revision,
    /// The newest compaction.
    compacted: Revision,
    watches: Vec<Pair>,
    /// When each lease was refreshed last: between these two moments, on either side.
    refreshed: BTreeMap<LeaseId, (Instant, Instant)>,
    next_lease: i64,
    tally: Tally,
}

/// What becomes of deletions at the very revision of a compaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a yes or no with a name")]
pub enum Tombstones {
    /// A watch that starts there delivers them, as etcd does since 3.4.34 and 3.5.16.
    #[default]
    Kept,
    /// A watch that starts there may not: they are not compared.
    MayBeLost,
}

/// How much a mirror has compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Sequences that were run to their end.
    pub sequences: u64,
    /// Answers that were the same, refusals among them.
    pub answers: u64,
    /// Refusals that were the same.
    pub refusals: u64,
    /// Events that both sides of a watch delivered.
    pub events: u64,
}

/// Where two backends differ. Prints the operations that led there, and both answers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Difference {
    /// What was done, each with the revision at which it was.
    pub story: Vec<String>,
    /// What differs: both answers, one under the other.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the two backends differ:")?;
        for line in &self.story {
            writeln!(f, "  {line}")?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for Difference {}

/// The first lease that a mirror chooses where a store was asked to: far from anybody's small ids.
const FIRST_CHOSEN_LEASE: i64 = 0x636f_6f72_6400;

impl<L: KvBackend, R: KvBackend> Mirror<L, R> {
    /// Puts two backends side by side.
    #[must_use]
    pub const fn new(left: L, right: R) -> Self {
        Self {
            left,
            right,
            patience: Duration::from_secs(10),
            tombstones: Tombstones::Kept,
            current: Revision::ZERO,
            compacted: Revision::ZERO,
            watches: Vec::new(),
            refreshed: BTreeMap::new(),
            next_lease: FIRST_CHOSEN_LEASE,
            tally: Tally { sequences: 0, answers: 0, refusals: 0, events: 0 },
        }
    }

    /// How long an answer or an event may take before its absence is the difference: 10 s unless
    /// set.
    #[must_use]
    pub const fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// What becomes of deletions at the very revision of a compaction: they are kept unless set.
    #[must_use]
    pub const fn tombstones(mut self, tombstones: Tombstones) -> Self {
        self.tombstones = tombstones;
        self
    }

    /// How much has been compared so far.
    #[must_use]
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// Runs a sequence on both backends.
    ///
    /// After a difference the mirror is of no further use: nothing is known of its backends.
    ///
    /// # Errors
    /// The first difference. That a backend cannot be reached is one too, unless neither can.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the backends wherever the sequence had come.
    pub async fn run(&mut self, operations: &[Operation]) -> Result<(), Difference> {
        let mut story = Vec::new();
        let result = self.play(operations, &mut story).await;
        if result.is_ok() {
            self.tally.sequences += 1;
        }
        result.map_err(|what| Difference { story, what })
    }

    async fn play(
        &mut self,
        operations: &[Operation],
        story: &mut Vec<String>,
    ) -> Result<(), String> {
        self.clear().await?;
        let first = self.current;
        for operation in operations {
            story.push(format!("@{} {operation}", self.current));
            self.step(operation).await?;
        }
        story.push("(the end)".to_owned());
        self.settle(|_| true).await?;
        self.check_history(first).await?;
        self.watches.clear();
        Ok(())
    }
}
