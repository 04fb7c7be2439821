//! Reads Elle's histories.
//!
//! Elle's histories have no revisions, and coord's need them: a revision that is unknown is
//! [`Revision::ZERO`]. With a transaction order, the revision of a transaction is its position, and
//! that of a read is the position of the transaction that has put the value:
//!
//! ```text
//! order        {1: 7}
//! op 1         ["w", "x", 2]      committed at revision 7
//! op 3         ["r", "x", 2]      reads x@7
//! ```
//!
//! Micro-operations become the reads of an attempt and its writes:
//!
//! - only the first read of a key, and only if it precedes every write of the key;
//! - only the last write of a key;
//! - an appended element becomes the list after the transaction: what the transaction has read and
//!   appended, or the beginning of the longest list that was read, up to the element.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::Revision;
use coord_core::stm::Isolation;
use serde_json::Value;

use super::super::{FormatError, edn};
use super::inferred;
use super::scalar::{to_bytes, to_string};
use crate::history::{Attempt, AttemptEnd, Event, EventKind, History, KeyRead, KeyWrite};

/// An operation of a file: the invocation or the completion of a transaction.
pub(super) struct Operation {
    index: u64,
    pub(super) kind: String,
    process: i64,
    time: Option<u64>,
    pub(super) micro: Vec<(String, Bytes, Value)>,
}

