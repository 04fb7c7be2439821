//! The message queue: messages that producers put, and that takers take in order.
//!
//! | key | what it is |
//! |---|---|
//! | `NAME/messages/<priority>/<section>/<id>` | a message; the value is the payload; no lease |
//! | `NAME/messages-claimed/<id>` | its claim, on the lease of a taker's session, or of a delay |
//! | `NAME/dead/<priority>/<section>/<id>/<attempts>` | a dead letter |
//! | `NAME/section` | the number of the current section is its mod revision |
//! | `NAME/takers/<lease>-<n>` | a taker that waits |
//!
//! A message is ready while it has no claim. So nothing has to be moved when a taker crashes: the
//! store deletes the claim with the lease, and the message is ready again, at its old place. A
//! delay is a claim too, on a lease without keep-alives: the store counts the time.
//!
//! ```text
//! producer       taker A              taker B            messages  claims
//! put m1, m2                                             m1 m2
//!                claims m1                               m1 m2     m1 (A)
//!                                     claims m2          m1 m2     m1 (A) m2 (B)
//!                                     acknowledges m2    m1        m1 (A)
//!                crashes              waits              m1        m1 (A)
//!                lease expires        claims m1          m1        m1 (B)
//! ```
//!
//! - `put.rs`: order by sections, and how a message is put once; `delay.rs`: the leases of delays;
//! - `take.rs`: claims, and the wait of takers; `window.rs`: the next messages in memory;
//! - `delivery.rs`, `unknown_end.rs`: what a taker does with a message; `dead.rs`: dead letters.

mod dead;
mod delay;
mod delivery;
mod error;
mod keys;
mod message;
mod put;
mod take;
mod unknown_end;
mod window;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use bytes::Bytes;

use crate::kv::{IntoBytes, Revision};
use crate::session::Session;
use crate::stm::IdempotencyKeys;
pub use delivery::Delivery;
pub use error::MessageQueueError;
use keys::Keys;
pub use message::{DeadLetter, Message, MessageCounts, TakenMessage};
use window::Window;

/// How often a message is delivered, unless [`MessageQueue::max_attempts`] is called.
const MAX_ATTEMPTS: NonZeroU32 = NonZeroU32::new(10).expect("10 is not zero");

/// A queue of messages by name, which all processes that use the name share.
///
/// Create the handle once and clone it: takers on clones of one handle share what they have read.
///
/// - **Order**: by priority, lower numbers first, and then by the create revision: no message is
///   taken before another ready one of its priority whose put was acknowledged before its own
///   began, unless both are taken at the same time. A message that becomes ready again keeps its
///   place; takers notice it within one second.
/// - **At least once**: [`take`](Self::take) returns a [`Delivery`]. If the taker does not
///   acknowledge it, the message is ready again when the delivery is released or dropped, or its
///   session ends.
/// - **At most once**: [`take_at_most_once`](Self::take_at_most_once) deletes the message before it
///   returns it.
/// - **Put once**: a message whose response was lost is not put twice.
/// - **Dead letters**: a message that was delivered [`max_attempts`](Self::max_attempts) times
///   without an acknowledgement is moved to the dead letters, so it does not block later messages.
///
/// ```
/// use coord_core::recipes::{Message, MessageQueue};
/// use coord_core::{Client, Session};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
/// let mails = MessageQueue::new(&session, "mails");
/// mails.put("newsletter").await?;
/// mails.put(Message::new("password reset").priority(1)).await?;
///
/// let delivery = mails.take().await?; // waits for a message
/// assert_eq!(delivery.payload(), "password reset");
/// delivery.acknowledge().await?;
///
/// let delivery = mails.try_take().await?.expect("one message is ready");
/// assert_eq!((&delivery.payload()[..], delivery.attempts()), (&b"newsletter"[..], 1));
/// delivery.release().await?; // not processed: ready again
/// assert_eq!(mails.take().await?.attempts(), 2);
/// # Ok(())
/// # }
/// ```
///
/// Source: etcd 3.5 `client/v3/experimental/recipes/queue.go` and `priority_queue.go` for the
/// order; the visibility timeout and the dead letters of Amazon SQS for deliveries.
#[derive(Clone)]
pub struct MessageQueue {
    shared: Arc<Shared>,
    max_attempts: NonZeroU32,
}

