//! The wait queue that locks and elections are built on.
//!
//! A queue is a set of keys under one name. A [`Contender`] is one key, on the lease of its
//! session. Contenders are ordered by the create revisions of their keys, which are also their
//! fencing tokens. The first contender is the holder. Each waiter waits for its *predecessor* only,
//! so a release wakes one waiter, not all.
//!
//! - **Enqueue**: one transaction creates the key and reads a few contenders ahead, newest first.
//! - **Wait**: watch the predecessor's key *from now on*, then read the position, unless the
//!   store's revision shows that nothing was written since the last read (`wait.rs`).
//! - **Release**: delete the key, on the condition that its create revision is unchanged. If the
//!   successor uses the same client, read its position in the same transaction
//!   (`shared/handoff.rs`).
//!
//! ```text
//! A                         B (another client)                 queue
//! enqueue: first                                               A@5
//!                           enqueue: behind A                  A@5 B@6
//!                           watch A from now on; store at 7
//!                           read, because 7 > 6: A and B exist A@5 B@6
//! release                   event: A was deleted at 8          B@6
//!                           read: B@6 exists, no predecessor   B@6
//! ```
//!
//! The read after the registration of the watch makes the wait safe: if A was released in between,
//! the read shows it; otherwise the watch delivers it. The read after the event makes success
//! certain: a contender reports success only after it has read its own key, with its own create
//! revision, and no predecessor.
//!
//! **No key stays behind.** The key guard is armed before the enqueue is sent (`key_guard.rs`).
//! After a dropped future, an error or an unknown outcome, the session task deletes the key. The
//! exception is [`WaitQueue::enqueue_by_lease`], whose key all contenders of a lease share.
//!
//! # Cost
//!
//! | operation | requests |
//! |---|---|
//! | enqueue into an empty queue | 1 |
//! | release | 1 |
//! | request the release of the holder | 2 |
//! | wait for a release request | 1, and one watch |
//! | wait behind a contender of the same client | 0; 1 if release and enqueue overlap in time |
//! | wait behind a contender of another client | 1 or 2, and one watch |
//! | the key of a predecessor that was never first is deleted | 1 |
//! | child names, such as `p/q` for `p`, hide the predecessor | 1 more per read |
//! | `try_enqueue` into a queue in use | 1, and nothing is written |
//!
//! Recipes such as semaphores use the same keys with another wait: contenders that are admitted by
//! a rule over the keys ahead of them (`admission/mod.rs`).
//!
//! A wait of more than a quarter of a second also watches the waiter's own key and, behind a
//! contender of the same client, the predecessor's key. A wait reads the position once in each TTL.

pub(crate) mod admission;
mod contender;
mod foreign;
mod group;
mod held_methods;
mod key_guard;
mod keys;
mod lease_keyed;
mod position;
mod release_request;
mod wait;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tracing::Instrument as _;

use crate::error::{LossReason, PrimitiveError};
use crate::kv::{Compare, IntoBytes, Op, OpResponse, Txn};
use crate::session::Session;
use crate::telemetry::queue as events;
pub use contender::Contender;
pub use foreign::is_foreign;
pub(crate) use group::ContenderGroup;
pub(crate) use held_methods::{contender_methods, held_methods, impl_held, key_guard_methods};
pub(crate) use key_guard::KeyGuard;
pub use key_guard::Ownership;
pub(crate) use keys::QueueKeys;
use position::Position;
pub use release_request::ReleaseRequest;

/// The guard of an acquired contender. The guards of a mutex, of a leadership, of a read-write
/// lock, of permits of a semaphore and of a shard implement it.
pub trait Held: fmt::Debug + Send + Sync + 'static {
    /// The contender.
    #[doc(hidden)]
    fn contender(&self) -> &Contender;

    /// The contender, to be released.
    #[doc(hidden)]
    fn into_contender(self) -> Contender;
}

/// Runs `future` until `lost` returns the reason of a loss, which drops `future`.
pub(crate) async fn run_until_lost<F: Future + Send>(
    lost: impl Future<Output = LossReason> + Send,
    future: F,
) -> Result<F::Output, LossReason> {
    tokio::select! {
        biased;
        reason = lost => Err(reason),
        output = future => Ok(output),
    }
}

/// How long a waiter waits before it watches its own key, and the key of a predecessor of the same
/// client.
///
/// If a lock is acquired a thousand times a second, two watches for each wait would be most of the
/// work, and the read before success checks the waiter's own key anyway. A waiter that waits longer
/// must be notified at once when another client deletes either key.
const WATCH_AFTER: Duration = Duration::from_millis(250);

/// How often `try_enqueue` checks whether all keys belong to child names. After that it enqueues.
const MAX_TRY_READS: usize = 4;

