//! The distributed semaphore: a limited number of permits, across processes.
//!
//! A holder has a key `NAME/permits/<lease>-<n>` on the lease of its session, whose value is its
//! number of permits. The key `coord/limit/NAME`, without a lease, is the limit. It is not below
//! the name, because contenders of Go's package for a lock `NAME` wait for every key there. There
//! is no counter: the permits that are taken are those of the keys that exist, so a holder that
//! ends in any way returns its permits, with its key.
//!
//! Contenders are admitted in the order in which they enqueued, by the rule of `rule.rs`. The wait
//! is that of `queue/admission/mod.rs`.

mod error;
mod permits;
mod rule;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use tracing::Instrument as _;

use crate::kv::{Compare, CompareOp, IntoBytes, OpResponse, Put, Range, Txn};
use crate::queue::admission::{
    AdmissionEnqueue, AdmissionRule as _, Ahead, Former, MAX_ADMISSION_READS, Scope, Verdict,
};
use crate::queue::{Contender, QueueKeys, WaitQueue};
use crate::session::Session;
use crate::telemetry::queue as events;
pub use error::SemaphoreError;
pub use permits::SemaphorePermits;
pub use rule::admitted;
use rule::{PermitRule, free, number, stored_limit};

/// The prefix of the keys of all limits.
const LIMIT_PREFIX: &[u8] = b"coord/limit/";

/// The key of the stored limit of the semaphore `name`. Its value is a decimal number.
///
/// ```
/// use coord_core::recipes::semaphore::limit_key;
///
/// assert_eq!(limit_key("downloads"), "coord/limit/downloads");
/// ```
#[must_use]
pub fn limit_key(name: impl IntoBytes) -> Bytes {
    [LIMIT_PREFIX, &name.into_bytes()].concat().into()
}

/// A distributed semaphore by name: all processes that use the name share its permits.
///
/// A `Semaphore` is a cheap handle. Clones share its limit.
///
/// - **All or nothing**: [`acquire`](Self::acquire) waits until all requested permits are free, and
///   takes none before.
/// - **First come, first served**: a contender for many permits is not overtaken by later
///   contenders for fewer, so it is not starved.
/// - **No permit is lost**: if a holder's session ends, its permits are free when the store has
///   deleted its key, within one watch event.
/// - **One limit**: it is stored by the first contender. A handle with another limit fails with
///   [`SemaphoreError::LimitDiffers`], because clients that disagree about the limit exclude
///   nothing.
///
/// ```
/// use coord_core::{Client, Session, recipes::Semaphore};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
/// let downloads = Semaphore::new(&session, "downloads", 4);
///
/// let large = downloads.acquire(3).await?;
/// assert_eq!(downloads.available().await?, 1);
/// assert!(downloads.try_acquire(2).await?.is_none(), "does not wait; `None` is no error");
/// large.release().await?; // or drop it: then it is released in the background
/// assert!(downloads.try_acquire(2).await?.is_some());
/// # Ok(())
/// # }
/// ```
///
/// Source: Apache Curator's `InterProcessSemaphoreV2`, without its faults; no counterpart in Go's
/// packages.
#[derive(Clone)]
pub struct Semaphore {
    name: Bytes,
    queue: WaitQueue,
    limit_key: Bytes,
    scope: Scope,
    limit: Arc<AtomicU32>,
}

impl Semaphore {
    /// The semaphore `name` with `limit` permits, for holders on `session`. It sends nothing.
    ///
    /// # Names
    /// A semaphore owns all keys under `name/permits/`, and the key of its limit, [`limit_key`]:
    /// create no other keys there. A *foreign key* in `name/permits/`, which no contender has
    /// created, counts for the number that is its value, and for all permits if its value is no
    /// number. coord logs a warning while a contender waits for it. An account of the store that is
    /// limited to keys below its own names needs the key of the limit too.
    ///
    /// A lock of the same name is independent of the semaphore. But contenders of Go's package for
    /// a lock `name`, such as `etcdctl lock`, wait for every key below `name/`, so they wait while
    /// permits are held.
    pub fn new(session: &Session, name: impl IntoBytes, limit: u32) -> Self {
        let name = name.into_bytes();
        let permits = Bytes::from([&name[..], b"/permits"].concat());
        let limit_key = limit_key(&name);
        let scope = Scope::of_queues([QueueKeys::new(&permits)]).with_setting(limit_key.clone());
        let queue = WaitQueue::of_kind("semaphore", session, permits);
        Self { name, queue, limit_key, scope, limit: Arc::new(AtomicU32::new(limit)) }
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.name.clone()
    }

