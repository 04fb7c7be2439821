//! Taking messages: claims, and the wait of a taker that finds none.
//!
//! A taker claims the first ready message. If there is none, it enqueues in the wait queue
//! `NAME/takers`. Only the first taker in that queue watches the messages, so one put wakes one
//! taker. When the first taker has a message, the next one is first.
//!
//! ```text
//! taker A                       taker B                      producer
//! reads: no message
//! enqueue: first                reads: no message
//! watch, then read: none        enqueue: behind A
//!                               waits for A                  put m1
//! event: claims m1
//! releases its queue entry      first: watch, then read      put m2
//!                               event: claims m2
//! ```

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::delivery::Delivery;
use super::message::TakenMessage;
use super::window::{Claiming, READ_LIMIT, ReadyMessage, read_window, ready};
use super::{MessageQueue, MessageQueueError};
use crate::error::{Outcome, PrimitiveError, Result};
use crate::key_watch::{next_batch, range_with_retry};
use crate::kv::{
    Compare, CompareOp, Delete, EventKind, Op, OpResponse, Put, Range, RangeResponse, Revision,
    Txn, TxnResponse, Watch, WatchBatch, Watcher,
};
use crate::queue::{KeyGuard, WaitQueue};
use crate::retry_request::{RETRY_PAUSE_MIN, retry_request};
use crate::session::SessionState;

/// How often the first waiting taker reads the messages, in case its watch has fallen silent.
const READ_AFTER: Duration = Duration::from_secs(30);

/// How long a taker waits for a read of its handle, by another taker or a put. The future that
/// reads may not be polled, so the wait must end.
const SHARED_READ_WAIT: Duration = Duration::from_secs(2);

/// Why the first waiting taker wakes up.
enum Change {
    /// These messages were put. They are the first that are ready if no message was ready before.
    Put(Revision, Vec<ReadyMessage>),
    /// A message may be ready.
    Unknown,
    WatchEnded,
}

/// How a taker claims messages.
pub(super) trait Claim: Sized + Send {
    /// Claims candidates, all or none; `None` if one of them is not ready any more.
    fn claim(
        queue: &MessageQueue,
        claiming: Claiming<'_>,
    ) -> impl Future<Output = Result<Option<Vec<Self>>, MessageQueueError>> + Send;
}

/// At least once: a claim on the lease of the session, which the acknowledgement deletes.
impl Claim for Delivery {
    async fn claim(
        queue: &MessageQueue,
        claiming: Claiming<'_>,
    ) -> Result<Option<Vec<Self>>, MessageQueueError> {
        let keys = &queue.shared.keys;
        let mut guards = Vec::new();
        let mut ops: Vec<Op> = Vec::new();
        for candidate in &claiming.candidates {
            // Each claim has a value of its own, so that the cleanup of an earlier one, whose
            // outcome is unknown, leaves it alone.
            let number = queue.shared.next_claim.fetch_add(1, Ordering::Relaxed);
            let value: Bytes = format!("{}-{number}", queue.shared.id).into();
            let key = keys.claim(&candidate.place);
            let guard = KeyGuard::with_value(queue.session(), key, value.clone());
            let message = keys.message(&candidate.place);
            ops.push(guard.put(&value).into());
            // The version of the message counts the attempts.
            ops.push(Put::new(&message, "").ignore_value().into());
            ops.push(Range::new(message).into());
            guards.push(guard);
        }
        let txn = queue.claim_txn(&claiming).and_then(ops);
        let response = KeyGuard::create_all(&mut guards, txn).await?;
        if !response.succeeded {
            queue.note_refused(claiming, &response);
            return Ok(None);
        }
        let messages = response.responses.into_iter().filter_map(OpResponse::into_range);
        let messages = messages.filter_map(|mut read| read.kvs.pop());
        let claimed = claiming.candidates.iter().zip(guards).zip(messages);
        let deliveries = claimed
            .map(|((candidate, guard), kv)| {
                Self::new(queue.clone(), guard, candidate.place.clone(), kv)
            })
            .collect();
        claiming.claimed();
        Ok(Some(deliveries))
    }
}

