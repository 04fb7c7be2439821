//! The text of Plume, which AWDIT reads too: one read or write per line.
//!
//! ```text
//! w(1,1,0,1)      transaction 1 of session 0 puts value 1 to key 1
//! r(1,1,1,2)      transaction 2 of session 1 reads it
//! r(2,0,1,2)      and key 2, which does not exist
//! w(1,3,0,-1)     an aborted transaction
//! ```
//!
//! Keys and values are numbers. If all keys of the history are positive numbers they are written as
//! they are, otherwise they are numbered from 1 in the order in which they appear. The same applies
//! to the values, where 0 is the initial value. The format has no times: of the order of
//! transactions it keeps only that of each session.
//!
//! A transaction with an unknown outcome is written if another transaction has read its value.
//! Otherwise it is left out: no checker of this format can conclude anything from it.
//!
//! [`read()`] concludes only what the values show, as for Elle's registers: transactions of
//! different sessions have no times that could be compared, so all of them count as concurrent,
//! also those of one session.
//!
//! Source: Liu, Gu, Wei, Basin: Plume: Efficient and Complete Black-Box Checking of Weak Isolation
//! Levels, OOPSLA 2024; the format as AWDIT reads it, `src/formats.rs` of
//! github.com/lassemoldrup/AWDIT.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use bytes::Bytes;
use serde_json::Value;

use super::FormatError;
use super::elle::{self, Micro, Outcome, Transaction};
use super::operations::{LastAttempt, operations, values_put, values_read};
use crate::history::{AttemptEnd, History};

/// Writes the transactions of a history.
///
/// ```
/// use coord_core::{Client, Stm};
/// use coord_mem::MemBackend;
/// use coord_testkit::history::{HistoryRecorder, formats::plume};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let recorder = HistoryRecorder::new();
/// let client = Client::new(MemBackend::new()).record_transactions(recorder.process("a"));
/// let stm = Stm::new(&client);
/// let put = stm.run(async |tx| {
///     tx.get("x").await?;
///     tx.put("x", "one");
///     Ok::<_, coord_core::Error>(())
/// });
/// put.await?;
/// let mut file = Vec::new();
/// plume::write(&recorder.take(), &mut file)?;
/// assert_eq!(file, b"r(1,0,0,1)\nw(1,1,0,1)\n");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Io`. `NotExpressible` for a range, a deletion, and two puts of one value to one key.
pub fn write(history: &History, mut out: impl Write) -> Result<(), FormatError> {
    let operations = operations(history, "Plume's format")?;
    let committed = |operation: &&LastAttempt<'_>| {
        matches!(operation.attempt.end, AttemptEnd::Committed { .. })
    };
    let read: BTreeSet<_> =
        operations.iter().filter(committed).flat_map(|op| values_read(op.attempt)).collect();
    let (keys, values) = numbers(&operations);
    for LastAttempt { client, attempt, .. } in operations {
        let was_read =
            || values_put(attempt).any(|(key, value)| read.contains(&(key, Some(value))));
        let transaction = match attempt.end {
            AttemptEnd::Committed { .. } => attempt.transaction.to_string(),
            AttemptEnd::Unknown if was_read() => attempt.transaction.to_string(),
            AttemptEnd::Unknown => continue,
            AttemptEnd::Conflict | AttemptEnd::Aborted | AttemptEnd::Failed => "-1".to_owned(),
        };
        let is_aborted = transaction == "-1";
        for (key, value) in values_read(attempt).filter(|_| !is_aborted) {
            let value = value.map_or(0, |value| values.get(value));
            writeln!(out, "r({},{value},{client},{transaction})", keys.get(key))?;
        }
        for (key, value) in values_put(attempt) {
            let (key, value) = (keys.get(key), values.get(value));
            writeln!(out, "w({key},{value},{client},{transaction})")?;
        }
    }
    Ok(())
}

