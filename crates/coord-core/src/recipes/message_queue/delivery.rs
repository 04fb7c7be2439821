//! Deliveries: messages that a taker processes, until it acknowledges or releases them.
//!
//! A release with a delay moves the claim to a lease that ends when the delay has passed. The claim
//! keeps its create revision, which is the condition of all requests of the delivery. So a request
//! can be repeated until that lease ends:
//!
//! ```text
//! release_after 60 s: applied, response lost   the claim is on the delay d1
//! release_after 60 s: the same operations      the claim is on the delay d1
//! the session of the taker ends                the claim is on the delay d1
//! d1 ends                                      the claim is deleted, the message is ready
//! ```
//!
//! The lease d1 belongs to the delivery until a release with a delay is confirmed. If the delivery
//! is dropped before, d1 is revoked, and the message is ready at once.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::MessageQueue;
use super::delay::DelayLeases;
use super::keys::Place;
use super::put::check_delay;
use super::unknown_end::UnknownEnd;
use super::window::attempts;
use crate::error::{Error, LossReason, Outcome, PrimitiveError, ReleaseError};
use crate::key_watch::range_with_retry;
use crate::kv::{Delete, FencingToken, KeyValue, LeaseId, Op, Put, Range, Revision};
use crate::queue::{KeyGuard, held_methods, key_guard_methods};

/// A delivery of a message: no other taker receives it until the delivery ends.
///
/// [`acknowledge`](Self::acknowledge) deletes the message. [`release`](Self::release), dropping the
/// delivery, and the loss of its session make the message ready again, at its old place;
/// [`release_after`](Self::release_after) does so after a delay.
///
/// ```
/// use coord_core::kv::Put;
/// use coord_core::{Client, Session, recipes::MessageQueue};
/// use coord_mem::MemBackend;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::new(MemBackend::new());
/// let session = Session::builder(&client).open().await?;
/// let invoices = MessageQueue::new(&session, "invoices");
/// invoices.put("order 7").await?;
///
/// let delivery = invoices.take().await?;
/// let invoice = delivery.run_while_held(async { "invoice of order 7" }).await?;
/// // The result is stored if, and only if, the message is acknowledged.
/// delivery.acknowledge_with([Put::new("invoice/7", invoice)]).await?;
/// assert!(client.get("invoice/7").await?.is_some());
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping the delivery makes the message ready again"]
pub struct Delivery {
    queue: MessageQueue,
    guard: KeyGuard,
    place: Place,
    message: KeyValue,
    unknown: UnknownEnd,
    /// The leases of releases with a delay; `None` before the first one.
    delays: Option<DelayLeases>,
}

impl Delivery {
    /// The delivery of a message that `guard` has claimed.
    pub(super) const fn new(
        queue: MessageQueue,
        guard: KeyGuard,
        place: Place,
        message: KeyValue,
    ) -> Self {
        Self { queue, guard, place, message, unknown: UnknownEnd::None, delays: None }
    }

    held_methods!("the delivery");
    key_guard_methods!("the delivery");