/// A queue of contenders, first come, first served.
///
/// [`Mutex`](crate::Mutex) and [`Election`](crate::Election) are built on it. Use it to build
/// primitives of your own.
///
/// ```
/// use coord_core::{Client, Session, queue::WaitQueue};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
/// let printer = WaitQueue::new(&session, "printer");
///
/// let mut report = printer.enqueue("report.pdf").await?;
/// let mut photo = printer.enqueue("photo.png").await?;
/// report.acquired().await?;
/// assert!(report.fencing_token() < photo.fencing_token());
///
/// report.release().await?;
/// photo.acquired().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct WaitQueue {
    session: Session,
    keys: QueueKeys,
    /// The primitive that uses the queue, for log lines, spans and metrics.
    kind: &'static str,
}

impl WaitQueue {
    /// The queue `name`, for contenders of `session`. A child name, such as `p/q` for `p`, is
    /// another queue. A queue with child names sometimes costs a further read.
    pub fn new(session: &Session, name: impl IntoBytes) -> Self {
        Self::of_kind("queue", session, name)
    }

    pub(crate) fn of_kind(kind: &'static str, session: &Session, name: impl IntoBytes) -> Self {
        Self { session: session.clone(), keys: QueueKeys::new(name), kind }
    }

    /// Returns the session.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> Bytes {
        self.keys.name()
    }

    /// Enqueues a contender. `value` is the value of its key, which other clients can read.
    ///
    /// # Errors
    /// - `Lost` if the session is lost.
    /// - The error of the backend.
    ///
    /// In either case no key stays in the queue while the session lives.
    ///
    /// # Cancel safety
    /// Dropping the future removes the contender from the queue.
    pub async fn enqueue(&self, value: impl IntoBytes + Send) -> Result<Contender, PrimitiveError> {
        let value = value.into_bytes();
        loop {
            let mut guard = self.new_guard();
            let enqueue = Txn::new()
                .when([Compare::absent(guard.ownership().key())])
                .and_then([Op::Put(guard.put(&value)), Op::Range(self.keys.read_newest())]);
            let enqueued = guard.create(enqueue).await?;
            if let Some(read) = enqueued.responses.last().and_then(OpResponse::as_range) {
                let position = Position::read(&self.keys, &guard.ownership().entry(), read);
                // The contender's own key is the newest. If the read does not show it, the position
                // is read again.
                let position = position.unwrap_or(Position::Unknown);
                return Ok(Contender::new(self.clone(), guard, enqueued.header, position));
            }
            // Another owner of the lease has created this key.
            guard.retire_suffix();
        }
    }

    /// Enqueues a contender and waits until it is first, in the span of a wait.
    pub(crate) async fn acquire(
        &self,
        value: impl IntoBytes + Send,
    ) -> Result<Contender, PrimitiveError> {
        let span = events::wait_span(self.kind, &self.name());
        let acquire = async {
            let mut contender = self.enqueue(value).await?;
            contender.acquired().await?;
            Ok(contender)
        };
        acquire.instrument(span).await
    }

    /// Enqueues a contender if the queue is empty. Otherwise it returns `None` and writes nothing.
    ///
    /// Keys of child names cost a second request, more than five of them a third. If other clients
    /// create such keys so fast that no read shows whether this queue is empty, the contender is
    /// enqueued, and removed again if it has a predecessor.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    ///
    /// # Cancel safety
    /// Dropping the future removes the contender from the queue.
    pub async fn try_enqueue(
        &self,
        value: impl IntoBytes + Send,
    ) -> Result<Option<Contender>, PrimitiveError> {
        let value = value.into_bytes();
        let mut is_empty = Compare::absent(self.keys.range());
        let mut read = self.keys.read_some();
        for _ in 0..MAX_TRY_READS {
            let mut guard = self.new_guard();
            let put = guard.put(&value);
            let enqueue = Txn::new().when([is_empty]).and_then([put]).or_else([read]);
            let response = guard.create(enqueue).await?;
            if response.succeeded {
                let (queue, header) = (self.clone(), response.header);
                return Ok(Some(Contender::new(queue, guard, header, Position::First)));
            }
            let found = response.responses.iter().find_map(OpResponse::as_range);
            if found.is_some_and(|found| found.kvs.iter().any(|kv| self.keys.owns(&kv.key))) {
                return Ok(None);
            }
            // All keys of the read belong to child names.
            read = self.keys.read_all();
            is_empty = self.keys.still_empty(found, response.header.revision);
        }
        let mut contender = self.enqueue(value).await?;
        if contender.position == Position::Unknown {
            self.session.while_held(contender.refresh()).await?;
            self.session.check_deadline().await?;
        }
        Ok(contender.position.is_first().then_some(contender))
    }

    /// Whether a key belongs to this queue, and not to a child name.
    pub(crate) fn owns(&self, key: &[u8]) -> bool {
        self.keys.owns(key)
    }

    fn new_guard(&self) -> KeyGuard {
        let suffix = self.session.key_suffix();
        let key = self.keys.key(self.session.lease_id(), &suffix);
        KeyGuard::new(&self.session, key, suffix)
    }
}

impl fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WaitQueue(\"{}\" on {:?})", self.name().escape_ascii(), self.session)
    }
}