/// At most once: the message is deleted before it is returned.
impl Claim for TakenMessage {
    async fn claim(
        queue: &MessageQueue,
        claiming: Claiming<'_>,
    ) -> Result<Option<Vec<Self>>, MessageQueueError> {
        let keys = &queue.shared.keys;
        let message = |candidate: &ReadyMessage| keys.message(&candidate.place);
        let deletes = claiming
            .candidates
            .iter()
            .map(|candidate| Delete::new(message(candidate)).with_prev_kv());
        let txn = queue.claim_txn(&claiming).and_then(deletes);
        let session = queue.session();
        if let SessionState::Lost(reason) = session.state() {
            return Err(reason.into());
        }
        let sent = async { Ok(session.backend().txn(txn).await?) };
        let response = session.while_held(sent).await.map_err(|error| {
            let is_unknown = error.loss().is_some() || error.outcome() == Outcome::Unknown;
            if is_unknown { MessageQueueError::TakeUnknown(error) } else { error.into() }
        })?;
        if !response.succeeded {
            queue.note_refused(claiming, &response);
            return Ok(None);
        }
        let deleted = response.responses.into_iter().filter_map(|op| match op {
            OpResponse::Delete(mut response) => response.prev_kvs.pop(),
            _ => None,
        });
        let taken = claiming.candidates.iter().zip(deleted);
        let taken = taken.map(|(candidate, kv)| Self::of(&candidate.place, kv)).collect();
        claiming.claimed();
        Ok(Some(taken))
    }
}

impl MessageQueue {
    /// How many messages one transaction claims at most.
    pub(super) fn batch_max(&self) -> usize {
        // Three operations for each message; two compares for each, and one for the priority.
        (self.session().client().limits().max_txn_ops / 3).max(1)
    }

    /// Claims up to `max` messages. Waits until there is at least one.
    pub(super) async fn claim_or_wait<T: Claim>(
        &self,
        max: usize,
    ) -> Result<Vec<T>, MessageQueueError> {
        let taken = self.claim_ready(max).await?;
        if !taken.is_empty() {
            return Ok(taken);
        }
        let takers = WaitQueue::of_kind("message_queue", self.session(), self.shared.keys.takers());
        let _first = takers.acquire("").await?;
        let (mut watcher, mut change) = (None, Change::Unknown);
        loop {
            let messages = match &mut watcher {
                Some(messages) => messages,
                None => watcher.insert(self.watch().await?),
            };
            let mut returned = pin!(self.shared.window.returned.notified());
            // Enabled before the read, so that no notification in between is missed.
            returned.as_mut().enable();
            match change {
                Change::Put(revision, put) => self.shared.window.note_put(revision, put),
                Change::Unknown | Change::WatchEnded => self.shared.window.clear(),
            }
            let taken = self.claim_ready(max).await?;
            if !taken.is_empty() {
                return Ok(taken);
            }
            let changed = async {
                tokio::select! {
                    biased;
                    // Before the events: a message that is ready again is older than a new one.
                    () = returned => Ok(Change::Unknown),
                    change = self.next_change(messages) => Ok(change?),
                    () = sleep(READ_AFTER) => Ok(Change::Unknown),
                }
            };
            change = self.session().while_held(changed).await?;
            if matches!(change, Change::WatchEnded) {
                watcher = None;
                self.pause(RETRY_PAUSE_MIN).await?;
            }
        }
    }

    /// Pauses before a request is repeated.
    pub(super) async fn pause(&self, pause: Duration) -> Result<(), PrimitiveError> {
        let paused = async {
            sleep(pause).await;
            Ok(())
        };
        self.session().while_held(paused).await
    }

    /// Claims up to `max` ready messages; none if there are none.
    pub(super) async fn claim_ready<T: Claim>(
        &self,
        max: usize,
    ) -> Result<Vec<T>, MessageQueueError> {
        loop {
            let Some(claiming) = self.next_candidates(max).await? else { return Ok(Vec::new()) };
            if claiming.candidates[0].attempts >= self.max_attempts.get() {
                self.give_up(&claiming.candidates[0]).await?;
            } else if let Some(taken) = T::claim(self, claiming).await? {
                return Ok(taken);
            }
        }
    }

