//! Elle's histories, as elle-cli and adya read them: JSON Lines or EDN.
//!
//! Each transaction is two lines, an invocation and a completion, with a list of micro-operations:
//!
//! ```text
//! {"index":0,"type":"invoke","f":"txn","process":0,"time":2,"value":[["r","x",null],["w","x",2]]}
//! {"index":1,"type":"ok","f":"txn","process":0,"time":5,"value":[["r","x",1],["w","x",2]]}
//! ```
//!
//! | coord | rw-register | list-append |
//! |---|---|---|
//! | read | `["r", key, value]` | `["r", key, [elements]]` |
//! | read of a key that did not exist | `["r", key, null]` | `["r", key, []]` |
//! | put | `["w", key, value]` | `["append", key, element]` for each new element |
//! | committed · unknown · any other end | `ok` · `info` · `fail` | the same |
//!
//! In a list-append history a value is a list: its elements, separated by spaces. A put must follow
//! a read of the key and extend what was read; a key that did not exist is read as an empty list.
//! Values and elements that are decimal numbers are written as numbers.
//!
//! Elle infers most about list-append histories. About registers it infers little without their
//! version order, which [`transaction_order`] gives: adya takes it as `--transaction-order`.
//! [`read()`] infers alike: without an order, the version order of lists follows from the lists
//! that were read, and of registers only reads of each other's writes are known. Such a history
//! must begin with an empty store, and must have all writes. Reads that no order explains are in
//! the event [`Inferred`](crate::history::EventKind::Inferred), which refutes levels by itself,
//! also in a check with a [window](crate::isolation::Checker::window).
//!
//! Source: the README of github.com/ligurio/elle-cli; `history.rs` and `rw_register.rs` of the
//! crate adya 0.1.

mod found;
mod inferred;
mod lists;
mod order;
mod parsing;
mod reading;
mod registers;
mod scalar;

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

pub(super) use self::parsing::{Micro, Outcome, Transaction};
pub(super) use self::reading::history;
pub use self::reading::read;
use self::scalar::to_scalar;
use super::edn::write_string;
use super::operations::{LastAttempt, inexpressible, operations, values_put, values_read};
use super::{FormatError, bytes::to_text};
use crate::history::{Attempt, AttemptEnd, History};

/// What the values of keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "Elle's workloads that histories of puts can express")]
pub enum Workload {
    /// A put replaces the value.
    RwRegister,
    /// A value is a list of elements, separated by spaces, and a put appends to it.
    ListAppend,
}

/// The syntax of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the two syntaxes that elle-cli reads")]
pub enum Syntax {
    /// JSON Lines.
    Json,
    /// EDN, one operation per line, as Jepsen's `history.edn`.
    Edn,
}

/// The completion or invocation of an operation, in the order of a file.
struct OperationLine<'a> {
    operation: LastAttempt<'a>,
    is_completion: bool,
}

/// A micro-operation.
struct MicroOperation {
    function: &'static str,
    key: Value,
    value: Value,
}

