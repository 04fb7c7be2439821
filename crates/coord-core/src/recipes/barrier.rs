//! The barrier: one process holds it, and any number of others wait until it is released.
//!
//! The key is the name itself, as in Go's recipe, but on the lease of the holder's session, so that
//! the barrier of a holder that crashes does not stay held.
//!
//! ```text
//! holder                     waiter                      key `deploy`
//! hold: create the key                                   a1-0 @5
//!                            wait: it exists; watch it   a1-0 @5
//! release: delete @5                                     -
//!                            event: deleted              -
//! ```
//!
//! All attempts to hold have the same key, and each has a value of its own: the lease, and a key
//! suffix. A dropped attempt may create the key late, so its session deletes the key if it has the
//! value of that attempt. So it leaves the key of a later attempt alone.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use crate::client::Client;
use crate::error::{PrimitiveError, ReleaseError, Result};
use crate::key_watch::{next_batch, range_with_retry, watch_deletions};
use crate::kv::{Compare, IntoBytes, Range, Revision, Txn, Watch, Watcher};
use crate::queue::{KeyGuard, held_methods, key_guard_methods};
use crate::retry_request::RETRY_PAUSE_MIN;
use crate::session::Session;

/// A watch that delivers nothing for this time may have fallen silent: the waiter reads the key.
const READ_AFTER: Duration = Duration::from_secs(30);

/// A barrier by name: while a process holds it, all others that call [`wait`](Self::wait) wait.
///
/// ```
/// use coord_core::recipes::Barrier;
/// use coord_core::{Client, Session};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(MemBackend::new());
/// let session = Session::builder(&client).open().await?;
/// let deploy = Barrier::new(&client, "deploy");
///
/// let held = deploy.hold(&session).await?.expect("no other process holds it");
/// let waiting = tokio::spawn({
///     let deploy = deploy.clone();
///     async move { deploy.wait().await }
/// });
/// held.release().await?; // or drop it: then it is released in the background
/// waiting.await??;
/// # Ok(())
/// # }
/// ```
///
/// Source: etcd 3.5 `client/v3/experimental/recipes/barrier.go`, with its faults fixed.
#[derive(Clone, Debug)]
pub struct Barrier {
    client: Client,
    key: Bytes,
}

impl Barrier {
    /// The barrier `name`. Its only key is `name`.
    pub fn new(client: &Client, name: impl IntoBytes) -> Self {
        Self { client: client.clone(), key: name.into_bytes() }
    }

    /// Returns the name, which is the key.
    #[must_use]
    pub const fn name(&self) -> &Bytes {
        &self.key
    }

    /// Holds the barrier, until the guard is released or dropped, or the session is lost. `None` if
    /// it is held already, which is no error. The client of the session must have the same store
    /// and namespace as the client of the barrier.
    ///
    /// # Errors
    /// - `Lost` if the session is lost.
    /// - The error of the backend.
    ///
    /// # Cancel safety
    /// Dropping the future leaves no key behind, as long as the session lives.
    pub async fn hold(&self, session: &Session) -> Result<Option<BarrierGuard>, PrimitiveError> {
        let mut suffix = session.key_suffix();
        suffix.retire();
        let value: Bytes = format!("{}-{suffix}", session.lease_id()).into();
        let mut guard = KeyGuard::with_value(session, self.key.clone(), value.clone());
        let put = guard.put(&value);
        let create = Txn::new().when([Compare::absent(&self.key)]).and_then([put]);
        let is_held = guard.create(create).await?.succeeded;
        Ok(is_held.then_some(BarrierGuard { guard, may_be_released: false }))
    }