    /// The next candidates, after a read if the window has none. Takers of one handle that read at
    /// the same time share the read, unless it takes long.
    async fn next_candidates(&self, max: usize) -> Result<Option<Claiming<'_>>, PrimitiveError> {
        let window = &self.shared.window;
        let next = || window.claim_next(max, self.max_attempts.get());
        let before = window.reads_started();
        if let Some(claiming) = next() {
            return Ok(Some(claiming));
        }
        let wait = async { Ok(timeout(SHARED_READ_WAIT, window.reading.lock()).await.ok()) };
        let _reading = self.session().while_held(wait).await?;
        if let Some(claiming) = next() {
            return Ok(Some(claiming));
        }
        if window.was_empty_since(before) {
            return Ok(None);
        }
        loop {
            self.fill_window().await?;
            if let Some(claiming) = next() {
                return Ok(Some(claiming));
            }
            // Other takers have used the window up, or one of their claims has failed.
            if window.was_empty_since(before) {
                return Ok(None);
            }
        }
    }

    /// Fills the window. It reads more messages if all that were read are claimed.
    async fn fill_window(&self) -> Result<(), PrimitiveError> {
        let (session, backend) = (self.session(), self.session().backend());
        let mut limit = READ_LIMIT;
        loop {
            let number = self.shared.window.start_read();
            let read = Txn::new().and_then(read_window(&self.shared.keys, limit));
            let read = async { Ok(retry_request(|| backend.txn(read.clone())).await?) };
            let response = session.while_held(read).await?;
            if self.note_read(&response) {
                self.shared.window.complete_read(number);
                return Ok(());
            }
            limit = limit.saturating_mul(4);
        }
    }

    /// Fills the window with a read. Returns whether it has returned enough messages.
    pub(super) fn note_read(&self, response: &TxnResponse) -> bool {
        let revision = response.header.revision;
        let mut reads = response.responses.iter().filter_map(OpResponse::as_range);
        let (Some(messages), Some(claims)) = (reads.next(), reads.next()) else { return false };
        self.shared.window.replace(revision, ready(&self.shared.keys, messages, claims))
    }

    /// The conditions of a claim: each message is ready, and none with a better priority was put
    /// since the read. If they do not hold, it reads the window.
    fn claim_txn(&self, claiming: &Claiming<'_>) -> Txn {
        let keys = &self.shared.keys;
        let ready = claiming.candidates.iter().flat_map(|candidate| {
            let message = keys.message(&candidate.place);
            [
                Compare::absent(keys.claim(&candidate.place)),
                Compare::mod_revision(message, CompareOp::Equal, candidate.mod_revision),
            ]
        });
        let last = claiming.candidates.iter().map(|candidate| candidate.place.priority()).max();
        let better = last.filter(|&priority| priority > 0).map(|priority| {
            let range = keys.messages_before(priority);
            Compare::create_revision(range, CompareOp::Less, claiming.revision.next())
        });
        Txn::new().when(ready).when(better).or_else(read_window(keys, READ_LIMIT))
    }

    /// Notes that a claim was refused, with the read of its failure branch.
    fn note_refused(&self, claiming: Claiming<'_>, response: &TxnResponse) {
        drop(claiming);
        self.note_read(response);
    }

    /// Moves a message to the dead letters, unless it has changed.
    async fn give_up(&self, candidate: &ReadyMessage) -> Result<(), PrimitiveError> {
        let (session, keys) = (self.session(), &self.shared.keys);
        let (backend, key) = (session.backend(), keys.message(&candidate.place));
        let read = async { Ok(range_with_retry(&**backend, Range::new(&key)).await?) };
        let read = session.while_held(read).await?;
        let Some(kv) = read.kvs.first() else { return Ok(()) };
        let unchanged = Compare::mod_revision(&key, CompareOp::Equal, candidate.mod_revision);
        let dead = keys.dead_letter(&candidate.place, candidate.attempts);
        let give_up = Txn::new()
            .when([Compare::absent(keys.claim(&candidate.place)), unchanged])
            .and_then([Op::Delete(Delete::new(&key)), Op::Put(Put::new(dead, &kv.value))]);
        // Safe to repeat: once it is applied, the message does not exist.
        let sent = async { Ok(retry_request(|| backend.txn(give_up.clone())).await?) };
        session.while_held(sent).await.map(drop)
    }

    /// Watches the messages and their claims from now on.
    async fn watch(&self) -> Result<Watcher, PrimitiveError> {
        let backend = self.session().backend();
        let watch = Watch::new(self.shared.keys.watched());
        let register = async { Ok(retry_request(|| backend.watch(watch.clone())).await?) };
        self.session().while_held(register).await
    }

    /// Waits for events after which a message may be ready.
    async fn next_change(&self, messages: &mut Watcher) -> Result<Change> {
        while let Some(batch) = next_batch(messages).await? {
            if self.has_returned(&batch) {
                return Ok(Change::Unknown);
            }
            let ready = self.ready_after(&batch);
            if !ready.is_empty() {
                return Ok(Change::Put(batch.revision, ready));
            }
        }
        Ok(Change::WatchEnded)
    }

    /// The messages that these events have put, without those that have a delay.
    fn ready_after(&self, batch: &WatchBatch) -> Vec<ReadyMessage> {
        let puts = batch.events.iter().filter(|event| event.is_create());
        let kvs = puts.map(|event| event.kv.clone()).collect();
        let created = RangeResponse { kvs, ..RangeResponse::default() };
        ready(&self.shared.keys, &created, &created).candidates
    }

    /// Whether a message may be ready again: its claim was deleted, and the message was not.
    fn has_returned(&self, batch: &WatchBatch) -> bool {
        let keys = &self.shared.keys;
        let deleted = || batch.events.iter().filter(|event| event.kind == EventKind::Delete);
        let is_deleted = |id: &[u8]| {
            deleted().filter_map(|event| keys.place(&event.kv.key)).any(|place| place.id() == id)
        };
        let mut claims = deleted().filter_map(|event| keys.claimed_id(&event.kv.key));
        claims.any(|id| !is_deleted(&id))
    }
}
