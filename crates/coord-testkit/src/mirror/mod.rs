//! Differential tests: two backends run the same operations and must return the same responses.
//!
//! [`Mirror`] runs a sequence of [`Operation`]s on two backends, one operation at a time, and
//! compares everything observable: every response in full, the kind, outcome and details of every
//! error, and the batches of every watch. The project compares `MemBackend` with real etcd servers
//! in this way, and other backends can be compared in the same way:
//!
//! ```text
//!                +-> left  -> response --+
//! operation -----+                       +--> equal after masking? if not: stop
//!                +-> right -> response --+
//! ```
//!
//! # What is masked
//!
//! Two stores that both satisfy the contract may differ in the following, and only these are not
//! compared:
//!
//! - cluster id, member id and term in headers; whether they are set is compared;
//! - the header revision in responses to `compact` and `leases`, which a server samples when it
//!   responds;
//! - lease ids that a store chooses: the mirror chooses them instead;
//! - the remaining time of a lease, within the duration of the calls and one second of rounding;
//! - the order of the keys of a lease, and of the list of leases;
//! - details of an error that one of the two stores does not report;
//! - the reason and the cause in an error, and the name of its backend;
//! - details of the error that ends a watch, except the compact revision;
//! - the numbers in an error about a TTL, a timeout, the size or the depth of a request, or a
//!   replaced history;
//! - the time at which progress notifications are delivered; their revisions are checked on each
//!   side separately;
//! - with [`Tombstones::MayBeLost`], deletions at exactly the compact revision.
//!
//! A request that the left backend refuses as a hazard, with `Refused`, is not sent to the right
//! backend: compare a server as the right backend.
//!
//! Ties in a sorted range are compared, because sequences of [`strategy`](crate::strategy) have at
//! most twelve keys; beyond that number etcd does not define their order.
//!
//! # How watches are compared
//!
//! A store may deliver a batch late, so a batch that only one side has delivered *so far* is not a
//! mismatch. The mirror queues the batches that each side has delivered, and compares the queues up
//! to the length of the shorter one. To check at the end that no batch is missing, the mirror
//! writes a **marker** into the range of every open watch that can deliver one. Both sides must
//! deliver the marker within the mirror's [timeout](Mirror::timeout):
//!
//! ```text
//! left    put a=1 @7   put a=2 @8   [marker @12]
//! right   put a=1 @7                [marker @12]
//!                      ^ the mismatch: right has no batch at 8
//! ```
//!
//! A compaction may change the events of a watch. It removes history that has not been delivered
//! yet, and previous key-values that a store reads only when it sends the event. Before a
//! compaction, the mirror therefore writes a marker for each watch that starts at a past revision
//! or requests previous key-values, and reads the watch up to the marker. A watch that filters out
//! both puts and deletions never delivers a marker. If such a watch starts at a past revision, the
//! mirror drops the watch before the compaction.
//!
//! Modules: `calls`, the operations on both backends; `mask`, when two responses are equal; `pair`,
//! one watch on both backends; `settle`, markers and all open watches.

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
use pair::WatchPair;

/// A differential test of two backends.
///
/// Both backends must have the same history, preferably none: use fresh stores to which only this
/// mirror writes. A mirror can run any number of sequences. Before each sequence, it deletes all
/// keys and revokes all leases. Revisions and compactions continue from the previous sequence.
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
///     Operation::Put(Put::new("", "an empty key is refused")),
/// ];
/// let mut mirror = Mirror::new(MemBackend::new(), MemBackend::new());
/// mirror.run(&sequence).await.expect("two stores of one kind respond alike");
/// assert_eq!(mirror.tally().sequences, 1);
/// # }
/// ```
///
/// With the feature `proptest`, the module [`strategy`](crate::strategy) draws random sequences;
/// `docs/guide/backends.md` shows a loop over them.
#[derive(Debug)]
pub struct Mirror<L, R> {
    left: L,
    right: R,
    timeout: Duration,
    tombstones: Tombstones,
    /// The newest unmasked revision in any response of the left backend.
    current: Revision,
    /// The newest compact revision.
    compacted: Revision,
    watches: Vec<WatchPair>,
    /// Start and end of the last grant or keep-alive of each lease: both stores have restarted its
    /// TTL in between.
    refreshed: BTreeMap<LeaseId, (Instant, Instant)>,
    /// The last lease id that the mirror has chosen.
    last_chosen_lease: i64,
    tally: Tally,
}

