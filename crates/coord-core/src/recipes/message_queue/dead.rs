//! Dead letters, and the counts of messages.

use super::message::{DeadLetter, Message, MessageCounts};
use super::{MessageQueue, MessageQueueError};
use crate::kv::{Compare, CompareOp, Delete, KeyValue, OpResponse, Range, Txn};

impl MessageQueue {
    /// Reads the first dead letters, at most `limit`, by priority and then roughly by age. A limit
    /// of 0 reads all of them.
    ///
    /// Cost: 1 request.
    ///
    /// # Errors
    /// The error of the backend.
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    pub async fn dead_letters(&self, limit: u64) -> Result<Vec<DeadLetter>, MessageQueueError> {
        let range = Range::new(self.shared.keys.dead_letters()).limit(limit);
        let read = self.session().client().range(range).await?;
        Ok(read.kvs.into_iter().filter_map(|kv| self.dead_letter(kv)).collect())
    }

    fn dead_letter(&self, kv: KeyValue) -> Option<DeadLetter> {
        let (place, attempts) = self.shared.keys.dead(&kv)?;
        let (priority, revision) = (place.priority(), kv.mod_revision);
        Some(DeadLetter { payload: kv.value, priority, attempts, key: kv.key, revision })
    }

    /// Puts a dead letter back: it becomes a new message with the same priority, after the messages
    /// of that priority that are in the queue. Returns whether the dead letter still existed.
    ///
    /// Cost: as [`put`](Self::put).
    ///
    /// # Errors
    /// As [`put`](Self::put).
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether it was put back. Call it again: a dead
    /// letter is put back once.
    pub async fn put_back(&self, dead: &DeadLetter) -> Result<bool, MessageQueueError> {
        let message = Message::new(&dead.payload).priority(dead.priority);
        Ok(self.put_batch(&[message], Some(dead)).await?.is_some())
    }

    /// Deletes a dead letter. Returns whether it still existed.
    ///
    /// Cost: 1 request.
    ///
    /// # Errors
    /// The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the dead letter was deleted.
    pub async fn discard(&self, dead: &DeadLetter) -> Result<bool, MessageQueueError> {
        let unchanged = Compare::mod_revision(&dead.key, CompareOp::Equal, dead.revision);
        let delete = Txn::new().when([unchanged]).and_then([Delete::new(&dead.key)]);
        Ok(self.session().client().txn(delete).await?.succeeded)
    }

    /// Counts the messages.
    ///
    /// Cost: 1 request, whose effort for the store grows with the number of messages.
    ///
    /// # Errors
    /// The error of the backend.
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    pub async fn counts(&self) -> Result<MessageCounts, MessageQueueError> {
        let keys = &self.shared.keys;
        let ranges = [keys.messages(), keys.claims(), keys.dead_letters()];
        let count = Txn::new().and_then(ranges.map(|range| Range::new(range).count_only()));
        let response = self.session().client().txn(count).await?;
        let mut counts = response.responses.iter().filter_map(OpResponse::as_range);
        let mut next = || counts.next().map_or(0, |read| u64::try_from(read.count).unwrap_or(0));
        let (messages, claimed, dead) = (next(), next(), next());
        Ok(MessageCounts { ready: messages.saturating_sub(claimed), claimed, dead })
    }
}
