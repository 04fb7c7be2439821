//! The text of operations in a failure report: one line for each, without fields at their defaults.

use std::fmt;

use bytes::Bytes;
use coord_core::kv::{
    CompareOp, CompareOperand, Delete, LeaseGrant, LeaseId, Put, Range, SortOrder, SortTarget,
    WatchFilter,
};

use super::{At, CompareDraft, OpDraft, Operation, Pace, RangeDraft, TxnDraft, WatchDraft};

/// The longest key or value that is printed. A longer one is printed as its length in bytes.
const MAX_PRINTED_BYTES: usize = 32;

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current => write!(f, "current"),
            Self::Back(by) => write!(f, "current-{by}"),
            Self::Ahead(by) => write!(f, "current+{by}"),
            Self::Absolute(revision) => write!(f, "{revision}"),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => range.fmt(f),
            Self::Put(put) => f.write_str(&put_text(put)),
            Self::Delete(delete) => f.write_str(&delete_text(delete)),
            Self::Txn(txn) => txn.fmt(f),
            Self::LeaseGrant(LeaseGrant { ttl, id }) => {
                write!(f, "grant {} for {ttl:?}", id.map_or("any".into(), lease))
            }
            Self::LeaseRevoke(id) => write!(f, "revoke {}", lease(*id)),
            Self::LeaseKeepAlive(id) => write!(f, "keep {} alive", lease(*id)),
            Self::LeaseTimeToLive(request) => {
                let keys = if request.keys { ", with keys" } else { "" };
                write!(f, "time to live of {}{keys}", lease(request.id))
            }
            Self::Leases => write!(f, "leases"),
            Self::Compact(compact) => {
                let physical = if compact.physical { ", physically" } else { "" };
                write!(f, "compact at {}{physical}", compact.revision)
            }
            Self::Watch(watch) => watch.fmt(f),
            Self::Unwatch(number) => write!(f, "drop watch {number}, modulo the open watches"),
            Self::Progress(number) => {
                write!(f, "request progress of watch {number}, modulo the open watches")
            }
            Self::ReadWatches => write!(f, "read all watches"),
            Self::Advance { by, pace: Pace::Jump } => write!(f, "jump {by:?} ahead"),
            Self::Advance { by, pace: Pace::Sleep } => write!(f, "sleep {by:?}"),
        }
    }
}

impl fmt::Display for RangeDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { keys, limit, sort_target, sort_order, .. } = &self.request;
        write!(f, "range {keys}")?;
        if self.revision != At::Absolute(0) {
            write!(f, " at {}", self.revision)?;
        }
        if let Some(limit) = limit {
            write!(f, ", limit {limit}")?;
        }
        if (*sort_target, *sort_order) != (SortTarget::Key, SortOrder::None) {
            write!(f, ", sorted by {sort_target:?} {sort_order:?}")?;
        }
        for (name, at) in ["mod >=", "mod <=", "create >=", "create <="].iter().zip(&self.filters) {
            if *at != At::Absolute(0) {
                write!(f, ", {name} {at}")?;
            }
        }
        let Range { serializable, keys_only, count_only, .. } = self.request;
        f.write_str(&flags(&[
            (serializable, "serializable"),
            (keys_only, "keys only"),
            (count_only, "count only"),
        ]))
    }
}

impl fmt::Display for CompareDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (target, operand) = match &self.request.operand {
            CompareOperand::Version(version) => ("version", version.to_string()),
            CompareOperand::CreateRevision(_) => ("create", self.revision.to_string()),
            CompareOperand::ModRevision(_) => ("mod", self.revision.to_string()),
            CompareOperand::Value(value) => ("value", quoted(value)),
            CompareOperand::Lease(None) => ("lease", "none".into()),
            CompareOperand::Lease(Some(id)) => ("lease", id.to_string()),
        };
        let op = match self.request.op {
            CompareOp::Equal => "=",
            CompareOp::Greater => ">",
            CompareOp::Less => "<",
            CompareOp::NotEqual => "!=",
        };
        write!(f, "{target}({}) {op} {operand}", self.request.keys)
    }
}

impl fmt::Display for TxnDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (compares, success, failure) =
            (list(&self.compares), list(&self.success), list(&self.failure));
        write!(f, "txn if [{compares}] then [{success}] else [{failure}]")
    }
}

impl fmt::Display for OpDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(range) => range.fmt(f),
            Self::Put(put) => f.write_str(&put_text(put)),
            Self::Delete(delete) => f.write_str(&delete_text(delete)),
            Self::Txn(txn) => txn.fmt(f),
        }
    }
}

impl fmt::Display for WatchDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "watch {}", self.request.keys)?;
        if self.start != At::Absolute(0) {
            write!(f, " from {}", self.start)?;
        }
        f.write_str(&flags(&[
            (self.request.prev_kv, "with prev_kv"),
            (self.request.filters.contains(&WatchFilter::NoPut), "no puts"),
            (self.request.filters.contains(&WatchFilter::NoDelete), "no deletes"),
            (self.request.progress_notify, "with progress"),
        ]))
    }
}

fn put_text(put: &Put) -> String {
    let lease = put.lease.map_or(String::new(), |id| format!(" on {}", lease(id)));
    let flags = flags(&[
        (put.ignore_value, "keep value"),
        (put.ignore_lease, "keep lease"),
        (put.prev_kv, "with prev_kv"),
    ]);
    format!("put {} = {}{lease}{flags}", quoted(&put.key), quoted(&put.value))
}

fn delete_text(delete: &Delete) -> String {
    format!("delete {}{}", delete.keys, flags(&[(delete.prev_kv, "with prev_kv")]))
}

fn lease(id: LeaseId) -> String {
    format!("lease {id}")
}

fn quoted(bytes: &Bytes) -> String {
    if bytes.len() > MAX_PRINTED_BYTES {
        return format!("({} bytes)", bytes.len());
    }
    format!("\"{}\"", bytes.escape_ascii())
}

fn flags(flags: &[(bool, &str)]) -> String {
    flags.iter().filter(|(set, _)| *set).map(|(_, name)| format!(", {name}")).collect()
}

fn list(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