/// Reads transactions, without an order of versions: what a check can find is described at
/// [`elle::read()`](super::elle::read()) for registers.
///
/// Aborted operations that follow each other in one session are one transaction. Blank lines are
/// skipped.
///
/// ```
/// use coord_testkit::history::formats::plume;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let history = plume::read("r(1,0,0,1)\nw(1,1,0,1)\n")?;
/// assert_eq!(
///     history.0[0].kind.to_string(),
///     "tx attempt 1 of transaction 1 reads 1 absent; puts 1; committed at revision 0"
/// );
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Syntax`.
pub fn read(text: &str) -> Result<History, FormatError> {
    let mut transactions: Vec<Transaction> = Vec::new();
    // The place of each transaction, and of the aborted one in progress of each session.
    let (mut places, mut aborted) = (BTreeMap::new(), BTreeMap::new());
    for (i, line) in text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
        let Some((micro, session, number)) = operation(line) else {
            let expected = "must be r(KEY,VALUE,SESSION,TRANSACTION) or w(…) with four numbers";
            return Err(FormatError::syntax(
                i + 1,
                format!("invalid operation {line:?}: {expected}"),
            ));
        };
        let next = transactions.len();
        let place = if number == -1 {
            *aborted.entry(session).or_insert(next)
        } else {
            aborted.remove(&session);
            *places.entry((session, number)).or_insert(next)
        };
        if place == next {
            let outcome = if number == -1 { Outcome::Aborted } else { Outcome::Committed };
            let (index, process, micro) = (u64::MAX, session, Vec::new());
            transactions.push(Transaction { index, outcome, process, began: 0, ended: 0, micro });
        }
        transactions[place].micro.push(micro);
    }
    Ok(elle::history(&transactions, &BTreeMap::new()))
}

/// The operation of a line, with the numbers of its session and of its transaction.
fn operation(line: &str) -> Option<(Micro, i64, i64)> {
    let (function, rest) = line.split_at_checked(1)?;
    let parts = rest.strip_prefix('(')?.strip_suffix(')')?.split(',');
    let numbers: Vec<i64> = parts.map(|part| part.trim().parse().ok()).collect::<Option<_>>()?;
    let [key, value, session, transaction] = numbers[..] else { return None };
    // 0 is the initial value, which no operation writes.
    let value = if value == 0 { Value::Null } else { Value::from(value) };
    let is_read_or_write = matches!((function, &value), ("r", _) | ("w", Value::Number(_)));
    let micro = (function.to_owned(), Bytes::from(key.to_string()), value);
    is_read_or_write.then_some((micro, session, transaction))
}

/// The numbers of keys or of values.
struct Numbers<'a>(BTreeMap<&'a Bytes, u64>);

impl<'a> Numbers<'a> {
    /// The numbers themselves if all are positive numbers, otherwise their positions from 1.
    fn new(all: Vec<&'a Bytes>) -> Self {
        let number = |bytes: &&'a Bytes| {
            let text = std::str::from_utf8(bytes).ok()?;
            let number = text.parse::<u64>().ok().filter(|number| *number > 0)?;
            (number.to_string() == text).then_some((*bytes, number))
        };
        if let Some(numbers) = all.iter().map(number).collect() {
            return Self(numbers);
        }
        let mut numbers = BTreeMap::new();
        for bytes in all {
            let next = u64::try_from(numbers.len()).unwrap_or(u64::MAX).saturating_add(1);
            numbers.entry(bytes).or_insert(next);
        }
        Self(numbers)
    }

    fn get(&self, bytes: &Bytes) -> u64 {
        self.0.get(bytes).copied().unwrap_or_default()
    }
}

/// The numbers of all keys, and of all values.
fn numbers<'a>(operations: &[LastAttempt<'a>]) -> (Numbers<'a>, Numbers<'a>) {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for LastAttempt { attempt, .. } in operations {
        for (key, value) in values_read(attempt) {
            keys.push(key);
            values.extend(value);
        }
        for (key, value) in values_put(attempt) {
            keys.push(key);
            values.push(value);
        }
    }
    (Numbers::new(keys), Numbers::new(values))
}
