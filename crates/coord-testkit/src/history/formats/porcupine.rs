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
//! that it has no effect.
//!
//! Source: `model.go` of github.com/anishathalye/porcupine.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use super::FormatError;
use super::bytes::to_text;
use super::operations::{inexpressible, last_attempts, writes};
use crate::history::{AttemptEnd, History};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Operation {
    client_id: u64,
    input: Input,
    call: u128,
    output: Output,
    r#return: u128,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Input {
    op: &'static str,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
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
        all.push(Operation {
            client_id: operation.client,
            input: Input {
                op,
                key: to_text(key).into_owned(),
                value: written.map(|value| to_text(value).into_owned()),
            },
            call: attempt.began.as_nanos(),
            output: Output { found: found.map(Option::is_some), value },
            r#return: returned.as_nanos(),
        });
    }
    serde_json::to_writer(out, &all).map_err(std::io::Error::from)?;
    Ok(())
}
