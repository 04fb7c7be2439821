//! Transactions over any keys, written as ordinary code.
//!
//! [`Stm::run`] calls a closure with a [`Transaction`], lets it read, compute and write, and
//! commits what it wrote if nothing that it read has changed; otherwise it calls the closure again.
//! Nothing is locked, and nothing is written before the commit.
//!
//! ```text
//! A                            B                           balance of x
//! get x: 100                                               100 @7
//!                              get x: 100
//!                              put x 90
//!                              commit, if x is as at 7     90 @8
//! put x 80
//! commit, if x is as at 7
//!   it is not; x is 90 @8                                  90 @8
//! (again) get x: 90
//! put x 70
//! commit, if x is as at 8                                  70 @9
//! ```
//!
//! A conflict costs one request, for the commit that fails brings what the next attempt needs.
//! Transactions of one process that conflict on the same keys take turns from then on, so that many
//! at work on one key are no slower than one. What may happen between transactions at which level
//! is told at [`Isolation`].

mod commit;
mod error;
mod isolation;
mod marker;
mod reads;
mod retry;
mod run;
mod seen;
mod transaction;
mod turns;
mod value;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::backend::KvBackend;
use crate::error::Error;
use crate::kv::{IntoBytes, Revision};
use crate::loss::LossReason;
use crate::session::Session;
pub use error::{Conflict, StmError};
pub use isolation::Isolation;
use marker::{Markers, Slot};
pub use retry::Retry;
pub use transaction::Transaction;
#[cfg(feature = "json")]
pub use value::Json;
pub use value::Value;

/// Transactions on `backend`.
///
/// What Go's do not promise and these do: they are tried again only within a budget, at the strong
/// levels no attempt sees a state that never was, and a panic stays where it is.
///
/// ```
/// use coord_core::{Client, Stm};
/// use coord_mem::MemBackend;
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let kv = Client::new(MemBackend::new());
/// kv.put("ada", "100").await?;
/// kv.put("bob", "20").await?;
///
/// let stm = Stm::new(&kv);
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
/// assert_eq!(kv.get("bob").await?.expect("just put").value, "50");
/// # Ok(())
/// # }
/// ```
///
/// Source: etcd 3.5 `client/v3/concurrency/stm.go`.
pub fn stm(backend: Arc<dyn KvBackend>) -> Stm {
    Stm {
        backend,
        isolation: Isolation::default(),
        prefetch: Vec::new(),
        retry: Retry::default(),
        markers: None,
        hooks: None,
    }
}

/// How transactions are run. Made by [`stm()`], and to be used again.
#[derive(Clone)]
#[must_use = "nothing is run before `run`"]
pub struct Stm {
    backend: Arc<dyn KvBackend>,
    isolation: Isolation,
    prefetch: Vec<Bytes>,
    retry: Retry,
    markers: Option<Markers>,
    hooks: Option<Arc<dyn Hooks>>,
}

impl Stm {
    /// What transactions may see of each other. [`Isolation::SerializableSnapshot`] unless set.
    pub const fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// Reads these keys before the first attempt, in one request. Those that an attempt does not
    /// ask for do not count.
    pub fn prefetch<K: IntoBytes>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.prefetch.extend(keys.into_iter().map(IntoBytes::into_bytes));
        self
    }

    /// How often to try.
    pub const fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Tells what became of a commit whose answer was lost, so that it is applied exactly once.
    ///
    /// Each commit then puts a small key under `coord/stm/` on the session's lease: one operation
    /// and one compare more, and no request. There are as many such keys as transactions of this
    /// `Stm` and its clones were ever under way at once, and one more for each that was cut off
    /// while it committed; they go with the session. So keep the `Stm`, and do not make one for
    /// each transaction. When the session is lost, transactions that write end with
    /// [`StmError::Lost`]. Without this a commit whose answer is lost is
    /// [`StmError::OutcomeUnknown`].
    pub fn exactly_once(mut self, session: &Session) -> Self {
        self.markers = Some(Markers::new(session));
        self
    }

    /// Is told what happens to transactions, to count or to log it.
    pub fn hooks(mut self, hooks: Arc<dyn Hooks>) -> Self {
        self.hooks = Some(hooks);
        self
    }
}

impl fmt::Debug for Stm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stm")
            .field("isolation", &self.isolation)
            .field("prefetch", &self.prefetch)
            .field("retry", &self.retry)
            .field("markers", &self.markers)
            .finish_non_exhaustive()
    }
}

/// Is told what happens to transactions. It cannot change what happens.
pub trait Hooks: Send + Sync {
    /// An attempt, counted from 1, has conflicted.
    fn conflicted(&self, attempt: u32, conflicts: &[Conflict]) {
        let _ = (attempt, conflicts);
    }

    /// A transaction has committed.
    fn committed(&self, receipt: &Receipt) {
        let _ = receipt;
    }
}

/// A transaction that has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "to be taken apart")]
pub struct Committed<T> {
    /// What the closure returned.
    pub value: T,
    /// How it went.
    pub receipt: Receipt,
}

/// How a transaction went.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The revision of its writes; if it wrote nothing, the newest that it has read at. At the
    /// strong levels all that it has read is as of that one.
    pub revision: Revision,
    /// How many attempts it took. One that let others go first, before anything of it was sent,
    /// does not count.
    pub attempts: u32,
    /// What the attempts before the last one conflicted on.
    pub conflicts: Vec<Conflict>,
    /// Whether the answer to the commit was lost, and its marker told that it was applied.
    pub resolved: bool,
}

/// What an attempt that is not to be the last has come to.
enum Again {
    /// Conflicts, and what the store has instead.
    Conflicts(Vec<Conflict>, transaction::Known),
    /// Others wait in the conflict queues of `contended`. Nothing was sent.
    Queue { contended: Vec<Bytes>, read: Vec<Bytes>, known: Option<transaction::Known> },
    /// The session of the idempotency keys is lost; nothing was written.
    Lost(LossReason),
    /// An error that another attempt may not meet.
    Failed(Error),
}
