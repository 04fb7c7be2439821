//! Putting messages: once, and into a section.
//!
//! **Order without a scan.** Messages of one priority are ordered by the revisions of their puts,
//! which no key can contain, because the store chooses them. A read that sorts by revision makes
//! the store visit all messages. So each message is put into the current *section*, whose number is
//! in its key, on the condition that the section is still the current one. Sections are in the
//! order of the keys, and only messages of one section are sorted by revision. About one put in 64
//! also begins the next section: it puts the key `NAME/section`, whose mod revision is the number.
//!
//! ```text
//! A                          B                            section  messages
//! put a1, if section is 0                                 0        0/a1
//! put a2, if section is 0,                                31       0/a1 0/a2
//!   and begin the next
//!                            put b1, if section is 0:     31       0/a1 0/a2
//!                              fails, and reads 31
//!                            put b1, if section is 31     31       0/a1 0/a2 31/b1
//! ```
//!
//! **The next take.** If a small read of the handle has shown a short time ago that no message was
//! ready, the transaction of a single message also reads the next messages, unless it has no room
//! for that or another read of the handle is in flight. So a worker that puts a message into an
//! empty queue and then takes one needs no read of its own (`window.rs`).
//!
//! **Once.** A message that was put may be taken and deleted before the response is received, so
//! the missing message proves nothing. The transaction also puts an idempotency key on the lease of
//! the session, as a commit of `Stm` does (`stm/idempotency_key.rs`). If no response is received,
//! the key shows whether the messages were put.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::MutexGuard;
use tokio::time::timeout;

use super::delay::DelayLeases;
use super::keys::Place;
use super::window::{READ_LIMIT, read_window};
use super::{DeadLetter, Message, MessageQueue, MessageQueueError};
use crate::backoff::Backoff;
use crate::error::{Error, Outcome, PrimitiveError};
use crate::kv::{
    Compare, CompareOp, Delete, LeaseGrant, Op, OpResponse, Put, Range, Revision, TTL_MAX, Txn,
    TxnResponse,
};
use crate::retry_request::{ATTEMPT_TIMEOUT, RETRY_PAUSE_MAX, RETRY_PAUSE_MIN};
use crate::session::SessionState;
use crate::stm::{IdempotencyKey, Resolution};

/// One in this many messages begins the next section.
const SECTION_MESSAGES: u64 = 64;

/// The bytes of a request that are kept for what is not payload. The largest request with a payload
/// puts a dead letter back, begins a section and reads the next messages: it names the queue in 11
/// keys, and has less than 1 KiB besides.
const RESERVED_BYTES: usize = 1024;
const RESERVED_NAMES: usize = 12;

/// What one transaction puts.
struct Batch<'a> {
    messages: &'a [Message],
    /// An id for each message.
    ids: Vec<String>,
    /// The leases that end when a delay has passed.
    delays: DelayLeases,
    /// The dead letter that becomes a message again.
    dead: Option<&'a DeadLetter>,
    begins_section: bool,
}

/// The result of one attempt.
enum PutResult {
    Put(Revision),
    /// The section has ended. Nothing was put.
    SectionEnded(Revision),
    /// The dead letter does not exist any more. Nothing was put.
    NoDeadLetter,
    /// Nothing was put: send it again.
    Repeat,
}

impl MessageQueue {
    /// Checks a batch before anything is sent.
    pub(super) fn check_batch(&self, messages: &[Message]) -> Result<(), MessageQueueError> {
        let is_delayed = messages.iter().any(|message| message.delay.is_some());
        let ops = self.session().client().limits().max_txn_ops.saturating_sub(2);
        let limit = if is_delayed { ops / 2 } else { ops };
        if messages.is_empty() || messages.len() > limit {
            return Err(MessageQueueError::InvalidBatch { count: messages.len(), limit });
        }
        let reserve =
            RESERVED_BYTES.saturating_add(RESERVED_NAMES.saturating_mul(self.name().len()));
        let limits = self.session().client().limits();
        let limit_bytes = limits.max_request_bytes.saturating_sub(reserve);
        let sizes = messages.iter().map(|message| message.payload.len());
        if let Some(size_bytes) = sizes.max().filter(|&size| size > limit_bytes) {
            return Err(MessageQueueError::PayloadTooLarge { size_bytes, limit_bytes });
        }
        messages.iter().filter_map(|message| message.delay).try_for_each(check_delay)
    }