    /// Resumes the barrier of a former process on the lease that `session` has
    /// [adopted](crate::session::SessionBuilder::lease); `None` if the former process did not hold
    /// it. Otherwise waiters would wait as long as the adopter lives.
    ///
    /// Call it once in each process: a second call returns a guard of the same key. It costs 1
    /// request.
    ///
    /// ```
    /// use coord_core::{Client, Session, recipes::Barrier};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = Client::new(MemBackend::new());
    /// let deploy = Barrier::new(&client, "deploy");
    /// let old = Session::builder(&client).open().await?;
    /// let _held = deploy.hold(&old).await?;
    /// let lease = old.orphan().await?;
    ///
    /// let new = Session::builder(&client).lease(lease).open().await?;
    /// let resumed = deploy.resume(&new).await?.expect("left by the former process");
    /// resumed.release().await?;
    /// deploy.wait().await?;
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
    pub async fn resume(&self, session: &Session) -> Result<Option<BarrierGuard>, PrimitiveError> {
        let backend = &**session.backend();
        let read =
            async { Ok(range_with_retry(backend, Range::new(&self.key).keys_only()).await?) };
        let read = session.while_held(read).await?;
        session.check_deadline().await?;
        let Some(kv) = read.kvs.first().filter(|kv| session.has_adopted(kv)) else {
            return Ok(None);
        };
        let mut guard = KeyGuard::existing(session, self.key.clone(), kv.create_revision);
        guard.set_armed(true);
        Ok(Some(BarrierGuard { guard, may_be_released: false }))
    }

    /// Waits until the barrier is not held. It returns at once if it is not held now. It returns
    /// also if the barrier is released and held again meanwhile.
    ///
    /// While the store is unavailable, it keeps waiting. To bound the wait, wrap it in
    /// `tokio::time::timeout`.
    ///
    /// # Errors
    /// The error of the backend, if it is not retryable.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn wait(&self) -> Result<()> {
        let backend = &**self.client.backend();
        let mut held: Option<Revision> = None;
        let mut watcher: Option<Watcher> = None;
        loop {
            let read = range_with_retry(backend, Range::new(&self.key).keys_only()).await?;
            let Some(kv) = read.kvs.first() else { return Ok(()) };
            if *held.get_or_insert(kv.create_revision) != kv.create_revision {
                return Ok(());
            }
            if watcher.is_none() {
                let watch = watch_deletions(backend, Watch::new(&self.key)).await?;
                let may_have_missed = watch.header().revision > read.header.revision;
                watcher = Some(watch);
                if may_have_missed {
                    continue;
                }
            }
            let Some(deletions) = &mut watcher else { continue };
            match next_deletion(deletions, kv.create_revision).await? {
                Wakeup::Deleted => return Ok(()),
                Wakeup::ReadDue => {}
                Wakeup::WatchEnded => {
                    watcher = None;
                    sleep(RETRY_PAUSE_MIN).await;
                }
            }
        }
    }
}

/// Why a waiter wakes up.
enum Wakeup {
    Deleted,
    ReadDue,
    WatchEnded,
}

/// Waits for the deletion of the key with the create revision `created`.
async fn next_deletion(watcher: &mut Watcher, created: Revision) -> Result<Wakeup> {
    loop {
        let batch = tokio::select! {
            biased;
            batch = next_batch(watcher) => batch?,
            () = sleep(READ_AFTER) => return Ok(Wakeup::ReadDue),
        };
        match batch {
            Some(batch) if batch.events.is_empty() || batch.revision <= created => {}
            Some(_) => return Ok(Wakeup::Deleted),
            None => return Ok(Wakeup::WatchEnded),
        }
    }
}

/// The guard of a held [`Barrier`]. Dropping it releases the barrier, in the background;
/// [`release`](Self::release) waits for the confirmation.
#[derive(Debug)]
#[must_use = "dropping the guard releases the barrier"]
pub struct BarrierGuard {
    guard: KeyGuard,
    /// Whether an earlier release may have deleted the key.
    may_be_released: bool,
}

impl BarrierGuard {
    held_methods!("the barrier");
    key_guard_methods!("the barrier");

    /// Returns the key: the name of the barrier.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        self.guard.ownership().key()
    }

    /// Releases the barrier, and waits for the confirmation.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the guard: release again, or drop it, and the session task
    /// continues to delete the key. Its cause is `Lost` if the barrier was lost before.
    ///
    /// # Cancel safety
    /// Dropping the future releases the barrier all the same, in the background.
    pub async fn release(mut self) -> Result<(), ReleaseError<Self>> {
        match self.guard.release(&mut self.may_be_released).await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }
}
