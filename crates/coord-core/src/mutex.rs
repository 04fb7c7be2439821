//! A lock that one holder has at a time, across processes, first come, first served.
//!
//! No lock across processes can keep its holder from acting after it has lost the lock: a process
//! can be suspended between looking and acting. What this one can do is to say so early
//! ([`MutexGuard::lost`]), to stop the work ([`MutexGuard::run_while_held`]), to have the store
//! refuse what comes late ([`MutexGuard::txn`]), and to give a number by which any other resource
//! can refuse it too ([`MutexGuard::fencing_token`]).

use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::contender::{Contender, FencingToken, Held, WaitingLine};
use crate::kv::{Compare, Header, IntoBytes, Txn, TxnResponse};
use crate::loss::{LossReason, PrimitiveError};
use crate::session::Session;

/// A lock by name, shared with every process that uses the name, those that use Go's package
/// included.
///
/// A `Mutex` is a handle: make as many as you like. Two handles exclude each other also when they
/// share a session, unlike in Go. Unlock, or close the session, before the program ends: see
/// [`MutexGuard`].
///
/// # Which lock do I want?
/// - Within one process: `tokio::sync::Mutex`.
/// - Across processes, and what it protects is in the store: this, with [`MutexGuard::txn`].
/// - Across processes, and what it protects is elsewhere: this, and have the resource check
///   [`MutexGuard::fencing_token`].
///
/// ```
/// use coord_core::{Mutex, Session};
/// use coord_mem::MemBackend;
/// use std::sync::Arc;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(Arc::new(MemBackend::new())).open().await?;
/// let mutex = Mutex::new(&session, "ledger");
///
/// let guard = mutex.lock().await?;
/// assert!(mutex.try_lock().await?.is_none(), "held, if by ourselves");
/// guard.unlock().await?;
/// assert!(mutex.try_lock().await?.is_some());
/// # Ok(())
/// # }
/// ```
///
/// Source: etcd 3.5 `client/v3/concurrency/mutex.go`, with its faults mended.
#[derive(Clone, Debug)]
pub struct Mutex {
    line: WaitingLine,
}

impl Mutex {
    /// The lock `name`, to be held on `session`. Names that nest, `p` and `p/q`, are two locks.
    ///
    /// # Names
    /// A name owns all keys below `name/`: write no other data there. A data key `jobs/1` beside a
    /// lock named `jobs` counts as its holder. Contenders that enqueue after it wait until the key
    /// is deleted, as in Go, and [`try_lock`](Self::try_lock) returns `None`. A key without a lease
    /// never expires, so the wait may never end. While the key in front has no lease, or is not of
    /// a contender's form, coord logs a warning with the key, once for each wait. A key with a
    /// further slash, such as `jobs/1/state`, belongs to another name and does not block.
    pub fn new(session: &Session, name: impl IntoBytes) -> Self {
        Self { line: WaitingLine::of_kind("mutex", session, name) }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.line.name()
    }

    /// Waits for the lock, behind everybody who came before: one request if it is free; behind one
    /// holder or a thousand, three or four with the unlock, and a watch; one less where the one
    /// before unlocks in the same process, on the same backend; one more if this handle has met
    /// nobody the last eight times.
    ///
    /// To wait no longer than so long, put it into `tokio::time::timeout`.
    ///
    /// # Errors
    /// `Lost` as soon as the session is lost, or somebody deletes this waiter's key; otherwise
    /// what the backend answered. In either case nobody waits for this one any more.
    ///
    /// # Cancel safety
    /// Dropping the future loses the place in the line, and leaves no key behind.
    pub async fn lock(&self) -> Result<MutexGuard, PrimitiveError> {
        let mut contender = self.line.join("").await?;
        contender.wait_turn().await?;
        Ok(MutexGuard::of(contender))
    }

    /// Takes the lock if nobody has it or waits for it: one request, and nothing is written
    /// otherwise. `None` if somebody does, which is no error. Locks below it may cost more, as
    /// [`WaitingLine::try_join`] tells.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    ///
    /// # Cancel safety
    /// Dropping the future leaves no key behind.
    pub async fn try_lock(&self) -> Result<Option<MutexGuard>, PrimitiveError> {
        let contender = self.line.try_join("").await?;
        Ok(contender.map(MutexGuard::of))
    }