    /// Waits for `permits` permits, behind all contenders that were enqueued before.
    ///
    /// To bound the wait, wrap it in `tokio::time::timeout`. While the store is unavailable, a
    /// waiter that is enqueued keeps waiting until the session is lost.
    ///
    /// # Cost
    /// One request if the permits are free, and one more if no limit is stored yet. A wait
    /// registers two watches, and reads the keys ahead if anything was written meanwhile. When the
    /// permits are free, one request confirms them, however many contenders wait. A wait of more
    /// than a quarter of a second also watches the waiter's own key.
    ///
    /// # Errors
    /// - `InvalidPermits` if `permits` is zero or larger than the limit, and `InvalidLimit` if the
    ///   limit of the handle is zero: nothing was sent.
    /// - `LimitDiffers`, or `UnreadableLimit`, if another limit is stored: nothing was written.
    /// - `InvalidPermits` also if the limit is lowered below `permits` during the wait.
    /// - `Lost` as soon as the session is lost, or another client deletes this waiter's key.
    /// - The error of the backend.
    ///
    /// In each case no key stays in the queue while the session lives.
    ///
    /// # Cancel safety
    /// Dropping the future removes the waiter from the queue, and leaves no key behind.
    pub async fn acquire(&self, permits: u32) -> Result<SemaphorePermits, SemaphoreError> {
        let acquire = async {
            let Some(mut contender) = self.enqueue(permits, false).await? else {
                unreachable!("only a try returns no contender");
            };
            contender.acquired().await?;
            if let Some(ahead) = contender.impossible() {
                let limit = stored_limit(ahead).flatten().unwrap_or_else(|| self.own_limit());
                return Err(SemaphoreError::InvalidPermits { permits, limit });
            }
            Ok(SemaphorePermits::of(contender, permits))
        };
        acquire.instrument(events::wait_span("semaphore", &self.queue.name())).await
    }

    /// Acquires `permits` permits if they are free and no contender waits. Otherwise it returns
    /// `None`, which is no error, and writes nothing.
    ///
    /// Cost: 1 request if no permit is taken or the result is `None`, otherwise 2; also 2 if no
    /// limit is stored yet. If other contenders enqueue so fast that their keys change between the
    /// read and the write three times, this contender is enqueued, and removed again if it would
    /// wait.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    /// Dropping the future leaves no key behind.
    pub async fn try_acquire(
        &self,
        permits: u32,
    ) -> Result<Option<SemaphorePermits>, SemaphoreError> {
        let contender = self.enqueue(permits, true).await?;
        Ok(contender.map(|contender| SemaphorePermits::of(contender, permits)))
    }

