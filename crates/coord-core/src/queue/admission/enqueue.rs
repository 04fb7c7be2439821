//! The enqueue of a contender with an admission rule: one transaction creates its key and reads the
//! keys ahead.

use std::iter;
use std::sync::Arc;

use bytes::Bytes;

use super::{Admission, AdmissionRule, Ahead};
use crate::error::PrimitiveError;
use crate::kv::{Compare, Op, OpResponse, Put, Range, Txn, TxnResponse};
use crate::queue::key_guard::KeyGuard;
use crate::queue::{Contender, WaitQueue};

/// How often a try reads the keys and finds that it would be admitted, while other contenders are
/// enqueued between each read and the next attempt. After the last read it enqueues.
pub(crate) const MAX_ADMISSION_READS: usize = 4;

/// The enqueue of one contender.
#[derive(Debug)]
pub(crate) struct AdmissionEnqueue<'a> {
    queue: &'a WaitQueue,
    rule: Arc<dyn AdmissionRule>,
    value: Bytes,
    /// The queue and the value of the companion key, if the contender has one.
    companion: Option<(&'a WaitQueue, Bytes)>,
    conditions: Vec<Compare>,
    puts: Vec<Put>,
}

impl<'a> AdmissionEnqueue<'a> {
    /// The enqueue of a contender in `queue`, with the value `value`.
    pub(crate) fn new<R: AdmissionRule>(queue: &'a WaitQueue, rule: &Arc<R>, value: Bytes) -> Self {
        let rule = Arc::<R>::clone(rule);
        Self { queue, rule, value, companion: None, conditions: Vec::new(), puts: Vec::new() }
    }

    /// Creates a companion key in another queue, with the same create revision.
    pub(crate) fn with_companion(self, queue: &'a WaitQueue, value: Bytes) -> Self {
        Self { companion: Some((queue, value)), ..self }
    }

    /// Adds conditions of the enqueue.
    pub(crate) fn when(mut self, conditions: impl IntoIterator<Item = Compare>) -> Self {
        self.conditions.extend(conditions);
        self
    }

    /// Adds a put to the transaction that creates the key.
    pub(crate) fn and_put(mut self, put: Put) -> Self {
        self.puts.push(put);
        self
    }

    /// Sends the transaction. If a condition does not hold, nothing is written, and all keys of the
    /// scope are returned instead of a contender.
    ///
    /// # Errors
    /// - `Lost` if the session is lost.
    /// - The error of the backend.
    ///
    /// In either case no key stays in the queue while the session lives.
    pub(crate) async fn send(self) -> Result<Result<Contender, Ahead>, PrimitiveError> {
        loop {
            let queues = iter::once(self.queue).chain(self.companion.iter().map(|of| of.0));
            let mut guards: Vec<_> = queues.map(WaitQueue::new_guard).collect();
            let txn = self.txn(&guards);
            let TxnResponse { header, succeeded, responses } =
                KeyGuard::create_all(&mut guards, txn).await?;
            let mut reads = responses.into_iter().filter_map(OpResponse::into_range);
            if !succeeded {
                let own: Vec<_> = reads.by_ref().take(guards.len()).collect();
                if own.iter().all(|read| read.kvs.is_empty()) {
                    return Ok(Err(Ahead::all(self.rule.scope(), header.revision, reads)));
                }
                // Another owner of the lease has created one of the keys.
                for (guard, read) in guards.into_iter().zip(own) {
                    if !read.kvs.is_empty() {
                        guard.retire_suffix();
                    }
                }
                continue;
            }
            let ahead = Ahead::read(self.rule.scope(), header.revision, header.revision, reads);
            let admission = Admission::new(self.rule, ahead);
            let mut guards = guards.into_iter();
            let (Some(guard), companion) = (guards.next(), guards.next()) else {
                unreachable!("there is a guard for the queue");
            };
            let contender = Contender::with_admission(
                self.queue.clone(),
                (guard, companion),
                header,
                admission,
            );
            return Ok(Ok(contender));
        }
    }

    fn txn(&self, guards: &[KeyGuard]) -> Txn {
        let keys = || guards.iter().map(|guard| guard.ownership().key());
        let reads = || self.rule.scope().reads(None).into_iter().map(Op::Range);
        let values = iter::once(&self.value).chain(self.companion.iter().map(|of| &of.1));
        let puts = guards.iter().zip(values).map(|(guard, value)| guard.put(value));
        Txn::new()
            .when(keys().map(Compare::absent))
            .when(self.conditions.clone())
            .and_then(puts.chain(self.puts.clone()))
            .and_then(reads())
            .or_else(keys().map(|key| Range::new(key).keys_only()))
            .or_else(reads())
    }
}
