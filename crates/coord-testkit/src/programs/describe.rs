//! Requests and their responses as one line of text, for a failed schedule.
//!
//! ```text
//! read x: x@2
//! if x@2 then put y: revision 3
//! if x@2 then put y: no: x@3
//! ```

use bytes::Bytes;
use coord_core::kv::{
    Compare, CompareOp, CompareOperand, Header, KeyRange, KeyValue, Op, OpResponse, Range,
    RangeResponse, Revision, Txn, TxnResponse,
};
use coord_core::{Error, Result};

/// A range request, and what it has found.
pub(super) fn range(request: &Range, response: &Result<RangeResponse>) -> String {
    let at = request.revision.map_or_else(String::new, |at| format!(" at revision {at}"));
    let response = match response {
        Ok(response) => found(&request.keys, &response.kvs),
        Err(error) => format!("error: {error}"),
    };
    format!("read {}{at}: {response}", keys(&request.keys))
}

/// A put.
pub(super) fn put(key: &Bytes, response: Result<&Header, &Error>) -> String {
    change(&format!("put {}", key.escape_ascii()), response)
}

/// A delete.
pub(super) fn delete(range: &KeyRange, response: Result<&Header, &Error>) -> String {
    change(&format!("delete {}", keys(range)), response)
}

fn change(request: &str, response: Result<&Header, &Error>) -> String {
    match response {
        Ok(header) => format!("{request}: revision {}", header.revision),
        Err(error) => format!("{request}: error: {error}"),
    }
}

/// A transaction, and its outcome.
pub(super) fn txn(request: &Txn, response: &Result<TxnResponse>) -> String {
    let mut text = String::new();
    if !request.compares.is_empty() {
        let compares: Vec<_> = request.compares.iter().map(compare).collect();
        text.push_str(&format!("if {} then ", compares.join(", ")));
    }
    let ops: Vec<_> = request.success.iter().map(op).collect();
    text.push_str(if ops.is_empty() { "nothing" } else { "" });
    text.push_str(&ops.join(", "));
    let response = match response {
        Err(error) => format!("error: {error}"),
        Ok(response) if response.succeeded && request.is_read_only() => {
            format!("yes: {}", read(&request.success, response))
        }
        Ok(response) if response.succeeded => format!("revision {}", response.header.revision),
        Ok(response) => format!("no: {}", read(&request.failure, response)),
    };
    format!("{text}: {response}")
}

/// What the read operations of a transaction have found.
fn read(ops: &[Op], response: &TxnResponse) -> String {
    let found: Vec<_> = ops
        .iter()
        .zip(&response.responses)
        .filter_map(|(op, response)| match (op, response) {
            (Op::Range(range), OpResponse::Range(read)) => Some(found(&range.keys, &read.kvs)),
            _ => None,
        })
        .collect();
    if found.is_empty() { "nothing read".to_owned() } else { found.join(", ") }
}

fn op(op: &Op) -> String {
    match op {
        Op::Range(range) => format!("read {}", keys(&range.keys)),
        Op::Put(put) => format!("put {}", put.key.escape_ascii()),
        Op::Delete(delete) => format!("delete {}", keys(&delete.keys)),
        Op::Txn(_) => "a nested transaction".to_owned(),
    }
}

fn compare(compare: &Compare) -> String {
    let operator = match compare.op {
        CompareOp::Equal => "=",
        CompareOp::Greater => ">",
        CompareOp::Less => "<",
        CompareOp::NotEqual => "!=",
    };
    match &compare.operand {
        CompareOperand::ModRevision(Revision::ZERO) if compare.op == CompareOp::Equal => {
            format!("{} absent", keys(&compare.keys))
        }
        CompareOperand::ModRevision(revision) if compare.op == CompareOp::Equal => {
            format!("{}@{revision}", keys(&compare.keys))
        }
        CompareOperand::ModRevision(revision) => {
            format!("mod revision of {} {operator} {revision}", keys(&compare.keys))
        }
        operand => format!("{} {operator} {operand:?}", keys(&compare.keys)),
    }
}

fn found(range: &KeyRange, kvs: &[KeyValue]) -> String {
    if kvs.is_empty() {
        return format!("{} absent", keys(range));
    }
    let one = |kv: &KeyValue| format!("{}@{}", kv.key.escape_ascii(), kv.mod_revision);
    kvs.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A single key without quotes, otherwise the range.
fn keys(range: &KeyRange) -> String {
    if range.is_single() { range.start().escape_ascii().to_string() } else { range.to_string() }
}
