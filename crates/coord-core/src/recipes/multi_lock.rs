//! The multi-lock: several locks, acquired together without a deadlock.
//!
//! A program that locks `a` and then `b`, beside a program that locks `b` and then `a`, ends in a
//! deadlock sooner or later. The usual remedy is an order of the names that every program keeps. A
//! multi-lock needs no order, because one transaction enqueues it for all of its names. So its keys
//! have one create revision, and every wait is for a lower revision:
//!
//! ```text
//! A: lock a, b          B: lock b, a          queue a    queue b
//! enqueue in both                             A@5        A@5
//!                       enqueue in both       A@5 B@6    A@5 B@6
//! holds both            waits for a and b
//! unlock                                      B@6        B@6
//!                       holds both
//! ```
//!
//! The keys are the same as for [`Mutex`](crate::Mutex), so locks of one name and of several
//! exclude each other.

use bytes::Bytes;
use tracing::{Instrument as _, Span};

use crate::error::{LossReason, Outcome, PrimitiveError, ReleaseError};
use crate::kv::{Compare, FencingToken, IntoBytes, Txn, TxnResponse};
use crate::queue::{ContenderGroup, WaitQueue, run_until_lost};
use crate::session::Session;
use crate::telemetry::queue as events;

/// The primitive, for log lines, spans and metrics.
const KIND: &str = "multi_lock";

/// A distributed lock of several names, which are held all or none. Each name is the lock of
/// [`Mutex`](crate::Mutex) with that name.
///
/// It is acquired first come, first served, by the time at which it was enqueued for all of its
/// names. While it waits for one name, it keeps the names that were free, as any waiter keeps its
/// position.
///
/// # Deadlocks
/// No set of multi-locks and mutexes can deadlock, in whatever order the names are given, as long
/// as a task that calls [`lock`](Self::lock) holds no other lock. A task that holds a lock and then
/// waits for another one can deadlock: acquire all names with one multi-lock.
///
/// ```
/// use coord_core::recipes::MultiLock;
/// use coord_core::{Client, Mutex, Session};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
/// let both = MultiLock::new(&session, ["accounts/ada", "accounts/bob"])?;
///
/// let guard = both.lock().await?;
/// assert!(Mutex::new(&session, "accounts/bob").try_lock().await?.is_none());
/// guard.unlock().await?;
/// # Ok(())
/// # }
/// ```
///
/// Source: etcd 3.5 `client/v3/concurrency/mutex.go` for the layout of the keys.
#[derive(Clone, Debug)]
pub struct MultiLock {
    // Invariant: one session, different names, not empty.
    queues: Vec<WaitQueue>,
}

/// The error of invalid names of a [`MultiLock`]. Nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MultiLockError {
    /// No name was given.
    #[error("a multi-lock without names: give at least one name")]
    NoNames,
    /// A name was given twice.
    #[error("the name \"{}\" is given twice: give each name once", name.escape_ascii())]
    DuplicateName {
        /// The name.
        name: Bytes,
    },
    /// A transaction for all names would exceed the limit of the backend.
    #[error(
        "{count} names need transactions of {} operations, at most {max_txn_ops} are allowed: lock \
         at most {} names, or raise the limit of the store",
        count * ContenderGroup::OPS_PER_QUEUE,
        max_txn_ops / ContenderGroup::OPS_PER_QUEUE
    )]
    TooManyNames {
        /// The number of names.
        count: usize,
        /// The largest number of operations in one transaction of the backend.
        max_txn_ops: usize,
    },
}

impl MultiLockError {
    /// Returns whether the request was surely not applied: nothing was sent.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::NoNames | Self::DuplicateName { .. } | Self::TooManyNames { .. } => {
                Outcome::NotApplied
            }
        }
    }

    /// Returns whether the same call may succeed later: the names must change.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NoNames | Self::DuplicateName { .. } | Self::TooManyNames { .. } => false,
        }
    }
}

impl From<MultiLockError> for PrimitiveError {
    fn from(error: MultiLockError) -> Self {
        Self::of_recipe(error)
    }
}

