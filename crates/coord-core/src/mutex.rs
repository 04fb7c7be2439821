//! The distributed mutex: one holder at a time, across processes, first come, first served.
//!
//! No lock across processes can keep its holder from acting after it has lost the lock, because a
//! process can be suspended between checking and acting. So a guard reports the loss early
//! ([`MutexGuard::lost`]), stops the work ([`MutexGuard::run_while_held`]), lets the store refuse
//! late writes ([`MutexGuard::txn`]), and has a fencing token by which any other resource can
//! refuse them ([`MutexGuard::fencing_token`]).

use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use crate::error::ReleaseError;
use crate::error::{LossReason, PrimitiveError};
use crate::kv::FencingToken;
use crate::kv::{Compare, Header, IntoBytes, Txn, TxnResponse};
use crate::queue::{Contender, Held, WaitQueue};
use crate::session::Session;
use crate::telemetry::queue as events;

/// A distributed lock by name, shared with every process that uses the name, those that use Go's
/// package included.
///
/// A `Mutex` is a cheap handle. Two handles exclude each other also when they share a session,
/// unlike in Go. Unlock, or close the session, before the program ends: see [`MutexGuard`].
///
/// # Choosing a lock
/// - Within one process: `tokio::sync::Mutex`.
/// - Across processes, for data in the store: this, with [`MutexGuard::txn`].
/// - Across processes, for data elsewhere: this, if the resource checks
///   [`MutexGuard::fencing_token`].
///
/// ```
/// use coord_core::{Client, Mutex, Session};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
/// let mutex = Mutex::new(&session, "ledger");
///
/// let guard = mutex.lock().await?;
/// assert!(mutex.try_lock().await?.is_none(), "held, by this process");
/// guard.unlock().await?;
/// assert!(mutex.try_lock().await?.is_some());
/// # Ok(())
/// # }
/// ```
///
/// Source: etcd 3.5 `client/v3/concurrency/mutex.go`, with its faults fixed.
#[derive(Clone, Debug)]
pub struct Mutex {
    queue: WaitQueue,
}

impl Mutex {
    /// The lock `name`, for holders of `session`. Names that nest, `p` and `p/q`, are two locks.
    ///
    /// # Names
    /// A name owns all keys below `name/`: write no other data there. A data key `jobs/1` beside a
    /// lock named `jobs` counts as its holder. Contenders that enqueue after it wait until the key
    /// is deleted, as in Go, and [`try_lock`](Self::try_lock) returns `None`. A key without a lease
    /// never expires, so the wait may never end. While the key in front has no lease, or is not of
    /// a contender's form, coord logs a warning with the key, once for each wait. A key with a
    /// further slash, such as `jobs/1/state`, belongs to another name and does not block.
    pub fn new(session: &Session, name: impl IntoBytes) -> Self {
        Self { queue: WaitQueue::of_kind("mutex", session, name) }
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.queue.name()
    }

    /// Waits for the lock, behind all contenders that were enqueued before.
    ///
    /// To bound the wait, put it into `tokio::time::timeout`. While the store is unavailable, it
    /// keeps waiting until the session is lost. The [cost](crate::queue) does not grow with the
    /// number of waiters.
    ///
    /// # Errors
    /// `Lost` as soon as the session is lost, or another client deletes this waiter's key;
    /// otherwise the error of the backend. In either case no key stays in the queue.
    ///
    /// # Cancel safety
    /// Dropping the future loses the place in the queue, and leaves no key behind.
    pub async fn lock(&self) -> Result<MutexGuard, PrimitiveError> {
        self.queue.acquire("").await.map(MutexGuard::of)
    }

    /// Acquires the lock if it is free and no contender waits for it. Otherwise returns `None`,
    /// which is no error, and writes nothing, unless locks with child names hide the queue:
    /// [`WaitQueue::try_enqueue`].
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    ///
    /// # Cancel safety
    /// Dropping the future leaves no key behind.
    pub async fn try_lock(&self) -> Result<Option<MutexGuard>, PrimitiveError> {
        Ok(self.queue.try_enqueue("").await?.map(MutexGuard::of))
    }

