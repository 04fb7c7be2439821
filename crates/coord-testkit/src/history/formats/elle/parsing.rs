//! Parses Elle's files, and pairs invocations with completions.
//!
//! ```text
//! line 1   invoke, process 0  ─┐
//! line 2   invoke, process 1   │     T2 in progress at the end: unknown
//! line 3   ok,     process 0  ─┘     T1
//! ```
//!
//! Transactions are in the order of their completions. Transactions without a completion come last.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;

use super::super::{FormatError, edn};
use super::scalar::{to_bytes, to_string};

/// What a completion states about a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Outcome {
    Committed,
    Aborted,
    Unknown,
}

/// A micro-operation: the function, the key, and what was read or written.
pub(in super::super) type Micro = (String, Bytes, Value);

/// A transaction.
pub(in super::super) struct Transaction {
    /// The index of its completion.
    pub(in super::super) index: u64,
    pub(in super::super) outcome: Outcome,
    pub(in super::super) process: i64,
    /// Nanoseconds.
    pub(in super::super) began: u64,
    pub(in super::super) ended: u64,
    pub(in super::super) micro: Vec<Micro>,
}

/// A line of a file.
struct ParsedOperation {
    index: u64,
    kind: String,
    process: i64,
    time: Option<u64>,
    micro: Vec<Micro>,
}

/// The transactions of a file.
pub(super) fn transactions(text: &str) -> Result<Vec<Transaction>, FormatError> {
    let mut operations = Vec::new();
    for (i, form) in forms(text)?.iter().enumerate() {
        operations.extend(operation(form).map_err(|message| FormatError::syntax(i + 1, message))?);
    }
    if operations.iter().any(|operation| operation.time.is_none()) {
        for (operation, position) in operations.iter_mut().zip(1..) {
            operation.time = Some(position);
        }
    }
    let last = operations.iter().filter_map(|operation| operation.time).max().unwrap_or_default();
    let mut pending = BTreeMap::new();
    let (mut transactions, mut unfinished) = (Vec::new(), Vec::new());
    for operation in operations {
        if operation.kind == "invoke" {
            unfinished.extend(pending.insert(operation.process, operation));
        } else {
            let invoked = pending.remove(&operation.process);
            transactions.push(Transaction::completed(invoked, operation));
        }
    }
    unfinished.extend(pending.into_values());
    let pending = unfinished.into_iter().map(|invoked| Transaction {
        index: u64::MAX,
        outcome: Outcome::Unknown,
        process: invoked.process,
        began: invoked.time.unwrap_or_default(),
        ended: last,
        micro: invoked.micro,
    });
    transactions.extend(pending);
    Ok(transactions)
}

impl Transaction {
    /// A transaction that has completed. Without its invocation nothing shows when it began: it may
    /// overlap all others.
    fn completed(invoked: Option<ParsedOperation>, completed: ParsedOperation) -> Self {
        let outcome = match completed.kind.as_str() {
            "ok" => Outcome::Committed,
            "fail" => Outcome::Aborted,
            _ => Outcome::Unknown,
        };
        let (began, writes) = match invoked {
            Some(invoked) => (invoked.time.unwrap_or_default(), invoked.micro),
            None => (0, Vec::new()),
        };
        // Without a response only the invocation has the writes.
        let has_values = outcome == Outcome::Committed || !completed.micro.is_empty();
        Self {
            index: completed.index,
            outcome,
            process: completed.process,
            began,
            ended: completed.time.unwrap_or_default(),
            micro: if has_values { completed.micro } else { writes },
        }
    }

    pub(super) fn is_committed(&self) -> bool {
        self.outcome == Outcome::Committed
    }
}

/// The operations of a file, as JSON values.
fn forms(text: &str) -> Result<Vec<Value>, FormatError> {
    let first = text.chars().find(|c| !c.is_whitespace() && *c != '[');
    let second = text.trim_start().trim_start_matches('[').trim_start().chars().nth(1);
    let is_json = first == Some('{') && matches!(second, Some('"'));
    let forms = if is_json {
        let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        values
            .collect::<Result<_, _>>()
            .map_err(|error| FormatError::syntax(error.line(), error))?
    } else {
        edn::read(text)?
    };
    match <[Value; 1]>::try_from(forms) {
        Ok([Value::Array(forms)]) => Ok(forms),
        Ok(form) => Ok(form.into()),
        Err(forms) => Ok(forms),
    }
}

/// A transaction; `None` for an operation that is none.
fn operation(form: &Value) -> Result<Option<ParsedOperation>, String> {
    let field = |name: &str| form.get(name).filter(|value| !value.is_null());
    let is_transaction = field("f").is_none_or(|f| f == "txn");
    let process = field("process").map_or(Some(0), Value::as_i64);
    let (true, Some(process)) = (is_transaction, process) else { return Ok(None) };
    let kind = field("type").and_then(Value::as_str).unwrap_or_default();
    if !["invoke", "ok", "fail", "info"].contains(&kind) {
        return Err(format!("invalid type {kind:?}: must be invoke, ok, fail or info"));
    }
    let value = field("value");
    // Only a transaction that has committed surely has a value.
    if kind == "ok" && value.is_none() {
        return Err("a transaction of type \"ok\" needs a value".to_owned());
    }
    if let Some(value) = value.filter(|value| !value.is_array()) {
        return Err(format!("the value {value} is no list of micro-operations"));
    }
    let micro = value.and_then(Value::as_array).into_iter().flatten();
    let micro = micro.map(|micro| {
        let parts = micro.as_array().map(Vec::as_slice);
        let Some([Value::String(function), key, value]) = parts else {
            return Err(format!("{micro} is no micro-operation"));
        };
        if !["r", "w", "append"].contains(&function.as_str()) {
            return Err(format!("invalid micro-operation {function:?}: must be r, w or append"));
        }
        let key = to_bytes(key).ok_or_else(|| format!("{key} is no key"))?;
        Ok((function.clone(), key, value.clone()))
    });
    Ok(Some(ParsedOperation {
        index: field("index").and_then(Value::as_u64).unwrap_or(u64::MAX),
        kind: kind.to_owned(),
        process,
        time: field("time").and_then(Value::as_u64),
        micro: micro.collect::<Result<_, _>>()?,
    }))
}

/// The elements of a list that was read.
pub(super) fn list(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(to_string).collect()
}