    /// Resumes the permits of a former process on the lease that this session has
    /// [adopted](crate::session::SessionBuilder::lease): one guard for each of its keys that hold
    /// permits, the oldest first. No other client acquires them in between.
    ///
    /// Keys of contenders that waited are deleted, in the background. So are keys that hold permits
    /// beyond a limit that was lowered since: the store does not show whether they were acquired
    /// before. Call it once in each process, before the first acquisition: a second call returns
    /// guards of the same keys. It costs 1 request.
    ///
    /// ```
    /// use coord_core::{Client, Session, recipes::Semaphore};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new(MemBackend::new());
    /// let old = Session::builder(&client).open().await?;
    /// let _held = Semaphore::new(&old, "downloads", 4).acquire(3).await?;
    /// let lease = old.orphan().await?;
    ///
    /// let new = Session::builder(&client).lease(lease).open().await?;
    /// let downloads = Semaphore::new(&new, "downloads", 4);
    /// let resumed = downloads.resume().await?;
    /// assert_eq!(resumed[0].permits(), 3);
    /// assert_eq!(downloads.available().await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - `LimitDiffers`, or `UnreadableLimit`, if another limit is stored.
    /// - `Lost` if the session is lost.
    /// - The error of the backend, if it is not retryable.
    ///
    /// In each case nothing was changed.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn resume(&self) -> Result<Vec<SemaphorePermits>, SemaphoreError> {
        let former = Former::read(self.queue.session(), &self.scope).await?;
        let limit = self.own_limit();
        self.check_limit(&former.all(), limit)?;
        let mut held = Vec::new();
        for kv in former.newest_first(&self.queue) {
            let Some(permits) = number(&kv.value) else { continue };
            let rule = Arc::new(PermitRule { scope: self.scope.clone(), permits, limit });
            let contender = former.contender(&self.queue, (kv, None), rule);
            if contender.is_admitted() {
                held.push(SemaphorePermits::of(contender, permits));
            }
        }
        held.reverse();
        Ok(held)
    }

    /// Reads how many permits [`try_acquire`](Self::try_acquire) could acquire now: the limit, less
    /// the permits of all keys. Permits that a contender waits for count as taken, because a later
    /// contender waits behind it. It costs 1 request.
    ///
    /// # Errors
    /// `UnreadableLimit`; otherwise the error of the backend.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn available(&self) -> Result<u32, SemaphoreError> {
        let read = Txn::new().and_then(self.scope.reads(None));
        let response = self.queue.session().client().txn(read).await?;
        let reads = response.responses.into_iter().filter_map(OpResponse::into_range);
        let all = Ahead::all(&self.scope, response.header.revision, reads);
        let limit = self.check_readable(&all)?.unwrap_or_else(|| self.own_limit());
        Ok(free(&all, limit))
    }

    /// Reads the stored limit: that of this handle, if none is stored yet.
    ///
    /// # Errors
    /// `UnreadableLimit`; otherwise the error of the backend.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn limit(&self) -> Result<u32, SemaphoreError> {
        let read = self.queue.session().client().range(Range::new(&self.limit_key)).await?;
        let all = Ahead::all(&self.scope, read.header.revision, [read]);
        Ok(self.check_readable(&all)?.unwrap_or_else(|| self.own_limit()))
    }

    /// Stores another limit, and uses it for this handle and its clones. It costs 1 request.
    ///
    /// A higher limit admits waiters at once. A lower limit takes nothing from holders: no
    /// contender is admitted until enough permits are released. Other handles keep their limit, and
    /// their next calls of `acquire` and `try_acquire` fail with `LimitDiffers`; a contender that
    /// waits for more permits than the new limit fails with `InvalidPermits`.
    ///
    /// ```
    /// use coord_core::{Client, Session, recipes::Semaphore};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
    /// let downloads = Semaphore::new(&session, "downloads", 1);
    /// let _first = downloads.acquire(1).await?;
    /// let (second, raised) = tokio::join!(downloads.acquire(1), downloads.set_limit(2));
    /// raised?;
    /// println!("acquired {} permit", second?.permits());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A call of this handle, or of a clone, that overlaps this one may fail with `LimitDiffers`:
    /// repeat it.
    ///
    /// # Errors
    /// - `InvalidLimit` if the limit is zero: nothing was sent.
    /// - The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the limit was stored: call it again.
    pub async fn set_limit(&self, limit: u32) -> Result<(), SemaphoreError> {
        if limit == 0 {
            return Err(SemaphoreError::InvalidLimit { limit });
        }
        self.queue.session().client().put(&self.limit_key, limit.to_string()).await?;
        self.limit.store(limit, Ordering::Relaxed);
        Ok(())
    }

    /// The limit of this handle.
    fn own_limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Enqueues a contender. With `only_if_admitted`, it returns `None` and writes nothing if the
    /// contender would have to wait.
    async fn enqueue(
        &self,
        permits: u32,
        only_if_admitted: bool,
    ) -> Result<Option<Contender>, SemaphoreError> {
        let limit = self.own_limit();
        match (permits, limit) {
            (_, 0) => return Err(SemaphoreError::InvalidLimit { limit }),
            (0, _) => return Err(SemaphoreError::InvalidPermits { permits, limit }),
            _ if permits > limit => return Err(SemaphoreError::InvalidPermits { permits, limit }),
            _ => {}
        }
        let rule = Arc::new(PermitRule { scope: self.scope.clone(), permits, limit });
        let mut is_stored = true;
        // The condition under which a try is surely admitted.
        let mut unchanged = only_if_admitted.then(|| self.scope.is_empty());
        let mut reads = 0;
        loop {
            let value = permits.to_string().into_bytes();
            let enqueue = AdmissionEnqueue::new(&self.queue, &rule, value.into())
                .when(unchanged.clone().unwrap_or_default());
            let stored = limit.to_string();
            let enqueue = if is_stored {
                enqueue.when([Compare::value(&self.limit_key, CompareOp::Equal, stored)])
            } else {
                let store = Put::new(&self.limit_key, stored);
                enqueue.when([Compare::absent(&self.limit_key)]).and_put(store)
            };
            let found = match enqueue.send().await? {
                Ok(contender) => {
                    let is_wanted = !only_if_admitted || contender.is_admitted();
                    return Ok(is_wanted.then_some(contender));
                }
                Err(found) => found,
            };
            if self.own_limit() != limit && self.check_readable(&found)? == Some(self.own_limit()) {
                // `set_limit` of this handle, or of a clone, has changed the limit meanwhile.
                return Box::pin(self.enqueue(permits, only_if_admitted)).await;
            }
            is_stored = self.check_limit(&found, limit)?;
            if unchanged.is_some() {
                if rule.verdict(&found) != Verdict::Admitted {
                    return Ok(None);
                }
                reads += 1;
                unchanged = (reads < MAX_ADMISSION_READS)
                    .then(|| self.scope.no_put_since(found.revision()));
            }
        }
    }

    /// Checks that the stored limit is `given`. Returns whether a limit is stored.
    fn check_limit(&self, found: &Ahead, given: u32) -> Result<bool, SemaphoreError> {
        match self.check_readable(found)? {
            Some(stored) if stored != given => {
                Err(SemaphoreError::LimitDiffers { name: self.name(), stored, given })
            }
            stored => Ok(stored.is_some()),
        }
    }

    /// The stored limit, if there is one.
    fn check_readable(&self, found: &Ahead) -> Result<Option<u32>, SemaphoreError> {
        match (stored_limit(found), found.setting()) {
            (Some(None), Some(kv)) => {
                let (key, value) = (kv.key.clone(), kv.value.clone());
                Err(SemaphoreError::UnreadableLimit { key, value })
            }
            (stored, _) => Ok(stored.flatten()),
        }
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("name", &format_args!("\"{}\"", self.name.escape_ascii()))
            .field("limit", &self.own_limit())
            .finish_non_exhaustive()
    }
}
