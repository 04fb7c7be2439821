//! Messages as they are put, taken at most once, and read from the dead letters.

use std::time::Duration;

use bytes::Bytes;

use super::keys::Place;
use crate::kv::{IntoBytes, KeyValue, Revision};

/// A message to put into a [`MessageQueue`](super::MessageQueue). Bytes and texts convert into a
/// message with the default priority and without a delay.
///
/// ```
/// use coord_core::recipes::Message;
/// use std::time::Duration;
///
/// let reminder = Message::new("call back").priority(10).delay(Duration::from_secs(3600));
/// assert_eq!(Message::from("invoice").priority, Message::DEFAULT_PRIORITY);
/// assert_eq!(reminder.delay, Some(Duration::from_secs(3600)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The payload. It may have [`Limits::max_request_bytes`](crate::kv::Limits::max_request_bytes)
    /// less 1 KiB and 12 times the length of the name of the queue: a little less than 1.5 MiB with
    /// etcd's default.
    pub payload: Bytes,
    /// The priority: messages with a lower number are taken first.
    pub priority: u16,
    /// How long no taker receives the message, in whole seconds; `None` is no delay.
    pub delay: Option<Duration>,
}

impl Message {
    /// The priority of messages that have set none: there is room before and after them.
    pub const DEFAULT_PRIORITY: u16 = 100;

    /// A message with the default priority and without a delay.
    pub fn new(payload: impl IntoBytes) -> Self {
        let payload = payload.into_bytes();
        Self { payload, priority: Self::DEFAULT_PRIORITY, delay: None }
    }

    /// Sets the priority. Messages with a lower number are taken first.
    #[must_use]
    pub const fn priority(mut self, priority: u16) -> Self {
        self.priority = priority;
        self
    }

    /// Sets how long no taker receives the message. Whole seconds, at least one. The store counts
    /// the time, so no clocks have to agree; it may deliver later.
    #[must_use]
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }
}

impl<B: IntoBytes> From<B> for Message {
    fn from(payload: B) -> Self {
        Self::new(payload)
    }
}

/// A message that was taken at most once, and deleted from the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TakenMessage {
    /// The payload.
    pub payload: Bytes,
    /// The priority.
    pub priority: u16,
    /// The revision of its put: messages of one priority are ordered by it.
    pub put_revision: Revision,
}

impl TakenMessage {
    pub(super) fn of(place: &Place, kv: KeyValue) -> Self {
        let put_revision = kv.create_revision;
        Self { payload: kv.value, priority: place.priority(), put_revision }
    }
}

/// A message that was given up after too many attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The payload.
    pub payload: Bytes,
    /// The priority.
    pub priority: u16,
    /// How often the message was delivered.
    pub attempts: u32,
    /// The key.
    pub key: Bytes,
    /// The revision at which the message was given up.
    pub revision: Revision,
}

/// How many messages a queue has, as of one revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageCounts {
    /// Messages that a taker can take now.
    pub ready: u64,
    /// Messages in delivery, and messages whose delay has not passed.
    pub claimed: u64,
    /// Dead letters.
    pub dead: u64,
}