    /// [`lock`](Self::lock) for code outside async: it is done on the runtime that the session was
    /// opened on, and the thread blocks until it has the lock.
    ///
    /// Somebody must be running that runtime's tasks meanwhile: a multi-thread runtime does by
    /// itself; a current-thread runtime only while a thread is in its `block_on`.
    ///
    /// To wait no longer than so long, put [`lock`](Self::lock) into `tokio::time::timeout`, and
    /// that into the runtime's `block_on`.
    ///
    /// ```
    /// use coord_core::{Mutex, Session};
    /// use coord_mem::MemBackend;
    /// use std::{sync::Arc, thread};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    /// let session = runtime.block_on(Session::builder(Arc::new(MemBackend::new())).open())?;
    /// let mutex = Mutex::new(&session, "ledger");
    ///
    /// let worker = thread::spawn(move || {
    ///     let guard = mutex.blocking_lock()?;
    ///     let token = guard.fencing_token();
    ///     guard.blocking_unlock()?; // or drop it: then it is unlocked in the background
    ///     Ok::<_, coord_core::PrimitiveError>(token)
    /// });
    /// println!("held with token {}", worker.join().expect("it does not panic")?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`lock`](Self::lock); `Lost` also when the session's runtime is shut down, before or
    /// while the thread waits, for then the session is lost. `WouldBlockTasks` where a tokio
    /// runtime is entered, in async code above all: nothing was sent.
    pub fn blocking_lock(&self) -> Result<MutexGuard, PrimitiveError> {
        let mutex = self.clone();
        blocked(self.line.session(), async move { mutex.lock().await })
    }
}

/// Has `session`'s runtime run `future`, and blocks this thread until it is done.
fn blocked<T: Send + 'static>(
    session: &Session,
    future: impl Future<Output = Result<T, PrimitiveError>> + Send + 'static,
) -> Result<T, PrimitiveError> {
    if Handle::try_current().is_ok() {
        return Err(PrimitiveError::WouldBlockTasks);
    }
    let (reply, answer) = oneshot::channel();
    // Its owner is this thread, which waits for it.
    session.runtime().spawn(async move {
        // This thread cannot stop waiting.
        let _ = reply.send(future.await);
    });
    // If the runtime is shut down, before or meanwhile, the task is dropped and the reply with it,
    // as is the session's keeper: that is the loss which the keeper tells then.
    answer.blocking_recv().unwrap_or(Err(PrimitiveError::Lost(LossReason::Expired)))
}

/// Proof of having been given a [`Mutex`], and the means to notice that it is lost.
///
/// Dropping it unlocks in the background; [`unlock`](Self::unlock) waits until that is confirmed.
/// It can be moved into a task.
///
/// # When the program ends
/// The request that a drop sends in the background needs a runtime that still runs. A program that
/// returns from `main`, panics, or exits while it holds the lock leaves its key in the store, and
/// other clients wait until the session's lease expires. Await [`unlock`](Self::unlock) or
/// [`Session::close`] on every way out of `main`, or do the work in
/// [`SessionBuilder::run`](crate::SessionBuilder::run), which closes the session when the work has
/// returned, failed or panicked.
#[derive(Debug)]
#[must_use = "dropping the guard unlocks the mutex"]
pub struct MutexGuard {
    contender: Contender,
    /// When the client learned that it holds the lock.
    acquired: Instant,
}

impl MutexGuard {
    fn of(contender: Contender) -> Self {
        Self { contender, acquired: Instant::now() }
    }