/// Writes the transactions of a history.
///
/// ```
/// use std::time::Duration;
///
/// use coord_core::{Client, Stm};
/// use coord_mem::MemBackend;
/// use coord_testkit::history::HistoryRecorder;
/// use coord_testkit::history::formats::elle::{self, Syntax, Workload};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let recorder = HistoryRecorder::new();
/// let client = Client::new(MemBackend::new()).record_transactions(recorder.process("a"));
/// let stm = Stm::new(&client);
/// let put = stm.run(async |tx| {
///     tx.get("x").await?;
///     tx.put("x", "1");
///     Ok::<_, coord_core::Error>(())
/// });
/// put.await?;
/// let history = recorder.take();
/// let mut file = Vec::new();
/// elle::write(&history, Workload::RwRegister, Syntax::Edn, &mut file)?;
/// assert_eq!(
///     std::str::from_utf8(&file)?.lines().last(),
///     Some("{:index 1, :type :ok, :f :txn, :process 0, :time 3, \
///          :value [[:r \"x\" nil] [:w \"x\" 1]]}")
/// );
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Io`. `NotExpressible` for a range, a deletion, two puts of one value to one key, and in a
/// list-append history a put that does not extend the list that its attempt has read.
pub fn write(
    history: &History,
    workload: Workload,
    syntax: Syntax,
    mut out: impl Write,
) -> Result<(), FormatError> {
    for (index, line) in lines(history)?.iter().enumerate() {
        let LastAttempt { attempt, event, .. } = line.operation;
        let mut micro = micro_operations(attempt, event, workload)?;
        if !line.is_completion || outcome(attempt) != "ok" {
            // What the reads return is not known yet, or does not matter.
            let reads = micro.iter_mut().filter(|micro| micro.function == "r");
            reads.for_each(|read| read.value = Value::Null);
        }
        let text = match syntax {
            Syntax::Json => json(index, line, micro),
            Syntax::Edn => edn(index, line, &micro),
        };
        writeln!(out, "{text}")?;
    }
    Ok(())
}

/// The version order of a rw-register history: the revision of each committed transaction that
/// writes, by the index of its completion in the file that [`write()`] writes. As JSON it is the
/// file that adya takes as `--transaction-order`.
///
/// # Errors
/// As [`write()`].
pub fn transaction_order(history: &History) -> Result<BTreeMap<u64, i64>, FormatError> {
    let position = |(index, line): (u64, &OperationLine<'_>)| match line.operation.attempt.end {
        AttemptEnd::Committed { revision }
            if line.is_completion && !line.operation.attempt.writes.is_empty() =>
        {
            Some((index, revision.0))
        }
        _ => None,
    };
    Ok((0..).zip(&lines(history)?).filter_map(position).collect())
}

/// The invocations and completions in the order of their times, invocations first: transactions
/// that begin and end at one instant are concurrent.
fn lines(history: &History) -> Result<Vec<OperationLine<'_>>, FormatError> {
    let mut lines = Vec::new();
    for operation in operations(history, "Elle's format")? {
        lines.extend([false, true].map(|is_completion| OperationLine { operation, is_completion }));
    }
    lines.sort_by_key(|line| (line.time(), line.is_completion));
    Ok(lines)
}

impl OperationLine<'_> {
    const fn time(&self) -> Duration {
        if self.is_completion { self.operation.ended } else { self.operation.attempt.began }
    }

    fn kind(&self) -> &'static str {
        if self.is_completion { outcome(self.operation.attempt) } else { "invoke" }
    }
}

const fn outcome(attempt: &Attempt) -> &'static str {
    match attempt.end {
        AttemptEnd::Committed { .. } => "ok",
        AttemptEnd::Unknown => "info",
        AttemptEnd::Conflict | AttemptEnd::Aborted | AttemptEnd::Failed => "fail",
    }
}

/// The micro-operations of an attempt: its reads, then its writes.
fn micro_operations(
    attempt: &Attempt,
    event: usize,
    workload: Workload,
) -> Result<Vec<MicroOperation>, FormatError> {
    let is_list = workload == Workload::ListAppend;
    let mut micro = Vec::new();
    for (key, value) in values_read(attempt) {
        let value = match value {
            _ if is_list => Value::Array(elements(value).map(to_scalar).collect()),
            Some(value) => to_scalar(&to_text(value)),
            None => Value::Null,
        };
        micro.push(MicroOperation { function: "r", key: to_scalar(&to_text(key)), value });
    }
    for (key, value) in values_put(attempt) {
        let name = to_scalar(&to_text(key));
        if !is_list {
            let value = to_scalar(&to_text(value));
            micro.push(MicroOperation { function: "w", key: name, value });
            continue;
        }
        let read = values_read(attempt).find(|(read, _)| *read == key);
        let added = read.and_then(|(_, read)| {
            let mut all = elements(Some(value));
            elements(read).all(|element| all.next() == Some(element)).then_some(all)
        });
        let Some(added) = added else {
            let reason = format!("it puts {} without appending to it", key.escape_ascii());
            return Err(inexpressible("Elle's list-append", event, reason));
        };
        micro.extend(added.map(|element| MicroOperation {
            function: "append",
            key: name.clone(),
            value: to_scalar(element),
        }));
    }
    Ok(micro)
}

/// The elements of a list.
fn elements(value: Option<&Bytes>) -> impl Iterator<Item = &str> {
    // A value that is not UTF-8 is no list.
    let text = value.map(|value| std::str::from_utf8(value).unwrap_or("?"));
    text.into_iter().flat_map(str::split_whitespace)
}

fn json(index: usize, line: &OperationLine<'_>, micro: Vec<MicroOperation>) -> String {
    let value: Vec<_> = micro
        .into_iter()
        .map(|MicroOperation { function, key, value }| (function, key, value))
        .collect();
    let (kind, client, time) = (line.kind(), line.operation.client, line.time().as_nanos());
    let value = serde_json::json!(value);
    format!(
        "{{\"index\":{index},\"type\":\"{kind}\",\"f\":\"txn\",\"process\":{client},\"time\":{time},\
         \"value\":{value}}}"
    )
}

fn edn(index: usize, line: &OperationLine<'_>, micro: &[MicroOperation]) -> String {
    let (kind, client, time) = (line.kind(), line.operation.client, line.time().as_nanos());
    let mut text = format!(
        "{{:index {index}, :type :{kind}, :f :txn, :process {client}, :time {time}, :value ["
    );
    for (i, MicroOperation { function, key, value }) in micro.iter().enumerate() {
        text.push_str(if i == 0 { "[:" } else { " [:" });
        text.push_str(function);
        for value in [key, value] {
            text.push(' ');
            edn_value(value, &mut text);
        }
        text.push(']');
    }
    text.push_str("]}");
    text
}

fn edn_value(value: &Value, text: &mut String) {
    match value {
        Value::Null => text.push_str("nil"),
        Value::String(string) => write_string(string, text),
        Value::Array(values) => {
            text.push('[');
            for (i, value) in values.iter().enumerate() {
                text.push_str(if i == 0 { "" } else { " " });
                edn_value(value, text);
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}