    /// Puts messages. With a dead letter, they replace it; `None` if it does not exist any more.
    pub(super) async fn put_batch(
        &self,
        messages: &[Message],
        dead: Option<&DeadLetter>,
    ) -> Result<Option<Revision>, MessageQueueError> {
        let shared = &self.shared;
        let numbers: Vec<_> =
            messages.iter().map(|_| shared.next_id.fetch_add(1, Ordering::Relaxed)).collect();
        let ids = numbers.iter().map(|number| format!("{}-{number:010}", shared.id)).collect();
        let begins_section = numbers.iter().any(|number| self.begins_section(*number));
        let delays = DelayLeases::new(self.session());
        let mut batch = Batch { messages, ids, delays, dead, begins_section };
        let mut key = shared.idempotency_keys.take();
        let mut backoff = Backoff::new(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX);
        loop {
            self.grant_delays(&mut batch).await?;
            let section = Revision(shared.section.load(Ordering::Relaxed));
            match self.attempt_put(&mut batch, &mut key, section).await? {
                PutResult::Put(revision) => {
                    if batch.begins_section {
                        shared.section.fetch_max(revision.0, Ordering::Relaxed);
                    }
                    return Ok(Some(revision));
                }
                PutResult::SectionEnded(current) if current != section => {
                    shared.section.store(current.0, Ordering::Relaxed);
                }
                // The condition of the idempotency key does not hold: another client has changed
                // or deleted it. Use another.
                PutResult::SectionEnded(_) => key = shared.idempotency_keys.take(),
                PutResult::NoDeadLetter => return Ok(None),
                PutResult::Repeat => self.pause(backoff.next()).await?,
            }
        }
    }