    /// Returns the payload.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.message.value
    }

    /// Returns the priority.
    #[must_use]
    pub fn priority(&self) -> u16 {
        self.place.priority()
    }

    /// Returns how often the message was delivered, this delivery included: at least 1. Deliveries
    /// whose taker crashed count, and so do those whose taker never received the response.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        attempts(&self.message)
    }

    /// Returns the revision of the put: messages of one priority are ordered by it.
    #[must_use]
    pub const fn put_revision(&self) -> Revision {
        self.message.create_revision
    }

    /// Returns the key of the message.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        &self.message.key
    }

    /// Returns the fencing token: larger than those of all earlier deliveries of the message. A
    /// resource that rejects smaller tokens rejects a taker whose delivery was lost.
    #[must_use]
    pub fn fencing_token(&self) -> FencingToken {
        self.guard.ownership().fencing_token()
    }

    /// Acknowledges the delivery: deletes the message. An acknowledgement that succeeds is the only
    /// one of the message. It costs 1 request.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the delivery. If its cause is `Lost`, the message is delivered
    /// again, unless the session was lost while the request was in flight and the request was
    /// applied. After another error, acknowledge again with the same operations: if the failed
    /// request was applied, that succeeds. If a request with an unknown outcome had other
    /// operations, such as a release, and may have ended the delivery, the cause is `Lost`.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the message was acknowledged. If not, it is
    /// ready again.
    pub async fn acknowledge(self) -> Result<(), ReleaseError<Self>> {
        self.acknowledge_with([] as [Op; 0]).await
    }

    /// Acknowledges the delivery, and applies `ops` in the same transaction: for example a put of
    /// the result. They may not change the keys of the queue. There may be two operations less than
    /// the limit of the backend.
    ///
    /// # Errors
    /// As [`acknowledge`](Self::acknowledge). `ops` were applied if, and only if, the message was
    /// acknowledged.
    ///
    /// # Cancel safety
    /// As [`acknowledge`](Self::acknowledge).
    pub async fn acknowledge_with<O: Into<Op>>(
        mut self,
        ops: impl IntoIterator<Item = O> + Send,
    ) -> Result<(), ReleaseError<Self>> {
        let mut all = vec![self.delete_claim(), Delete::new(self.key()).into()];
        all.extend(ops.into_iter().map(Into::into));
        match self.end(all).await {
            Ok(()) => Ok(()),
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }

    /// Releases the delivery: the message is ready again, at its old place. If it was delivered as
    /// often as [`max_attempts`](MessageQueue::max_attempts), it becomes a dead letter. It costs 1
    /// request.
    ///
    /// # Errors
    /// [`ReleaseError`] returns the delivery: release again, or drop it. If its cause is `Lost`,
    /// the delivery had ended before, or the session was lost while the request was in flight.
    ///
    /// # Cancel safety
    /// Dropping the future releases the delivery all the same, in the background.
    pub async fn release(mut self) -> Result<(), ReleaseError<Self>> {
        let ops = self.give_up().unwrap_or_else(|| vec![self.delete_claim()]);
        match self.end(ops).await {
            Ok(()) => {
                // The place of the message is before the window.
                self.queue.shared.window.clear();
                Ok(())
            }
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }

    /// Releases the delivery for a later attempt: the message is ready again when `delay` has
    /// passed, at its old place. If it was delivered as often as
    /// [`max_attempts`](MessageQueue::max_attempts), it becomes a dead letter at once.
    ///
    /// The delay is a whole number of seconds, at least 1. The store counts it from this call, also
    /// when the session of the taker has ended; it may deliver later. Until then the message has no
    /// other taker, and a [`held_condition`](Self::held_condition) of the delivery holds.
    ///
    /// It costs 2 requests, the first of which requests a lease; 1 for a dead letter. If the lease
    /// ends before the second request is applied, both are sent again, and the delay starts again.
    ///
    /// ```
    /// use coord_core::{Client, Session, recipes::MessageQueue};
    /// use coord_mem::MemBackend;
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
    /// let mails = MessageQueue::new(&session, "mails");
    /// mails.put("welcome").await?;
    ///
    /// let delivery = mails.take().await?; // the mail server is down
    /// let delay = Duration::from_secs(10 * u64::from(delivery.attempts()));
    /// delivery.release_after(delay).await?;
    /// assert!(mails.try_take().await?.is_none());
    /// assert_eq!(mails.take().await?.attempts(), 2); // ten seconds later
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ReleaseError`] returns the delivery. If its cause is
    /// [`InvalidDelay`](super::MessageQueueError::InvalidDelay), nothing was sent. If it is `Lost`,
    /// the delivery had ended before, or the session was lost while a request was in flight: then
    /// the message is ready when the lease of the session has ended, or, if the release was
    /// applied, at the latest when the delivery is dropped or the delay has passed.
    ///
    /// After another error, release again with the same delay, or drop the delivery. If the failed
    /// release may have been applied, its delay counts; with another delay, either may count. Or
    /// acknowledge: that succeeds, unless the delay has passed. An earlier acknowledgement whose
    /// outcome is unknown may still be applied until then.
    ///
    /// # Cancel safety
    /// If the future is dropped, the message is ready at once: the delivery is released in the
    /// background.
    ///
    /// Source: the visibility timeout that a consumer of Amazon SQS sets for one message.
    pub async fn release_after(mut self, delay: Duration) -> Result<(), ReleaseError<Self>> {
        match self.end_after(delay).await {
            Ok(()) => Ok(()),
            Err(cause) => {
                if self.unknown == UnknownEnd::None {
                    // Unless the delivery is lost, no request can put the claim on a lease: the
                    // next delay starts anew.
                    self.delays = None;
                }
                Err(ReleaseError::new(self, cause))
            }
        }
    }

    /// Moves the claim to a lease that ends when `delay` has passed.
    async fn end_after(&mut self, delay: Duration) -> Result<(), PrimitiveError> {
        check_delay(delay)?;
        if let Some(ops) = self.give_up() {
            return self.end(ops).await;
        }
        loop {
            let lease = self.grant_delay(delay).await?;
            let claim = Put::new(self.guard.ownership().key(), "delay").lease(lease);
            let ended = self.end(vec![claim.into()]).await;
            let Some(delays) = &mut self.delays else { unreachable!("a lease was granted") };
            match ended {
                Err(PrimitiveError::Backend(Error::LeaseNotFound { .. })) => delays.forget(delay),
                Ok(()) => {
                    delays.set_used(true);
                    return Ok(());
                }
                failed => return failed,
            }
        }
    }

    /// The lease that ends when `delay` has passed, after an earlier request or a new one.
    async fn grant_delay(&mut self, delay: Duration) -> Result<LeaseId, PrimitiveError> {
        let shared = &self.queue.shared;
        let delays = self.delays.get_or_insert_with(|| DelayLeases::new(&shared.session));
        match delays.get(delay) {
            Some(lease) => Ok(lease),
            None => {
                let number = shared.next_id.fetch_add(1, Ordering::Relaxed);
                delays.grant(delay, (&shared.id, number)).await
            }
        }
    }

    /// The operations that make the message a dead letter, after the last attempt.
    fn give_up(&self) -> Option<Vec<Op>> {
        let attempts = self.attempts();
        (attempts >= self.queue.max_attempts.get()).then(|| {
            let dead = self.queue.shared.keys.dead_letter(&self.place, attempts);
            let put = Put::new(dead, self.payload());
            vec![self.delete_claim(), Delete::new(self.key()).into(), put.into()]
        })
    }

    fn delete_claim(&self) -> Op {
        Delete::new(self.guard.ownership().key()).into()
    }

    /// Applies the operations that end the delivery, if it has not ended.
    async fn end(&mut self, ops: Vec<Op>) -> Result<(), PrimitiveError> {
        let ownership = self.guard.ownership().clone();
        ownership.set_released(true);
        let ended = ownership.while_in_queue(ops.iter().cloned());
        match ownership.session().while_held(ended).await {
            Err(PrimitiveError::Backend(error)) => {
                if error.outcome() == Outcome::Unknown {
                    self.unknown.note(&ops);
                }
                ownership.set_released(self.unknown != UnknownEnd::None);
                return Err(error.into());
            }
            Err(lost @ PrimitiveError::Lost(LossReason::KeyDeleted)) => {
                let is_confirmed = self.unknown.is_of(&ops) && self.is_confirmed(&ops).await?;
                self.guard.set_armed(false);
                return if is_confirmed { Ok(()) } else { Err(lost) };
            }
            Err(lost) => {
                self.guard.set_armed(false);
                return Err(lost);
            }
            Ok(_) => {}
        }
        self.guard.set_armed(false);
        Ok(())
    }

    /// Whether the state of the message, after its claim was deleted, is that after `ops`: another
    /// client may have deleted the claim before they arrived.
    async fn is_confirmed(&self, ops: &[Op]) -> Result<bool, PrimitiveError> {
        if !ops.contains(&Op::Delete(Delete::new(self.key()))) {
            return Ok(true);
        }
        let backend = self.session().backend();
        let message = Range::new(self.key()).keys_only();
        let read = async { Ok(range_with_retry(&**backend, message).await?) };
        Ok(self.session().while_held(read).await?.kvs.is_empty())
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("key", &format_args!("\"{}\"", self.key().escape_ascii()))
            .field("attempts", &self.attempts())
            .field("fencing_token", &self.fencing_token())
            .finish_non_exhaustive()
    }
}