/// What the clones of a handle share.
struct Shared {
    session: Session,
    keys: Keys,
    window: Window,
    idempotency_keys: IdempotencyKeys,
    /// The beginning of the ids of messages that this handle puts, and of the values of its claims.
    /// No other handle has it.
    id: String,
    /// The number of the next message or delay.
    next_id: AtomicU64,
    next_claim: AtomicU64,
    /// The current section, as far as the handle knows.
    section: AtomicI64,
}

impl MessageQueue {
    /// The queue `name`, for producers and takers on `session`. It sends nothing.
    ///
    /// # Names
    /// A queue owns the keys under `name/messages/`, `name/messages-claimed/`, `name/dead/` and
    /// `name/takers/`, and the key `name/section`: create no others there. A queue `name/x` is
    /// another queue, unless `x` is one of these words.
    pub fn new(session: &Session, name: impl IntoBytes) -> Self {
        let mut suffix = session.key_suffix();
        // Another handle with this suffix would put messages with the same ids, and claims with the
        // same values.
        suffix.retire();
        let shared = Shared {
            session: session.clone(),
            keys: Keys::new(name.into_bytes()),
            window: Window::default(),
            idempotency_keys: IdempotencyKeys::new(session),
            id: format!("{}-{suffix}", session.lease_id()),
            next_id: AtomicU64::new(0),
            next_claim: AtomicU64::new(0),
            section: AtomicI64::new(0),
        };
        Self { shared: Arc::new(shared), max_attempts: MAX_ATTEMPTS }
    }

    /// Sets how often a message is delivered, at most, before it becomes a dead letter; 10 unless
    /// set. All takers of a queue should set the same number: the taker that finds the message
    /// decides.
    #[must_use]
    pub fn max_attempts(self, max_attempts: NonZeroU32) -> Self {
        Self { max_attempts, ..self }
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &Bytes {
        self.shared.keys.name()
    }

    /// Returns the session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.shared.session
    }

    /// Puts a message. Returns the revision of the put.
    ///
    /// While the store is unavailable, it sends the request again until the session is lost. To
    /// bound that, wrap it in `tokio::time::timeout`.
    ///
    /// # Cost
    /// 1 request; 2 if a section has begun since the last put of this handle, about once in 64
    /// messages of the queue, and for the first put of a handle in a queue that has sections. So
    /// with 64 producers or more nearly each put costs 2. A message with a delay costs 1 more, to
    /// request a lease. A request whose response was lost costs 1 more, to determine its outcome.
    ///
    /// # Errors
    /// - `InvalidDelay`, `PayloadTooLarge`: nothing was sent.
    /// - `OutcomeUnknown` if the session was lost while the request was in flight: the message may
    ///   be in the queue, or not.
    /// - `Lost`, or the error of the backend: the message was not put.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the message was put.
    ///
    /// Poll the future or drop it. One that is not polled may delay takers on clones of this handle
    /// by 2 s.
    pub async fn put(
        &self,
        message: impl Into<Message> + Send,
    ) -> Result<Revision, MessageQueueError> {
        let message = message.into();
        self.put_all([message]).await
    }

    /// Puts messages in one transaction: all or none. Those of one priority are taken in the order
    /// given.
    ///
    /// A batch may have two messages less than the limit of operations of the backend, and half of
    /// that if a message has a delay. The payloads together must fit into one request.
    ///
    /// Cost: as one [`put`](Self::put), and 1 request for each further delay.
    ///
    /// # Errors
    /// As [`put`](Self::put); `InvalidBatch` for no or too many messages: nothing was sent.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the messages were put: all or none.
    pub async fn put_all(
        &self,
        messages: impl IntoIterator<Item = impl Into<Message>> + Send,
    ) -> Result<Revision, MessageQueueError> {
        let messages: Vec<Message> = messages.into_iter().map(Into::into).collect();
        self.check_batch(&messages)?;
        match self.put_batch(&messages, None).await? {
            Some(revision) => Ok(revision),
            None => unreachable!("only a dead letter can be gone"),
        }
    }

