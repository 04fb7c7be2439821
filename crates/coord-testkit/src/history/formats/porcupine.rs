//! Operations for porcupine, a checker of linearizability, as JSON.
//!
//! The file is an array that Go's `encoding/json` decodes into `[]porcupine.Operation`, with times
//! in nanoseconds:
//!
//! ```text
//! [{"ClientId":0,"Input":{"Op":"read-write","Key":"x","Value":"2"},
//!   "Call":2,"Output":{"Found":true,"Value":"1"},"Return":5}]
//! ```
//!
//! | `Op` | the transaction | `Output` |
//! |---|---|---|
//! | `read` | reads the key | what it has found |
//! | `write` | puts or deletes the key without a read | empty |
//! | `read-write` | reads the key, and puts or deletes it | what it has found |
//!
//! A deletion has no `Value` in its input. Linearizability is about single keys: a transaction of
//! several keys cannot be expressed. A transaction that did not commit is left out, and one with an
//! unknown outcome returns at the end of the history, without an output: the model must accept
//! that it has no effect. A write returns nothing, so [`read()`] cannot distinguish such a write
//! from a committed one, and takes it for committed.
//!
//! Source: `model.go` of github.com/anishathalye/porcupine.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::FormatError;
use super::bytes::{from_text, to_text};
use super::elle::{self, Outcome, Transaction};
use super::operations::{inexpressible, last_attempts, writes};
use crate::history::{AttemptEnd, History};

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct PorcupineOperation<'a> {
    client_id: u64,
    #[serde(borrow)]
    input: Input<'a>,
    call: u64,
    output: Output,
    r#return: u64,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Input<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    found: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

/// Writes the transactions of a history, each of which has one key.
///
/// ```
/// use coord_core::{Client, Stm};
/// use coord_mem::MemBackend;
/// use coord_testkit::history::{HistoryRecorder, formats::porcupine};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let recorder = HistoryRecorder::new();
/// let client = Client::new(MemBackend::new()).record_transactions(recorder.process("a"));
/// client.put("x", "1").await?;
/// let stm = Stm::new(&client);
/// let delete = stm.run(async |tx| {
///     tx.get("x").await?;
///     tx.delete("x");
///     Ok::<_, coord_core::Error>(())
/// });
/// delete.await?;
/// let mut file = Vec::new();
/// porcupine::write(&recorder.take(), &mut file)?;
/// assert_eq!(
///     std::str::from_utf8(&file)?,
///     r#"[{"ClientId":0,"Input":{"Op":"read-write","Key":"x"},"#.to_owned()
///         + r#""Call":2,"Output":{"Found":true,"Value":"1"},"Return":3}]"#
/// );
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Io`. `NotExpressible` for a range and for a transaction of several keys.
pub fn write(history: &History, out: impl Write) -> Result<(), FormatError> {
    let format = "porcupine's format";
    let end = history.0.iter().map(|event| event.at).max().unwrap_or_default();
    let mut all = Vec::new();
    for operation in last_attempts(history) {
        let (attempt, event) = (operation.attempt, operation.event);
        if let Some(read) = attempt.ranges.first() {
            return Err(inexpressible(format, event, format!("it reads the range {}", read.range)));
        }
        let is_unknown = match attempt.end {
            AttemptEnd::Committed { .. } => false,
            AttemptEnd::Unknown => true,
            AttemptEnd::Conflict | AttemptEnd::Aborted | AttemptEnd::Failed => continue,
        };
        let writes: Vec<_> = writes(attempt).collect();
        let (op, key) = match (&attempt.reads[..], &writes[..]) {
            ([], []) => continue,
            ([read], []) => ("read", &read.key),
            ([], [write]) => ("write", &write.key),
            ([read], [write]) if read.key == write.key => ("read-write", &read.key),
            _ => return Err(inexpressible(format, event, "it has several keys".to_owned())),
        };
        let found = attempt.reads.first().filter(|_| !is_unknown).map(|read| &read.found);
        let value = found.and_then(Option::as_ref).map(|(_, value)| to_text(value).into_owned());
        let written = writes.first().and_then(|write| write.value.as_deref());
        let returned: Duration = if is_unknown { end } else { operation.ended };
        all.push(PorcupineOperation {
            client_id: operation.client,
            input: Input {
                op: op.into(),
                key: to_text(key).into_owned(),
                value: written.map(|value| to_text(value).into_owned()),
            },
            call: nanos(attempt.began),
            output: Output { found: found.map(Option::is_some), value },
            r#return: nanos(returned),
        });
    }
    serde_json::to_writer(out, &all).map_err(std::io::Error::from)?;
    Ok(())
}

/// Reads operations that [`write()`] has written, without an order of versions: what a check can
/// find is described at [`elle::read()`](super::elle::read()) for registers.
///
/// ```
/// use coord_testkit::history::formats::porcupine;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let text = r#"[{"ClientId":0,"Input":{"Op":"read","Key":"x"},"Call":1,
///               "Output":{"Found":false},"Return":2}]"#;
/// let history = porcupine::read(text)?;
/// assert_eq!(
///     history.0[0].kind.to_string(),
///     "tx attempt 1 of transaction 1 reads x absent; committed at revision 0"
/// );
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Syntax`. If an operation has the fields of the format but an invalid value, the line is the
/// number of the operation, from 1.
pub fn read(text: &str) -> Result<History, FormatError> {
    let operations: Vec<PorcupineOperation<'_>> =
        serde_json::from_str(text).map_err(|error| FormatError::syntax(error.line(), error))?;
    let numbered = operations.into_iter().zip(1..);
    let transactions = numbered.map(|(operation, number)| {
        transaction(operation).map_err(|message| FormatError::syntax(number, message))
    });
    Ok(elle::history(&transactions.collect::<Result<Vec<_>, _>>()?, &BTreeMap::new()))
}

fn transaction(operation: PorcupineOperation<'_>) -> Result<Transaction, String> {
    let PorcupineOperation { client_id, input, call, output, r#return: returned } = operation;
    let (reads, writes) = match &*input.op {
        "read" => (true, false),
        "write" => (false, true),
        "read-write" => (true, true),
        op => return Err(format!("invalid Op {op:?}: must be read, write or read-write")),
    };
    if returned < call {
        return Err(format!("Return {returned} is before Call {call}"));
    }
    let invalid = |text: &str| format!("the escape in {text:?} is invalid");
    let key: Bytes = from_text(&input.key).ok_or_else(|| invalid(&input.key))?;
    let value = |text: Option<String>| text.map_or(Value::Null, Value::from);
    let outcome = match (reads, output.found, &output.value) {
        (false, None, None) | (true, Some(true), Some(_)) | (true, Some(false), None) => {
            Outcome::Committed
        }
        (true, None, None) => Outcome::Unknown,
        _ => {
            return Err("Output needs Found and Value after a read that has found the key, Found \
                         after one that has not, and nothing after a write"
                .to_owned());
        }
    };
    let mut micro = Vec::new();
    if reads {
        micro.push(("r".to_owned(), key.clone(), value(output.value)));
    }
    if writes {
        micro.push(("w".to_owned(), key, value(input.value)));
    }
    let process = i64::try_from(client_id).unwrap_or(i64::MAX);
    Ok(Transaction { index: u64::MAX, outcome, process, began: call, ended: returned, micro })
}

/// A time in nanoseconds. The type holds up to 584 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
