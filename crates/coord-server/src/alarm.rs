//! Alarms: raised and disarmed through the Maintenance service; while raised, they reject writes.
//!
//! A backend raises no alarm itself. Operators' tools and tests of clients raise alarms to see how
//! writes fail: `NOSPACE` rejects puts and lease grants, `CORRUPT` rejects every write. Reads are
//! not affected.
//!
//! Source: etcd 3.5 `server/etcdserver/api/v3alarm/alarms.go`, `server/etcdserver/apply.go`,
//! `server/etcdserver/corrupt.go`.

use std::collections::BTreeSet;
use std::sync::Mutex;

use coord_core::sync;
use etcd_client::AlarmType;
use etcd_client::proto::{PbAlarmMember, PbAlarmRequest, PbTxnOpRequest, PbTxnRequest};
use tonic::{Code, Status};

/// The alarms that are raised, by kind and member id.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    raised: Mutex<BTreeSet<(AlarmType, u64)>>,
}

/// The kind of a request. An alarm rejects some kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// A request that only reads.
    ReadOnly,
    /// A write that needs no space.
    Write,
    /// A write that needs space.
    GrowingWrite,
}

impl RequestKind {
    /// The kind of a transaction. As in etcd, puts inside nested transactions are not considered.
    pub(crate) fn of(txn: &PbTxnRequest) -> Self {
        let ops = || txn.success.iter().chain(&txn.failure).map(|op| &op.request);
        if ops().any(|op| matches!(op, Some(PbTxnOpRequest::RequestPut(_)))) {
            Self::GrowingWrite
        } else if ops().all(|op| matches!(op, Some(PbTxnOpRequest::RequestRange(_)))) {
            Self::ReadOnly
        } else {
            Self::Write
        }
    }
}

impl Alarms {
    /// Applies an alarm request, and returns the alarms that it listed, raised or disarmed.
    pub(crate) fn handle(&self, request: PbAlarmRequest) -> Result<Vec<PbAlarmMember>, Status> {
        let kind = AlarmType::try_from(request.alarm).map_err(|_| unknown_alarm(request.alarm))?;
        let alarm = (kind, request.member_id);
        let mut raised = sync::lock(&self.raised);
        // 0 lists alarms, 1 raises one, 2 disarms one.
        let affected = match request.action {
            0 => {
                let matches = |&&(raised, _): &&_| kind == AlarmType::None || raised == kind;
                raised.iter().filter(matches).copied().collect()
            }
            1 if kind != AlarmType::None => {
                raised.insert(alarm);
                vec![alarm]
            }
            2 if raised.remove(&alarm) => vec![alarm],
            _ => Vec::new(),
        };
        let member = |(kind, member_id)| PbAlarmMember { member_id, alarm: kind as i32 };
        Ok(affected.into_iter().map(member).collect())
    }

    /// All raised alarms, in etcd's text form.
    pub(crate) fn to_strings(&self) -> Vec<String> {
        let raised = sync::lock(&self.raised);
        let print = |&(kind, member): &(AlarmType, u64)| {
            let member = if member == 0 { String::new() } else { format!("memberID:{member} ") };
            format!("{member}alarm:{} ", kind.as_str_name())
        };
        raised.iter().map(print).collect()
    }

    /// The first raised alarm of a kind that `selects` accepts.
    pub(crate) fn first_raised(&self, selects: impl Fn(AlarmType) -> bool) -> Option<AlarmType> {
        let raised = sync::lock(&self.raised);
        raised.iter().map(|&(kind, _)| kind).find(|kind| selects(*kind))
    }

    /// Rejects a write while an alarm forbids it.
    pub(crate) fn check(&self, kind: RequestKind) -> Result<(), Status> {
        let raised = sync::lock(&self.raised);
        // The alarms are sorted by severity: `CORRUPT` is last.
        match raised.last() {
            Some((AlarmType::Corrupt, _)) if kind != RequestKind::ReadOnly => {
                Err(Status::new(Code::DataLoss, "etcdserver: corrupt cluster"))
            }
            Some((AlarmType::Nospace, _)) if kind == RequestKind::GrowingWrite => {
                Err(Status::resource_exhausted("etcdserver: mvcc: database space exceeded"))
            }
            _ => Ok(()),
        }
    }
}

/// The status for an alarm of an unknown kind.
fn unknown_alarm(alarm: i32) -> Status {
    Status::invalid_argument(format!(
        "coord: unknown alarm type {alarm}: must be 0 (NONE), 1 (NOSPACE) or 2 (CORRUPT)"
    ))
}