    /// The key that stands for the lock while it is held.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        self.contender.key()
    }

    /// The session that the lock is held on.
    #[must_use]
    pub const fn session(&self) -> &Session {
        self.contender.session()
    }

    /// The header of the answer by which the lock was had.
    #[must_use]
    pub const fn header(&self) -> Header {
        self.contender.header()
    }

    /// A number that is larger for every later holder: give it to what the lock protects.
    #[must_use]
    pub const fn fencing_token(&self) -> FencingToken {
        self.contender.fencing_token()
    }

    /// Holds in a transaction as long as the lock is held.
    #[must_use]
    pub fn is_owner(&self) -> Compare {
        self.contender.is_owner()
    }

    /// Applies `txn` if the lock is still held, judged by the store in the same step.
    ///
    /// It has one operation less than the backend's limit.
    ///
    /// ```
    /// use coord_core::{KvBackendExt, Mutex, Put, Session, Txn};
    /// use coord_mem::MemBackend;
    /// use std::sync::Arc;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let kv = Arc::new(MemBackend::new());
    /// let session = Session::builder(kv.clone()).open().await?;
    /// let guard = Mutex::new(&session, "ledger").lock().await?;
    /// guard.txn(Txn::new().and_then([Put::new("balance", "7")])).await?;
    ///
    /// kv.delete(guard.key()).await?; // somebody breaks the lock
    /// let late = guard.txn(Txn::new().and_then([Put::new("balance", "8")])).await;
    /// assert!(late.unwrap_err().loss().is_some());
    /// assert_eq!(kv.get("balance").await?.expect("put above").value, "7");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Lost` when the lock is: nothing was applied. Otherwise what the backend answered.
    ///
    /// # Cancel safety
    /// Dropping the future leaves unknown whether the transaction was applied.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResponse, PrimitiveError> {
        self.contender.txn(txn).await
    }

    /// Waits until the lock is lost, and tells why.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn lost(&self) -> LossReason {
        self.contender.lost().await
    }

    /// A token that is cancelled when the lock is lost, or unlocked, for code that takes one. Each
    /// call returns a token of its own: cancelling it does nothing to the guard.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.contender.cancellation_token()
    }

    /// Runs `future` as long as the lock is held; when it is lost, `future` is dropped.
    ///
    /// ```
    /// use coord_core::{LossReason, Mutex, Session};
    /// use coord_mem::MemBackend;
    /// use std::sync::Arc;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = Session::builder(Arc::new(MemBackend::new())).open().await?;
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
    /// Why it was lost. What `future` had done by then stays done.
    ///
    /// # Cancel safety
    /// Dropping it drops `future`.
    pub async fn run_while_held<F: Future + Send>(
        &self,
        future: F,
    ) -> Result<F::Output, LossReason> {
        self.contender.run_while_held(future).await
    }

    /// Gives the lock up: one request, confirmed.
    ///
    /// # Errors
    /// `Lost` when the lock was lost before, or was while the request was on its way: it is not
    /// held any more. What the backend answered otherwise: the session goes on trying.
    ///
    /// # Cancel safety
    /// Dropping the future unlocks all the same, in the background.
    pub async fn unlock(self) -> Result<(), PrimitiveError> {
        self.contender.leave().await
    }

    /// Unlocks, but not before the lock has been held for `at_least`, counted from when it was
    /// acquired.
    ///
    /// A job that every machine starts by its own clock, and that finishes fast, would otherwise
    /// run again on a machine whose clock is late: that machine finds the lock free. Hold it for
    /// longer than clocks may differ, and have the others use [`Mutex::try_lock`].
    ///
    /// ```
    /// use coord_core::{Mutex, Session};
    /// use coord_mem::MemBackend;
    /// use std::{sync::Arc, time::Duration};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = Session::builder(Arc::new(MemBackend::new())).open().await?;
    /// if let Some(guard) = Mutex::new(&session, "nightly").try_lock().await? {
    ///     println!("the job has done its work");
    ///     guard.unlock_after(Duration::from_secs(300)).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`unlock`](Self::unlock). `Lost` as soon as the lock is lost while it is kept.
    ///
    /// # Cancel safety
    /// Dropping the future unlocks at once, in the background.
    pub async fn unlock_after(self, at_least: Duration) -> Result<(), PrimitiveError> {
        let kept = sleep(at_least.saturating_sub(self.acquired.elapsed()));
        self.run_while_held(kept).await?;
        self.unlock().await
    }

    /// [`unlock`](Self::unlock) for code outside async: the thread blocks until it is confirmed.
    ///
    /// # Errors
    /// As [`unlock`](Self::unlock). `WouldBlockTasks` where a tokio runtime is entered: the guard
    /// is dropped, so the lock is given up all the same, in the background.
    pub fn blocking_unlock(self) -> Result<(), PrimitiveError> {
        let session = self.session().clone();
        blocked(&session, self.unlock())
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
