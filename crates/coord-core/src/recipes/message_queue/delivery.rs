//! Deliveries: messages that a taker processes, until it acknowledges or releases them.
//!
//! Each end of a delivery deletes the claim. So the missing claim after an unknown outcome shows
//! that some end was applied, or that another client deleted the claim, but not which end:
//!
//! ```text
//! release: applied, response lost          the claim is deleted, the message is ready
//! acknowledge: the claim is missing        it must not succeed: the message is delivered again
//! ```
//!
//! The delivery remembers the operations whose outcome is unknown. A missing claim confirms these
//! operations only, and an acknowledgement only if the message does not exist any more.

use std::fmt;

use bytes::Bytes;

use super::MessageQueue;
use super::keys::Place;
use super::window::attempts;
use crate::error::{LossReason, Outcome, PrimitiveError, ReleaseError};
use crate::key_watch::range_with_retry;
use crate::kv::{Delete, FencingToken, KeyValue, Op, Put, Range, Revision};
use crate::queue::{KeyGuard, held_methods, key_guard_methods};

/// A delivery of a message: no other taker receives it until the delivery ends.
///
/// [`acknowledge`](Self::acknowledge) deletes the message. [`release`](Self::release), dropping the
/// delivery, and the loss of its session make the message ready again, at its old place.
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
}

/// The requests to end a delivery whose outcome is unknown, by their operations.
#[derive(Debug, PartialEq, Eq)]
enum UnknownEnd {
    None,
    /// One request, or several with the same operations.
    Of(Vec<Op>),
    /// Requests with different operations: a missing claim confirms none of them.
    Several,
}

impl UnknownEnd {
    /// Notes that the outcome of a request with these operations is unknown.
    fn note(&mut self, ops: &[Op]) {
        match self {
            Self::None => *self = Self::Of(ops.to_vec()),
            Self::Of(noted) if noted == ops => {}
            Self::Of(_) | Self::Several => *self = Self::Several,
        }
    }

    /// Whether each request that may have been applied has these operations.
    fn is_of(&self, ops: &[Op]) -> bool {
        matches!(self, Self::Of(noted) if noted == ops)
    }
}

impl Delivery {
    /// The delivery of a message that `guard` has claimed.
    pub(super) const fn new(
        queue: MessageQueue,
        guard: KeyGuard,
        place: Place,
        message: KeyValue,
    ) -> Self {
        Self { queue, guard, place, message, unknown: UnknownEnd::None }
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
        let mut all: Vec<Op> = vec![Delete::new(self.key()).into()];
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
    /// the delivery had ended before.
    ///
    /// # Cancel safety
    /// Dropping the future releases the delivery all the same, in the background.
    pub async fn release(mut self) -> Result<(), ReleaseError<Self>> {
        let (keys, attempts) = (&self.queue.shared.keys, self.attempts());
        let ops: Vec<Op> = if attempts >= self.queue.max_attempts.get() {
            let dead = Put::new(keys.dead_letter(&self.place, attempts), self.payload());
            vec![Delete::new(self.key()).into(), dead.into()]
        } else {
            Vec::new()
        };
        match self.end(ops).await {
            Ok(()) => {
                // The place of the message is before the window.
                self.queue.shared.window.clear();
                Ok(())
            }
            Err(cause) => Err(ReleaseError::new(self, cause)),
        }
    }

    /// Deletes the claim, with further operations, if the delivery has not ended.
    async fn end(&mut self, ops: Vec<Op>) -> Result<(), PrimitiveError> {
        let ownership = self.guard.ownership().clone();
        ownership.set_released(true);
        let delete = Op::Delete(Delete::new(ownership.key()));
        let ended = ownership.while_in_queue([delete].into_iter().chain(ops.iter().cloned()));
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
