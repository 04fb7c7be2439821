//! Software transactional memory: transactions over any keys, written as ordinary code.
//!
//! [`Stm::run`] calls a closure with a [`Transaction`]. The closure reads, computes and writes. The
//! writes are committed if no key that was read has changed; otherwise the closure is called again.
//! No lock is held, and no key is written before the commit.
//!
//! ```text
//! A                              B                             balance of x
//! get x: 100                                                   100, mod revision 7
//!                                get x: 100
//!                                put x 90
//!                                commit if x has revision 7    90, mod revision 8
//! put x 80
//! commit if x has revision 7
//!   it has not: conflict, and x is 90 at revision 8
//! second attempt: get x: 90
//! put x 70
//! commit if x has revision 8                                   70, mod revision 9
//! ```
//!
//! - **Isolation.** [`Isolation`] lists what each level forbids.
//! - **Retries.** An attempt that conflicts is retried within the budget of [`Retry`]. The response
//!   of the failed commit contains what the next attempt reads.
//! - **Conflict queues.** Transactions of one [`Client`] that conflict on a key wait in a queue, so
//!   that 64 tasks with one key are not slower than one task.
//! - **Idempotency keys.** [`Stm::exactly_once`] resolves a commit whose response was lost.
//!
//! # Cost
//!
//! | step | requests |
//! |---|---|
//! | `get`, `range`, `revision_of` of a key or range that was not read before | 1 |
//! | `get_many`, if a key was not read before | 1 |
//! | prefetch of all keys | 1 |
//! | commit | 1 |
//! | commit of a read-only transaction, at the strong levels and at `ReadCommitted` | 0 |
//! | commit of a transaction that reads a single key and writes nothing, at every level | 0 |
//! | blind writes at `SerializableSnapshot`, if the transaction has read | 1 more |
//! | conflict that the commit detects | 1, the failed commit |
//! | conflict that a later read detects, at the strong levels | 0 |
//! | attempt that starts with the post-image of a conflict queue | 0 for the keys in it |
//! | idempotency key | 0; one put and one compare more in the commit |
//! | commit whose response was lost, with an idempotency key | 1, retried until it has a response |
//!
//! `get_many` and the prefetch of more keys than the backend's limit of operations take several
//! requests.

mod commit;
mod error;
mod idempotency_key;
pub(crate) mod isolation;
mod read_set;
mod reads;
mod record;
mod retry;
mod run;
mod transaction;

use bytes::Bytes;

use crate::client::Client;
use crate::kv::{IntoBytes, Revision};
use crate::recording::AttemptRecorder;
use crate::session::Session;
pub use error::{Conflict, StmError};
pub(crate) use idempotency_key::{IdempotencyKey, IdempotencyKeys, Resolution};
pub use isolation::{Isolation, IsolationError};
pub use retry::Retry;
pub use transaction::Transaction;
pub(crate) use transaction::invalid;

/// Runs transactions with one set of options. Create it once and use it for many transactions.
///
/// ```
/// use coord_core::{Client, Stm};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(MemBackend::new());
/// client.put("ada", "100").await?;
/// client.put("bob", "20").await?;
///
/// let stm = Stm::new(&client);
/// let transfer = stm.run(async |tx| {
///     let ada: i64 = tx.get_as::<String>("ada").await?.unwrap_or_default().parse()?;
///     let bob: i64 = tx.get_as::<String>("bob").await?.unwrap_or_default().parse()?;
///     tx.put("ada", (ada - 30).to_string());
///     tx.put("bob", (bob + 30).to_string());
///     Ok::<_, Box<dyn std::error::Error + Send + Sync>>(ada - 30)
/// });
/// let committed = transfer.await?;
/// assert_eq!(committed.value, 70);
/// assert_eq!(committed.info.attempts, 1);
/// assert_eq!(client.get("bob").await?.expect("just put").value, "50");
/// # Ok(())
/// # }
/// ```
///
/// Differences from Go's package `concurrency`: retries have a budget, every attempt at the strong
/// levels sees one snapshot, and a panic of the closure reaches the caller.
///
/// Source: etcd 3.5 `client/v3/concurrency/stm.go`.
#[derive(Clone, Debug)]
#[must_use = "call `run` to run a transaction"]
pub struct Stm {
    client: Client,
    isolation: Isolation,
    prefetch: Vec<Bytes>,
    retry: Retry,
    idempotency_keys: Option<IdempotencyKeys>,
}

impl Stm {
    /// Transactions of `client`, with the default options.
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            isolation: Isolation::default(),
            prefetch: Vec::new(),
            retry: Retry::default(),
            idempotency_keys: None,
        }
    }

    /// Sets the isolation level. [`Isolation::SerializableSnapshot`] by default.
    pub const fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// Adds keys that are read before the first attempt, and before each later attempt that starts
    /// without a snapshot: in one request, unless they exceed the backend's limit of operations. A
    /// key that the closure neither reads nor writes cannot conflict.
    pub fn prefetch<K: IntoBytes>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.prefetch.extend(keys.into_iter().map(IntoBytes::into_bytes));
        self
    }

    /// Sets the budget for attempts.
    pub const fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Records every attempt of these transactions, for a checker of isolation. `coord-testkit` has
    /// a recorder and a checker.
    ///
    /// An attempt is recorded when it ends, also if its future is dropped. An attempt that has
    /// failed, or has yielded to a conflict queue, is recorded if it has read anything: its closure
    /// has seen that. See [`recording`](crate::recording).
    ///
    /// [`Client::record_transactions`](Client::record_transactions) does the same for all
    /// transactions of a client, and has an example.
    pub fn record(mut self, recorder: impl AttemptRecorder) -> Self {
        self.client = self.client.record_transactions(recorder);
        self
    }

    /// Applies each transaction exactly once: resolves a commit whose response was lost.
    ///
    /// Each commit that writes also puts an idempotency key, a small key under `coord/stm/` on the
    /// lease of `session`. Transactions reuse these keys, so keep this `Stm` or its clones, and do
    /// not create one for each transaction. A transaction that was dropped during its commit leaves
    /// one key behind. The keys are deleted with the lease.
    ///
    /// When the session is lost, a transaction that writes fails with [`StmError::Lost`]. Without
    /// this option, a commit whose response was lost fails with [`StmError::OutcomeUnknown`].
    pub fn exactly_once(mut self, session: &Session) -> Self {
        self.idempotency_keys = Some(IdempotencyKeys::new(session));
        self
    }
}

/// A transaction that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "callers destructure it")]
pub struct Committed<T> {
    /// The value that the closure returned.
    pub value: T,
    /// How the transaction was committed.
    pub info: CommitInfo,
}

/// How a transaction was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitInfo {
    /// The revision of the writes. Without writes:
    ///
    /// - at the strong levels, the snapshot revision;
    /// - at the weak levels, the newest revision of a read; at `RepeatableReads`, if the
    ///   transaction has read several keys or a range, the revision at which the commit validated
    ///   them;
    /// - without reads, [`Revision::ZERO`].
    pub revision: Revision,
    /// The number of attempts. An attempt that entered a conflict queue before it had sent its
    /// commit does not count.
    pub attempts: u32,
    /// The conflicts of all attempts.
    pub conflicts: Vec<Conflict>,
    /// Whether the response of the commit was lost, and its idempotency key showed that it was
    /// applied.
    pub resolved: bool,
}