    /// Takes the first message at least once. Waits until there is one.
    ///
    /// Takers that wait form a queue of their own, so a message wakes one of them. A taker that
    /// comes while others wait may take a message before them.
    ///
    /// # Cost
    /// 1 request, the claim. The first take of a handle, and one in at most 256 takes, costs 1
    /// more; so does a take after more than one second, after a release of this handle, after a
    /// put with a lower priority number, or after another process has taken the same message. If
    /// more than 256 messages that are claimed or delayed are before the first ready one, reads
    /// are more frequent and need 2 or more requests each. A take that waits costs 5 requests and
    /// a watch; behind another taker that waits, up to 2 more and another watch.
    ///
    /// A claim compares all messages with a lower priority number, and etcd loads them with their
    /// values: many such messages in delivery or with a delay make it expensive.
    ///
    /// # Errors
    /// - `Lost` if the session is lost.
    /// - The error of the backend. No message is lost: if one was claimed, the claim is deleted in
    ///   the background, and the message is ready again. That attempt counts.
    ///
    /// # Cancel safety
    /// Dropping the future leaves all messages in the queue: a claim is deleted in the background.
    ///
    /// Poll the future or drop it. A future that is not polled may be the first of the takers that
    /// wait, and may have claimed a message: it delays the other takers, of other processes too,
    /// until its session ends. So does a taker that crashes, until its lease expires.
    pub async fn take(&self) -> Result<Delivery, MessageQueueError> {
        let deliveries = self.claim_or_wait(1).await?;
        Ok(first(deliveries))
    }

    /// Takes the first message at least once; `None` if no message is ready.
    ///
    /// Cost: as [`take`](Self::take) without a wait.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    ///
    /// # Cancel safety
    /// As [`take`](Self::take).
    pub async fn try_take(&self) -> Result<Option<Delivery>, MessageQueueError> {
        Ok(self.claim_ready(1).await?.pop())
    }

    /// Takes up to `max` messages at least once, in one transaction. Waits until there is one, but
    /// not for more.
    ///
    /// One transaction has room for a third of the limit of operations of the backend: 42 messages
    /// with etcd's default limit. A batch has no more than that, whatever `max` is.
    ///
    /// Cost: as one [`take`](Self::take).
    ///
    /// # Errors
    /// As [`take`](Self::take); `InvalidBatch` if `max` is zero: nothing was sent.
    ///
    /// # Cancel safety
    /// As [`take`](Self::take).
    pub async fn take_batch(&self, max: usize) -> Result<Vec<Delivery>, MessageQueueError> {
        let limit = self.batch_max();
        if max == 0 {
            return Err(MessageQueueError::InvalidBatch { count: max, limit });
        }
        self.claim_or_wait(max.min(limit)).await
    }

    /// Takes the first message at most once: deletes it, and returns it. Waits until there is one.
    ///
    /// Cost: as [`take`](Self::take).
    ///
    /// # Errors
    /// As [`take`](Self::take), and `TakeUnknown` if a message may have been deleted: then it is
    /// lost.
    ///
    /// # Cancel safety
    /// If the future is dropped, a message may be lost. Use [`take`](Self::take) if each message
    /// must be processed.
    pub async fn take_at_most_once(&self) -> Result<TakenMessage, MessageQueueError> {
        Ok(first(self.claim_or_wait(1).await?))
    }

    /// Takes the first message at most once; `None` if no message is ready.
    ///
    /// Cost: as [`take`](Self::take) without a wait.
    ///
    /// # Errors
    /// As [`take_at_most_once`](Self::take_at_most_once).
    ///
    /// # Cancel safety
    /// As [`take_at_most_once`](Self::take_at_most_once).
    pub async fn try_take_at_most_once(&self) -> Result<Option<TakenMessage>, MessageQueueError> {
        Ok(self.claim_ready(1).await?.pop())
    }
}

/// The one item of a claim that was not empty.
fn first<T>(claimed: Vec<T>) -> T {
    match claimed.into_iter().next() {
        Some(first) => first,
        None => unreachable!("a claim that waits returns at least one message"),
    }
}

impl fmt::Debug for MessageQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name().escape_ascii();
        write!(f, "MessageQueue(\"{name}\" on {:?})", self.session())
    }
}