/// Reads a history in JSON Lines, as a JSON array, or in EDN. Only operations whose `f` is `txn`,
/// or that have no `f`, are transactions; all other operations are left out, and so are operations
/// whose process is not a number.
///
/// Without an `order`, that of a list-append history is inferred from the lists that were read;
/// elements of keys that were not read are left out. If it cannot be inferred, as for registers, no
/// revision is known, and the isolation checker leaves all levels unknown that nothing refutes.
///
/// The isolation level of every transaction is the default one. If an operation has no `time`, the
/// times are the positions in the file.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use coord_testkit::history::formats::elle;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let text = "{:type :invoke, :f :txn, :value [[:w :x 2]], :process 0, :index 0}
///             {:type :ok, :f :txn, :value [[:w :x 2]], :process 0, :index 1}";
/// let history = elle::read(text, &BTreeMap::from([(1, 7)]))?;
/// assert_eq!(
///     history.0[0].kind.to_string(),
///     "tx attempt 1 of transaction 1; puts x; committed at revision 7"
/// );
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Syntax`. If the text is JSON or EDN but not a history, the line is the number of the operation,
/// from 1.
pub fn read(text: &str, order: &BTreeMap<u64, i64>) -> Result<History, FormatError> {
    let mut operations = Vec::new();
    for (i, form) in forms(text)?.iter().enumerate() {
        operations.extend(operation(form).map_err(|message| FormatError::syntax(i + 1, message))?);
    }
    if operations.iter().any(|operation| operation.time.is_none()) {
        for (operation, position) in operations.iter_mut().zip(1..) {
            operation.time = Some(position);
        }
    }
    let longest = longest_lists(&operations);
    let is_lists = |operation: &Operation| operation.micro.iter().any(|(f, ..)| f == "append");
    let inferred = (order.is_empty() && operations.iter().any(is_lists))
        .then(|| inferred::positions(&operations))
        .flatten();
    let positions = Positions { order, inferred };
    let mut pending = BTreeMap::new();
    let mut events = Vec::new();
    let last = operations.iter().filter_map(|operation| operation.time).max();
    for (place, operation) in operations.into_iter().enumerate() {
        if operation.kind == "invoke" {
            pending.insert(operation.process, (place, operation));
        } else if let Some((_, mut invoked)) = pending.remove(&operation.process) {
            let mut operation = operation;
            if positions.is_inferred() {
                drop_unread(&mut operation, &longest);
                drop_unread(&mut invoked, &longest);
            }
            let mut event = event(
                &invoked,
                &operation,
                positions.of(place, &operation),
                &longest,
                events.len(),
            );
            if operation.kind == "info" && positions.is_inferred_at(place) {
                // Its elements were read: it has committed, and nothing shows when.
                event.at = nanos(last);
            }
            events.push(event);
        }
    }
    // Transactions in progress at the end.
    for (_, (_, mut invoked)) in pending {
        let began = invoked.time;
        (invoked.kind, invoked.time) = ("info".to_owned(), last);
        let mut pending = event(&invoked, &invoked, None, &longest, events.len());
        if let EventKind::Attempt(attempt) = &mut pending.kind {
            attempt.began = nanos(began);
        }
        events.push(pending);
    }
    resolve_reads(&mut events);
    Ok(History(events))
}

/// The positions of transactions in their order.
struct Positions<'a> {
    /// By the index of the completion.
    order: &'a BTreeMap<u64, i64>,
    /// By the place of the completion, if they are inferred.
    inferred: Option<BTreeMap<usize, i64>>,
}

impl Positions<'_> {
    const fn is_inferred(&self) -> bool {
        self.inferred.is_some()
    }

    fn is_inferred_at(&self, place: usize) -> bool {
        self.inferred.as_ref().is_some_and(|inferred| inferred.contains_key(&place))
    }

    /// The revision of a completed transaction.
    fn of(&self, place: usize, completed: &Operation) -> Option<i64> {
        if let Some(inferred) = &self.inferred {
            return inferred.get(&place).copied();
        }
        // Revisions are positive. A transaction without a known outcome has none.
        let shift = (1 - self.order.values().min().copied().unwrap_or(1)).max(0);
        let position = self.order.get(&completed.index).filter(|_| completed.kind == "ok");
        position.map(|position| position + shift)
    }
}

/// Removes what an operation has appended, if nothing depends on it: no list of the key was read,
/// or no list shows whether it was applied.
fn drop_unread(operation: &mut Operation, longest: &BTreeMap<Bytes, Vec<String>>) {
    let is_committed = operation.kind == "ok";
    operation.micro.retain(|(function, key, value)| {
        let is_read =
            |list: &Vec<String>| to_string(value).is_some_and(|value| list.contains(&value));
        let list = longest.get(key);
        function != "append" || list.is_some_and(|list| is_committed || is_read(list))
    });
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
fn operation(form: &Value) -> Result<Option<Operation>, String> {
    let field = |name: &str| form.get(name).filter(|value| !value.is_null());
    let is_transaction = field("f").is_none_or(|f| f == "txn");
    let process = field("process").map_or(Some(0), Value::as_i64);
    let (true, Some(process)) = (is_transaction, process) else { return Ok(None) };
    let kind = field("type").and_then(Value::as_str).unwrap_or_default();
    if !["invoke", "ok", "fail", "info"].contains(&kind) {
        return Err(format!("the type {kind:?} is unknown"));
    }
    let micro = field("value").and_then(Value::as_array).into_iter().flatten();
    let micro = micro.map(|micro| {
        let parts = micro.as_array().map(Vec::as_slice);
        let Some([Value::String(function), key, value]) = parts else {
            return Err(format!("{micro} is no micro-operation"));
        };
        if !["r", "w", "append"].contains(&function.as_str()) {
            return Err(format!("the micro-operation {function:?} is unknown"));
        }
        let key = to_bytes(key).ok_or_else(|| format!("{key} is no key"))?;
        Ok((function.clone(), key, value.clone()))
    });
    Ok(Some(Operation {
        index: field("index").and_then(Value::as_u64).unwrap_or(u64::MAX),
        kind: kind.to_owned(),
        process,
        time: field("time").and_then(Value::as_u64),
        micro: micro.collect::<Result<_, _>>()?,
    }))
}

/// The longest list that was read of each key.
pub(super) fn longest_lists(operations: &[Operation]) -> BTreeMap<Bytes, Vec<String>> {
    let mut longest = BTreeMap::<_, Vec<_>>::new();
    for (function, key, value) in operations.iter().flat_map(|operation| &operation.micro) {
        if let ("r", Some(list)) = (function.as_str(), list(value)) {
            let known = longest.entry(key.clone()).or_default();
            if list.len() > known.len() {
                *known = list;
            }
        }
    }
    longest
}

pub(super) fn list(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(to_string).collect()
}

/// The event of a transaction that was invoked and has completed.
fn event(
    invoked: &Operation,
    completed: &Operation,
    position: Option<i64>,
    longest: &BTreeMap<Bytes, Vec<String>>,
    earlier: usize,
) -> Event {
    let end = match (completed.kind.as_str(), position) {
        ("ok", _) | ("info", Some(_)) => {
            AttemptEnd::Committed { revision: Revision(position.unwrap_or(0)) }
        }
        ("fail", _) => AttemptEnd::Aborted,
        _ => AttemptEnd::Unknown,
    };
    // Without a response only the invocation has the writes.
    let has_values = completed.kind == "ok" || !completed.micro.is_empty();
    let micro = if has_values { &completed.micro } else { &invoked.micro };
    let (reads, writes) = reads_and_writes(micro, completed.kind == "ok", longest);
    let attempt = Attempt {
        transaction: u64::try_from(earlier).unwrap_or(u64::MAX).saturating_add(1),
        number: 1,
        isolation: Isolation::default(),
        began: nanos(invoked.time),
        reads,
        ranges: Vec::new(),
        writes,
        end,
    };
    let process: Arc<str> = completed.process.to_string().into();
    let kind = EventKind::Attempt(Box::new(attempt));
    Event { at: nanos(completed.time), process: Some(process), kind }
}

fn nanos(time: Option<u64>) -> Duration {
    Duration::from_nanos(time.unwrap_or_default())
}

fn reads_and_writes(
    micro: &[(String, Bytes, Value)],
    has_read: bool,
    longest: &BTreeMap<Bytes, Vec<String>>,
) -> (Vec<KeyRead>, Vec<KeyWrite>) {
    let mut reads = BTreeMap::<&Bytes, Option<Bytes>>::new();
    let mut writes = BTreeMap::<&Bytes, Option<Bytes>>::new();
    for (function, key, value) in micro {
        match function.as_str() {
            "r" if has_read && !writes.contains_key(key) => {
                let joined = list(value).filter(|list| !list.is_empty()).map(|l| l.join(" "));
                let found = joined.map(Bytes::from).or_else(|| to_bytes(value));
                reads.entry(key).or_insert(found);
            }
            "w" => drop(writes.insert(key, to_bytes(value))),
            "append" => {
                let element = to_string(value).unwrap_or_default();
                let before = writes.get(key).or_else(|| reads.get(key)).cloned();
                let is_read = longest.get(key).is_some_and(|list| list.contains(&element));
                let list = match before.filter(|_| !is_read) {
                    Some(Some(before)) => [&before, &b" "[..], element.as_bytes()].concat(),
                    Some(None) => element.into_bytes(),
                    None => beginning(longest.get(key), element).into_bytes(),
                };
                writes.insert(key, Some(list.into()));
            }
            _ => {}
        }
    }
    let read = |(key, value): (&Bytes, Option<Bytes>)| KeyRead {
        key: key.clone(),
        found: value.map(|value| (Revision::ZERO, value)),
    };
    let write = |(key, value): (&Bytes, _)| KeyWrite { key: key.clone(), value };
    (reads.into_iter().map(read).collect(), writes.into_iter().map(write).collect())
}

/// The list up to an element; the element alone if no read has seen it.
fn beginning(longest: Option<&Vec<String>>, element: String) -> String {
    let longest = longest.map_or(&[][..], Vec::as_slice);
    match longest.iter().position(|known| *known == element) {
        Some(position) => longest[..=position].join(" "),
        None => element,
    }
}

/// Gives each read the revision of the transaction that has put the value.
fn resolve_reads(events: &mut [Event]) {
    let mut revisions = BTreeMap::new();
    for event in events.iter() {
        let EventKind::Attempt(attempt) = &event.kind else { continue };
        let AttemptEnd::Committed { revision } = attempt.end else { continue };
        for write in &attempt.writes {
            revisions.insert((write.key.clone(), write.value.clone()), revision);
        }
    }
    for event in events {
        let EventKind::Attempt(attempt) = &mut event.kind else { continue };
        for KeyRead { key, found } in &mut attempt.reads {
            if let Some((revision, value)) = found {
                let version = (key.clone(), Some(value.clone()));
                *revision = revisions.get(&version).copied().unwrap_or_default();
            }
        }
    }
}