    /// Whether the message with this number begins the next section. The numbers of a handle are
    /// spread like random ones, so that the handles do not begin sections at the same time.
    fn begins_section(&self, number: u64) -> bool {
        // The multiplier of Fibonacci hashing: 2^64 divided by the golden ratio.
        const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
        let seed = self.session().lease_id().get().unsigned_abs();
        let hash = (seed ^ number.wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
        (hash >> 32).is_multiple_of(SECTION_MESSAGES)
    }

    /// Grants a lease for each delay that has none. It ends when the delay has passed.
    async fn grant_delays(&self, batch: &mut Batch<'_>) -> Result<(), PrimitiveError> {
        for delay in batch.messages.iter().filter_map(|message| message.delay) {
            if batch.delays.get(delay).is_none() {
                // A number of its own, because a lease that has ended is granted again.
                let number = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
                batch.delays.grant(delay, (&self.shared.id, number)).await?;
            }
        }
        Ok(())
    }

    /// Sends the transaction, and determines its outcome.
    async fn attempt_put(
        &self,
        batch: &mut Batch<'_>,
        key: &mut IdempotencyKey,
        section: Revision,
    ) -> Result<PutResult, MessageQueueError> {
        let (session, backend) = (self.session(), self.session().backend());
        if let SessionState::Lost(reason) = session.state() {
            // No attempt is in flight: nothing was put.
            return Err(reason.into());
        }
        let txn = self.put_txn(batch, section);
        let reading = self.start_read(batch, &txn);
        // After the puts, so it shows the message, and others that were put before it.
        let reads = reading.as_ref().map(|_| read_window(&self.shared.keys, READ_LIMIT));
        let txn = key.add_to(txn.and_then(reads.into_iter().flatten()));
        batch.delays.set_used(true);
        let sent = async {
            let response = timeout(ATTEMPT_TIMEOUT, backend.txn(txn)).await;
            Ok(response.unwrap_or(Err(Error::Timeout { after: ATTEMPT_TIMEOUT }))?)
        };
        let error = match session.while_held(sent).await {
            Ok(response) if response.succeeded => {
                key.note_applied(response.header.revision);
                if reading.is_some() {
                    self.note_read(&response);
                }
                return Ok(PutResult::Put(response.header.revision));
            }
            Ok(response) => {
                batch.delays.set_used(false);
                let refused = refused(&response, batch.dead);
                let is_settled = !matches!(refused, PutResult::SectionEnded(now) if now == section);
                if is_settled {
                    key.note_not_applied();
                }
                return Ok(refused);
            }
            Err(PrimitiveError::Backend(error)) => error,
            Err(lost) => return Err(MessageQueueError::OutcomeUnknown(lost)),
        };
        if error.outcome() == Outcome::NotApplied {
            batch.delays.set_used(false);
            key.note_not_applied();
            if matches!(error, Error::LeaseNotFound { .. }) {
                if let Some(reason) = session.why_lost().await {
                    return Err(reason.into());
                }
                // The lease of a delay has ended before the message was put.
                batch.delays = DelayLeases::new(session);
            } else if !error.is_retryable() {
                return Err(error.into());
            }
            return Ok(PutResult::Repeat);
        }
        drop(reading);
        let resolve = async { Ok(key.resolve(&**backend).await?) };
        match session.while_held(resolve).await {
            Ok(Resolution::Applied(revision)) => Ok(PutResult::Put(revision)),
            Ok(Resolution::NotApplied) => {
                batch.delays.set_used(false);
                Ok(PutResult::Repeat)
            }
            Ok(Resolution::Unknown) => Err(MessageQueueError::OutcomeUnknown(error.into())),
            Err(unresolved) => Err(MessageQueueError::OutcomeUnknown(unresolved)),
        }
    }

    /// Begins a read of the next messages in the transaction of a put, if it saves the next take a
    /// read. There is one read at a time: takers that need one wait for it.
    fn start_read(&self, batch: &Batch<'_>, txn: &Txn) -> Option<MutexGuard<'_, ()>> {
        let window = &self.shared.window;
        // The payloads of a batch may need all bytes of a request. Three operations are added: the
        // idempotency key, and two ranges.
        let has_room = batch.messages.len() == 1
            && txn.success.len() + 3 <= self.session().client().limits().max_txn_ops;
        (has_room && window.was_empty_lately()).then(|| window.reading.try_lock().ok()).flatten()
    }

    /// The transaction that puts a batch, if the section is still the current one.
    fn put_txn(&self, batch: &Batch<'_>, section: Revision) -> Txn {
        let keys = &self.shared.keys;
        let current = Compare::mod_revision(keys.section(), CompareOp::Equal, section);
        let dead = batch
            .dead
            .map(|dead| Compare::mod_revision(&dead.key, CompareOp::Equal, dead.revision));
        let mut ops: Vec<Op> = Vec::new();
        for (message, id) in batch.messages.iter().zip(&batch.ids) {
            let place = Place::new(message.priority, section, id);
            ops.push(Put::new(keys.message(&place), &message.payload).into());
            if let Some(lease) = message.delay.and_then(|delay| batch.delays.get(delay)) {
                ops.push(Put::new(keys.claim(&place), "delay").lease(lease).into());
            }
        }
        ops.extend(batch.begins_section.then(|| Put::new(keys.section(), Bytes::new()).into()));
        ops.extend(batch.dead.map(|dead| Delete::new(&dead.key).into()));
        let reads = [keys.section()].into_iter().chain(batch.dead.map(|dead| dead.key.clone()));
        let reads = reads.map(|key| Range::new(key).keys_only());
        Txn::new().when([current]).when(dead).and_then(ops).or_else(reads)
    }
}

/// Checks a delay before anything is sent.
pub(super) fn check_delay(delay: Duration) -> Result<(), MessageQueueError> {
    if delay >= Duration::from_secs(1) && LeaseGrant::new(delay).check().is_ok() {
        return Ok(());
    }
    Err(MessageQueueError::InvalidDelay { delay, limit: TTL_MAX })
}

/// Why a transaction was refused, by the reads of its failure branch.
fn refused(response: &TxnResponse, dead: Option<&DeadLetter>) -> PutResult {
    let mut reads = response.responses.iter().filter_map(OpResponse::as_range);
    let mut mod_revision = || {
        let found = reads.next().and_then(|read| read.kvs.first());
        found.map_or(Revision::ZERO, |kv| kv.mod_revision)
    };
    let section = mod_revision();
    match dead {
        Some(dead) if mod_revision() != dead.revision => PutResult::NoDeadLetter,
        _ => PutResult::SectionEnded(section),
    }
}