impl MultiLock {
    /// The lock of all `names`, for holders on `session`. A name has two operations in a
    /// transaction: at etcd's default limit of 128 operations, 64 names are allowed.
    ///
    /// # Errors
    /// - `NoNames` if `names` is empty.
    /// - `DuplicateName` if a name is given twice.
    /// - `TooManyNames` if there are more names than the limit of the backend allows.
    pub fn new<N: IntoBytes>(
        session: &Session,
        names: impl IntoIterator<Item = N>,
    ) -> Result<Self, MultiLockError> {
        let queues: Vec<_> =
            names.into_iter().map(|name| WaitQueue::of_kind(KIND, session, name)).collect();
        let (count, max_txn_ops) = (queues.len(), session.client().limits().max_txn_ops);
        if count == 0 {
            return Err(MultiLockError::NoNames);
        }
        if count * ContenderGroup::OPS_PER_QUEUE > max_txn_ops {
            return Err(MultiLockError::TooManyNames { count, max_txn_ops });
        }
        let mut names: Vec<_> = queues.iter().map(WaitQueue::name).collect();
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(MultiLockError::DuplicateName { name: twice[0].clone() });
        }
        Ok(Self { queues })
    }

    /// Returns the names, in the order in which they were given.
    pub fn names(&self) -> impl Iterator<Item = Bytes> {
        self.queues.iter().map(WaitQueue::name)
    }

    /// The names as one text, for spans.
    fn joined_names(&self) -> Bytes {
        self.names().collect::<Vec<_>>().join(&b", "[..]).into()
    }

    /// Waits for all names, behind all contenders of any of them that were enqueued before.
    ///
    /// To bound the wait, wrap it in `tokio::time::timeout`. While the store is unavailable, a
    /// waiter that is enqueued keeps waiting until the session is lost.
    ///
    /// # Errors
    /// - `Lost` as soon as the session is lost, or another client deletes a key of this waiter.
    /// - The error of the backend.
    ///
    /// In either case no key stays in any queue while the session lives.
    ///
    /// # Cancel safety
    /// Dropping the future removes the waiter from all queues, and leaves no key behind.
    pub async fn lock(&self) -> Result<MultiLockGuard, PrimitiveError> {
        let names = self.joined_names();
        let lock = async {
            let mut group = ContenderGroup::enqueue(&self.queues).await?;
            group.acquired().await?;
            Ok::<_, PrimitiveError>(group)
        };
        let group = lock.instrument(events::wait_span(KIND, &names)).await?;
        Ok(MultiLockGuard::new(group, &names))
    }

    /// Acquires all names if no contender holds any of them or waits for it. Otherwise it returns
    /// `None`, which is no error, and writes nothing, with the exception of
    /// [`Mutex::try_lock`](crate::Mutex::try_lock).
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    ///
    /// # Cancel safety
    /// Dropping the future leaves no key behind.
    pub async fn try_lock(&self) -> Result<Option<MultiLockGuard>, PrimitiveError> {
        let group = ContenderGroup::try_enqueue(&self.queues).await?;
        Ok(group.map(|group| MultiLockGuard::new(group, &self.joined_names())))
    }

    /// Resumes the lock of a former process on the lease that this session has
    /// [adopted](crate::session::SessionBuilder::lease). `None` if the former process did not hold
    /// all of these names, acquired together. No other client acquires them in between.
    ///
    /// Keys of a multi-lock that waited for these names are deleted, in the background. Call it
    /// once in each process, before the first lock: a second call returns a guard of the same keys.
    /// It costs 1 request, which reads all keys of the queues.
    ///
    /// ```
    /// use coord_core::recipes::MultiLock;
    /// use coord_core::{Client, Session};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new(MemBackend::new());
    /// let old = Session::builder(&client).open().await?;
    /// let _held = MultiLock::new(&old, ["ada", "bob"])?.lock().await?;
    /// let lease = old.orphan().await?;
    ///
    /// let new = Session::builder(&client).lease(lease).open().await?;
    /// let resumed = MultiLock::new(&new, ["ada", "bob"])?.resume().await?;
    /// resumed.expect("left by the former process").unlock().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - `Lost` if the session is lost.
    /// - The error of the backend, if it is not retryable.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn resume(&self) -> Result<Option<MultiLockGuard>, PrimitiveError> {
        let group = ContenderGroup::resume(&self.queues).await?;
        Ok(group.map(|group| MultiLockGuard::new(group, &self.joined_names())))
    }
}

/// The guard of a held [`MultiLock`]. It reports the loss of any of its names, and unlocks all of
/// them when it is dropped.
///
/// Dropping it unlocks in the background; [`unlock`](Self::unlock) waits for the confirmation. It
/// can be moved into a task. Unlock, or close the session, before the program ends, as with
/// [`MutexGuard`](crate::mutex::MutexGuard).
#[derive(Debug)]
#[must_use = "dropping the guard unlocks the multi-lock"]
pub struct MultiLockGuard {
    group: ContenderGroup,
    /// Open as long as the guard exists.
    span: Span,
}

impl MultiLockGuard {
    fn new(group: ContenderGroup, names: &Bytes) -> Self {
        let span = events::hold_span(KIND, names, group.fencing_token().0);
        Self { group, span }
    }

    /// Returns the holder's keys, in the order of the names.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.group.keys()
    }

    /// Returns the session that holds the lock.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.group.session()
    }

    /// Returns the fencing token, one for all names. For each name, every later holder has a larger
    /// one, also a holder of a [`Mutex`](crate::Mutex) with that name.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.group.fencing_token()
    }

    /// Returns the compares, one for each name, that hold as long as the lock is held.
    pub fn held_conditions(&self) -> impl Iterator<Item = Compare> {
        self.group.held_conditions()
    }

    /// Applies `txn` if all names are still held. The store evaluates that condition in the same
    /// transaction.
    ///
    /// The number of operations that `txn` may have is the limit of the backend, less the number of
    /// names.
    ///
    /// # Errors
    /// - `Lost` if any name is lost: nothing was applied.
    /// - The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the transaction was applied.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        self.group.txn(txn).await
    }

    /// Waits until any name is lost, and returns the reason. The other names stay held until the
    /// guard is dropped. A watch that has fallen silent delays the report by the TTL of the session
    /// at most.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        self.group.lost().await
    }

    /// Runs `future` while all names are held. If any name is lost, `future` is dropped.
    ///
    /// # Errors
    /// The reason of the loss. The side effects of `future` until then remain.
    ///
    /// # Cancel safety
    /// Dropping this future drops `future`.
    pub async fn run_while_held<F: Future + Send>(
        &self,
        future: F,
    ) -> Result<F::Output, LossReason> {
        run_until_lost(self.lost(), future.instrument(self.span.clone())).await
    }

    /// Unlocks all names in one transaction, and waits for the confirmation.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the guard: unlock again, or drop it, and the session task continues
    /// to delete the keys. Its cause is `Lost` if any name was lost before the request or while it
    /// was in flight; the other names are unlocked.
    ///
    /// # Cancel safety
    /// Dropping the future unlocks all the same, in the background.
    pub async fn unlock(mut self) -> Result<(), ReleaseError<Self>> {
        match self.group.try_release().await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }
}
