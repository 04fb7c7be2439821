//! Transactions as other checkers know them: one operation for each transaction, with the values
//! that it has read and put.
//!
//! - The operation is the last attempt of the transaction. What earlier attempts have read cannot
//!   be expressed.
//! - Idempotency keys are left out: no transaction reads them.
//! - Other checkers identify a version by its value, so each put of a key needs another value.
//! - Other checkers expect that one client does one thing at a time. A process whose transactions
//!   overlap is therefore written as several *clients*:
//!
//! ```text
//! process a   |--t1--|  |--t3--|       client 0
//!                |---t2---|            client 1
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::FormatError;
use crate::history::{Attempt, AttemptEnd, EventKind, History, KeyWrite};

/// The prefix of all idempotency keys: see [`Stm::exactly_once`](coord_core::Stm::exactly_once).
const IDEMPOTENCY_KEYS: &[u8] = b"coord/stm/";

/// A transaction, as the last of its attempts.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastAttempt<'a> {
    /// The number of the event.
    pub(super) event: usize,
    pub(super) process: Option<&'a str>,
    pub(super) client: u64,
    pub(super) ended: Duration,
    pub(super) attempt: &'a Attempt,
}

/// The operations of a history in the order in which they ended, for the format named `format`,
/// which has no ranges and no deletions.
pub(super) fn operations<'a>(
    history: &'a History,
    format: &'static str,
) -> Result<Vec<LastAttempt<'a>>, FormatError> {
    let operations = last_attempts(history);
    check(&operations, format)?;
    Ok(operations)
}

/// The last attempts of all transactions, in the order in which they ended.
pub(super) fn last_attempts(history: &History) -> Vec<LastAttempt<'_>> {
    let mut last = BTreeMap::new();
    for (event, recorded) in history.0.iter().enumerate() {
        if let EventKind::Attempt(attempt) = &recorded.kind {
            let process = recorded.process.as_deref();
            let ended = recorded.at;
            last.insert(
                attempt.transaction,
                LastAttempt { event, process, client: 0, ended, attempt },
            );
        }
    }
    let mut operations: Vec<_> = last.into_values().collect();
    assign_clients(&mut operations);
    operations.sort_by_key(|operation| operation.event);
    operations
}

/// Returns the first operation that has a range or a deletion, or puts a value that another
/// operation puts, as an error.
fn check(operations: &[LastAttempt<'_>], format: &'static str) -> Result<(), FormatError> {
    let mut put = BTreeSet::new();
    for LastAttempt { event, attempt, .. } in operations {
        if let Some(read) = attempt.ranges.first() {
            return Err(inexpressible(
                format,
                *event,
                format!("it reads the range {}", read.range),
            ));
        }
        for write in writes(attempt) {
            let key = write.key.escape_ascii();
            let Some(value) = &write.value else {
                return Err(inexpressible(format, *event, format!("it deletes {key}")));
            };
            if !put.insert((&write.key, value)) {
                let value = value.escape_ascii();
                let reason = format!("it puts {key} to {value}, as another transaction does");
                return Err(inexpressible(format, *event, reason));
            }
        }
    }
    Ok(())
}

pub(super) const fn inexpressible(
    format: &'static str,
    event: usize,
    reason: String,
) -> FormatError {
    FormatError::NotExpressible { format, event, reason }
}

/// Gives operations of one process that overlap different clients. After an unknown outcome a
/// client is not used again: the operation may still be in progress.
fn assign_clients(operations: &mut [LastAttempt<'_>]) {
    operations.sort_by_key(|operation| (operation.attempt.began, operation.event));
    let mut clients = BTreeMap::<_, Vec<(u64, Option<Duration>)>>::new();
    let mut next = 0;
    for operation in operations {
        let clients = clients.entry(operation.process).or_default();
        let began = operation.attempt.began;
        let is_free = |free: &Option<Duration>| free.is_some_and(|free| free < began);
        let index = match clients.iter().position(|(_, free)| is_free(free)) {
            Some(index) => index,
            None => {
                clients.push((next, None));
                next += 1;
                clients.len() - 1
            }
        };
        let is_unknown = operation.attempt.end == AttemptEnd::Unknown;
        operation.client = clients[index].0;
        clients[index].1 = (!is_unknown).then_some(operation.ended);
    }
}

/// The values that an attempt has read, by key; `None` for a key that did not exist.
pub(super) fn values_read(attempt: &Attempt) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
    attempt.reads.iter().map(|read| (&read.key, read.found.as_ref().map(|(_, value)| value)))
}

/// The writes of an attempt, without that of its idempotency key.
pub(super) fn writes(attempt: &Attempt) -> impl Iterator<Item = &KeyWrite> {
    attempt.writes.iter().filter(|write| !write.key.starts_with(IDEMPOTENCY_KEYS))
}

/// The values that an attempt has put, by key.
pub(super) fn values_put(attempt: &Attempt) -> impl Iterator<Item = (&Bytes, &Bytes)> {
    writes(attempt).filter_map(|write| Some((&write.key, write.value.as_ref()?)))
}
