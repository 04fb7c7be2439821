//! The distributed mutex: one holder at a time across processes, first come, first served.
//!
//! A holder that has lost a distributed lock may still act, because its process can be suspended
//! between a check and an action. A guard has four means against that:
//!
//! | means | method |
//! |---|---|
//! | report the loss early | [`MutexGuard::lost`] |
//! | stop the work | [`MutexGuard::run_while_held`] |
//! | the store rejects late writes | [`MutexGuard::txn`] |
//! | any other resource rejects late writes | [`MutexGuard::fencing_token`] |

mod guard;

use std::slice;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error::{LossReason, PrimitiveError, Result};
use crate::kv::{FencingToken, IntoBytes};
use crate::queue::{ContenderGroup, WaitQueue};
use crate::session::Session;
pub use guard::MutexGuard;

/// A distributed lock by name. All processes that use the name exclude each other, also with Go's
/// package `concurrency`.
///
/// A `Mutex` is a cheap handle. Two handles exclude each other also if they share a session, unlike
/// in Go. Unlock, or close the session, before the program ends: see [`MutexGuard`].
///
/// # Choosing a lock
/// - Within one process: `tokio::sync::Mutex`.
/// - Across processes, for data in the store: this lock, with [`MutexGuard::txn`].
/// - Across processes, for any other resource: this lock, if the resource checks
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
/// assert!(mutex.try_lock().await?.is_none(), "held by this process");
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
    /// The lock `name`, for holders on `session`. A child name, such as `p/q` for `p`, is another
    /// lock.
    ///
    /// # Names
    /// A lock owns all keys under `name/`: create no other keys there. A *foreign key*, which no
    /// contender has created, for example `jobs/1` with a lock `jobs`, counts as its holder:
    /// contenders that are enqueued later wait until the key is deleted, as in Go, and
    /// [`try_lock`](Self::try_lock) returns `None`. A key without a lease never expires, so the
    /// wait may never end. If a contender waits for a foreign key, coord logs a warning with the
    /// key, once for each wait. A key with a further slash, such as `jobs/1/state`, belongs to a
    /// child name and does not block.
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
    /// To bound the wait, wrap it in `tokio::time::timeout`. While the store is unavailable, a
    /// waiter that is enqueued keeps waiting until the session is lost. The [cost](crate::queue)
    /// does not grow with the number of waiters.
    ///
    /// # Errors
    /// - `Lost` as soon as the session is lost, or another client deletes this waiter's key.
    /// - The error of the backend.
    ///
    /// In either case no key stays in the queue while the session lives.
    ///
    /// # Cancel safety
    /// Dropping the future removes the waiter from the queue, and leaves no key behind.
    pub async fn lock(&self) -> Result<MutexGuard, PrimitiveError> {
        self.queue.acquire("").await.map(MutexGuard::of)
    }

    /// Acquires the lock if no contender holds it or waits for it. Otherwise it returns `None`,
    /// which is no error, and writes nothing, with one exception for locks with child names: see
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

    /// Resumes the lock of a former process on the lease that this session has
    /// [adopted](crate::session::SessionBuilder::lease). `None` if the former process did not hold
    /// it. No other client acquires it in between, and the fencing token stays the same.
    ///
    /// Keys of contenders that waited are deleted, in the background. A lock of Go's package is
    /// found too. Call it once in each process, before the first lock: a second call returns a
    /// guard of the same key. It costs 1 request, which reads all keys of the queue.
    ///
    /// ```
    /// use coord_core::{Client, Mutex, Session};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new(MemBackend::new());
    /// let old = Session::builder(&client).open().await?;
    /// let held = Mutex::new(&old, "ledger").lock().await?;
    /// let lease = old.orphan().await?;
    ///
    /// let new = Session::builder(&client).lease(lease).open().await?;
    /// let resumed = Mutex::new(&new, "ledger").resume().await?.expect("left on the lease");
    /// assert_eq!(resumed.fencing_token(), held.fencing_token());
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
    pub async fn resume(&self) -> Result<Option<MutexGuard>, PrimitiveError> {
        let group = ContenderGroup::resume(slice::from_ref(&self.queue)).await?;
        let contender = group.and_then(|group| group.into_contenders().next());
        Ok(contender.map(MutexGuard::of))
    }

    /// Requests the release of the lock from its holder. Returns the fencing token of the holder
    /// that the request is for; `None` if the lock is free, or if a foreign key blocks it.
    ///
    /// The request is advisory: the holder receives it in
    /// [`MutexGuard::release_requested`], and decides. A holder that does not wait for requests,
    /// such as a client of Go's package, ignores it. To take a lock away, use `coord break`.
    ///
    /// ```
    /// use coord_core::{Client, Mutex, Session};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = MemBackend::new();
    /// let session = Session::builder(&Client::new(store.clone())).open().await?;
    /// let guard = Mutex::new(&session, "printer").lock().await?;
    ///
    /// let other = Session::builder(&Client::new(store)).open().await?;
    /// let requested = Mutex::new(&other, "printer").request_release("the printer is moved").await?;
    /// assert_eq!(requested, Some(guard.fencing_token()));
    ///
    /// let request = guard.release_requested().await?;
    /// assert_eq!(request.reason, "the printer is moved");
    /// guard.unlock().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the request was stored.
    pub async fn request_release(&self, reason: &str) -> Result<Option<FencingToken>> {
        self.queue.request_release(reason).await
    }

    /// [`lock`](Self::lock) for synchronous code. The runtime of the session runs the request, and
    /// this thread blocks until the lock is acquired.
    ///
    /// Another thread must run the tasks of that runtime meanwhile: a multi-thread runtime has such
    /// threads, a current-thread runtime only while a thread is in its `block_on`. To bound the
    /// wait, call the runtime's `block_on` with [`lock`](Self::lock) in `tokio::time::timeout`.
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
    ///     guard.blocking_unlock()?; // dropping the guard unlocks it in the background
    ///     Ok::<_, coord_core::error::PrimitiveError>(token)
    /// });
    /// println!("held with token {}", worker.join().expect("it does not panic")?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - As [`lock`](Self::lock).
    /// - `Lost` also if the session's runtime is shut down, before or while the thread waits,
    ///   because the session is lost then.
    /// - `WouldBlockTasks` on a thread that has entered a tokio runtime, as async code has: nothing
    ///   was sent.
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
    // This thread owns the task, and waits for it.
    session.spawn(async move {
        // The receiver exists until the reply is sent, because this thread waits for it.
        let _ = reply.send(future.await);
    });
    // If the runtime is shut down, it drops the task with `reply`, and the session task, which
    // reports this reason in that case.
    result.blocking_recv().unwrap_or(Err(PrimitiveError::Lost(LossReason::Expired)))
}