    /// [`lock`](Self::lock) for code outside async. The runtime that the session was opened on does
    /// the work, and this thread blocks until it has the lock.
    ///
    /// A thread must run that runtime's tasks meanwhile: a multi-thread runtime does so by itself,
    /// a current-thread runtime only while a thread is in its `block_on`. To bound the wait, put
    /// [`lock`](Self::lock) into `tokio::time::timeout`, and that into the runtime's `block_on`.
    ///
    /// ```
    /// use coord_core::{Client, Mutex, Session};
    /// use coord_mem::MemBackend;
    /// use std::thread;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    /// let session = runtime.block_on(Session::builder(&Client::new(MemBackend::new())).open())?;
    /// let mutex = Mutex::new(&session, "ledger");
    ///
    /// let worker = thread::spawn(move || {
    ///     let guard = mutex.blocking_lock()?;
    ///     let token = guard.fencing_token();
    ///     guard.blocking_unlock()?; // or drop it: then it is unlocked in the background
    ///     Ok::<_, coord_core::error::PrimitiveError>(token)
    /// });
    /// println!("held with token {}", worker.join().expect("it does not panic")?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`lock`](Self::lock). `Lost` also if the session's runtime is shut down, before or while
    /// the thread waits, because the session is lost then. `WouldBlockTasks` where a tokio runtime
    /// is entered, as in async code: nothing was sent.
    pub fn blocking_lock(&self) -> Result<MutexGuard, PrimitiveError> {
        let mutex = self.clone();
        block_on(self.queue.session(), async move { mutex.lock().await })
    }
}

/// Runs `future` on the session's runtime, and blocks this thread until it completes.
fn block_on<T: Send + 'static>(
    session: &Session,
    future: impl Future<Output = Result<T, PrimitiveError>> + Send + 'static,
) -> Result<T, PrimitiveError> {
    if Handle::try_current().is_ok() {
        return Err(PrimitiveError::WouldBlockTasks);
    }
    let (reply, result) = oneshot::channel();
    // The owner of the task is this thread, which waits for it.
    session.runtime().spawn(async move {
        // This thread cannot stop waiting.
        let _ = reply.send(future.await);
    });
    // If the runtime is shut down, the task is dropped and the reply with it, as is the session
    // task, which reports this loss then.
    result.blocking_recv().unwrap_or(Err(PrimitiveError::Lost(LossReason::Expired)))
}

/// Guard of a held [`Mutex`]: releases it, and reports its loss.
///
/// Dropping it unlocks in the background; [`unlock`](Self::unlock) waits until that is confirmed.
/// It can be moved into a task.
///
/// # When the program ends
/// The request that a drop sends in the background needs a runtime that still runs. A program that
/// returns from `main`, panics, or exits while it holds the lock leaves its key in the store, and
/// other clients wait until the session's lease expires. Await [`unlock`](Self::unlock) or
/// [`Session::close`] on every way out of `main`, or do the work in
/// [`SessionBuilder::run`](crate::session::SessionBuilder::run), which closes the session when the
/// work has returned, failed or panicked.
#[derive(Debug)]
#[must_use = "dropping the guard unlocks the mutex"]
pub struct MutexGuard {
    contender: Contender,
    /// When the client learned that it holds the lock.
    acquired: Instant,
    /// Open as long as the guard exists.
    span: Span,
}

impl MutexGuard {
    fn of(contender: Contender) -> Self {
        let name = contender.name();
        let span = events::hold_span("mutex", &name, contender.fencing_token().0);
        Self { contender, acquired: Instant::now(), span }
    }