/// Whether a watch delivers deletions at exactly the compact revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a named bool")]
pub enum Tombstones {
    /// A watch that starts at the compact revision delivers these deletions: etcd since 3.4.34 and
    /// 3.5.16.
    #[default]
    Kept,
    /// A watch that starts at the compact revision may omit these deletions, so they are not
    /// compared.
    MayBeLost,
}

/// The number of sequences, responses and events that a mirror has compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Sequences that completed.
    pub sequences: u64,
    /// Compared responses, errors included.
    pub responses: u64,
    /// Compared errors.
    pub errors: u64,
    /// Compared watch events.
    pub events: u64,
}

/// The first mismatch between two backends. `Display` prints the operations up to the mismatch, and
/// both responses.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Mismatch {
    /// The operations so far, each with the store's revision before it.
    pub transcript: Vec<String>,
    /// Both responses, one below the other, or what was not received in time.
    pub detail: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the two backends differ:")?;
        for line in &self.transcript {
            writeln!(f, "  {line}")?;
        }
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Mismatch {}

/// The lease ids that the mirror chooses are above this one, far from the small ids in sequences.
const CHOSEN_LEASE_ID_BASE: i64 = 0x636f_6f72_6400;

impl<L: KvBackend, R: KvBackend> Mirror<L, R> {
    /// Creates a mirror of two backends.
    #[must_use]
    pub const fn new(left: L, right: R) -> Self {
        Self {
            left,
            right,
            timeout: Duration::from_secs(10),
            tombstones: Tombstones::Kept,
            current: Revision::ZERO,
            compacted: Revision::ZERO,
            watches: Vec::new(),
            refreshed: BTreeMap::new(),
            last_chosen_lease: CHOSEN_LEASE_ID_BASE,
            tally: Tally { sequences: 0, responses: 0, errors: 0, events: 0 },
        }
    }

    /// Sets the timeout: a response or a marker that takes longer is a mismatch. Default: 10 s.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets whether watches deliver deletions at exactly the compact revision. Default: `Kept`.
    #[must_use]
    pub const fn tombstones(mut self, tombstones: Tombstones) -> Self {
        self.tombstones = tombstones;
        self
    }

    /// The number of sequences, responses and events compared so far.
    #[must_use]
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// Runs a sequence on both backends.
    ///
    /// After a mismatch the mirror cannot run further sequences, because the state of its backends
    /// is unknown.
    ///
    /// # Errors
    /// The first mismatch. If one backend is unreachable, this is a mismatch too. If both are
    /// unreachable, their errors are equal, and there is no mismatch.
    ///
    /// # Cancel safety
    /// Dropping the future leaves both backends in the middle of the sequence.
    pub async fn run(&mut self, operations: &[Operation]) -> Result<(), Mismatch> {
        let mut transcript = Vec::new();
        let result = self.run_recorded(operations, &mut transcript).await;
        if result.is_ok() {
            self.tally.sequences += 1;
        }
        result.map_err(|detail| Mismatch { transcript, detail })
    }

    async fn run_recorded(
        &mut self,
        operations: &[Operation],
        transcript: &mut Vec<String>,
    ) -> Result<(), String> {
        self.clear().await?;
        let first = self.current;
        for operation in operations {
            transcript.push(format!("@{} {operation}", self.current));
            self.run_operation(operation).await?;
        }
        transcript.push("(end of the sequence)".to_owned());
        self.settle(|_| true).await?;
        self.check_history(first).await?;
        self.watches.clear();
        Ok(())
    }
}