    /// Returns the key that stands for the lock while it is held.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.contender.key()
    }

    /// Returns the session that holds the lock.
    #[must_use]
    pub fn session(&self) -> &Session {
        self.contender.session()
    }

    /// Returns the header of the response by which the lock was acquired.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.contender.header()
    }

    /// Returns the fencing token, a number that is larger for every later holder. The protected
    /// resource can refuse writes with a smaller token than it has seen.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.contender.fencing_token()
    }

    /// Returns a compare that holds as long as the lock is held, for a transaction.
    #[must_use]
    pub fn held_condition(&self) -> Compare {
        self.contender.held_condition()
    }

    /// Applies `txn` if the lock is still held, evaluated by the store in the same step.
    ///
    /// It may have one operation less than the limit of the backend.
    ///
    /// ```
    /// use coord_core::{Client, Mutex, Session, kv::{Put, Txn}};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new(MemBackend::new());
    /// let session = Session::builder(&client).open().await?;
    /// let guard = Mutex::new(&session, "ledger").lock().await?;
    /// guard.txn(Txn::new().and_then([Put::new("balance", "7")])).await?;
    ///
    /// client.delete(guard.key()).await?; // an operator breaks the lock
    /// let late = guard.txn(Txn::new().and_then([Put::new("balance", "8")])).await;
    /// assert!(late.unwrap_err().loss().is_some());
    /// assert_eq!(client.get("balance").await?.expect("put above").value, "7");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Lost` if the lock is lost: nothing was applied. Otherwise the error of the backend.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the transaction was applied.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        self.contender.txn(txn).await
    }

    /// Waits until the lock is lost, and returns why.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        self.contender.lost().await
    }

    /// Returns a token that is cancelled when the lock is lost or released, for code that takes
    /// one. Each call returns a token of its own: cancelling it does nothing to the guard.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.contender.cancellation_token()
    }

    /// Runs `future` while the lock is held; if the lock is lost, `future` is dropped.
    ///
    /// ```
    /// use coord_core::{Client, Mutex, Session, error::LossReason};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
    /// let guard = Mutex::new(&session, "ledger").lock().await?;
    /// assert_eq!(guard.run_while_held(async { 6 * 7 }).await, Ok(42));
    ///
    /// session.close().await?;
    /// let endless = std::future::pending::<()>();
    /// assert_eq!(guard.run_while_held(endless).await, Err(LossReason::Closed));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Why the lock was lost. What `future` had done by then stays done.
    ///
    /// # Cancel safety
    /// Dropping this future drops `future`.
    pub async fn run_while_held<F: Future + Send>(
        &self,
        future: F,
    ) -> Result<F::Output, LossReason> {
        self.contender.run_while_held(future.instrument(self.span.clone())).await
    }

    /// Unlocks, and waits until that is confirmed.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the guard: unlock again, or drop it, and the session task goes on
    /// trying. Its cause is `Lost` if the lock was lost before, or while the request was under way.
    ///
    /// # Cancel safety
    /// Dropping the future unlocks all the same, in the background.
    pub async fn unlock(mut self) -> Result<(), ReleaseError<Self>> {
        match self.contender.try_release().await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }

    /// Unlocks, but not before the lock has been held for `at_least`, counted from when it was
    /// acquired.
    ///
    /// A job that every machine starts by its own clock, and that finishes fast, would otherwise
    /// run again on a machine whose clock is late, because that machine finds the lock free. Hold
    /// the lock for longer than clocks may differ, and have the other machines use
    /// [`Mutex::try_lock`].
    ///
    /// ```
    /// use coord_core::{Client, Mutex, Session};
    /// use coord_mem::MemBackend;
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
    /// if let Some(guard) = Mutex::new(&session, "nightly").try_lock().await? {
    ///     println!("the job has done its work");
    ///     guard.unlock_after(Duration::from_secs(300)).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`unlock`](Self::unlock). `Lost` as soon as the lock is lost during the wait.
    ///
    /// # Cancel safety
    /// Dropping the future unlocks at once, in the background.
    pub async fn unlock_after(self, at_least: Duration) -> Result<(), ReleaseError<Self>> {
        let rest = sleep(at_least.saturating_sub(self.acquired.elapsed()));
        match self.contender.run_while_held(rest).await {
            Ok(()) => self.unlock().await,
            Err(reason) => Err(ReleaseError::new(self, reason.into())),
        }
    }

    /// [`unlock`](Self::unlock) for code outside async: this thread blocks until it is confirmed.
    ///
    /// # Errors
    /// The cause of [`unlock`](Self::unlock)'s error. `WouldBlockTasks` where a tokio runtime is
    /// entered. In each case the guard is dropped, so the lock is released all the same, in the
    /// background.
    pub fn blocking_unlock(self) -> Result<(), PrimitiveError> {
        let session = self.session().clone();
        block_on(&session, async move { Ok(self.unlock().await?) })
    }
}

impl Held for MutexGuard {
    fn contender(&self) -> &Contender {
        &self.contender
    }

    fn into_contender(self) -> Contender {
        self.contender
    }
}
