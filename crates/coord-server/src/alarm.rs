//! Alarms: raised and disarmed by whoever likes, and changes are refused meanwhile.
//!
//! A store in memory raises none itself. Operators' tools do, and the tests of clients, to see what
//! becomes of changes then: while there is no space nothing is put and no lease granted, and while
//! the store is corrupt nothing is changed at all. Reads are answered as ever.
//!
//! Source: etcd 3.5 `server/etcdserver/api/v3alarm/alarms.go`, `server/etcdserver/apply.go`,
//! `server/etcdserver/corrupt.go`.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use etcd_client::AlarmType;
use etcd_client::proto::{PbAlarmMember, PbAlarmRequest, PbTxnOpRequest, PbTxnRequest};
use tonic::{Code, Status};

/// The alarms that are raised.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    raised: Mutex<BTreeSet<(AlarmType, u64)>>,
}

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It only reads.
    None,
    /// It needs no room.
    Other,
    /// It needs room.
    Growth,
}

impl Change {
    /// Only what a transaction puts by itself is counted, not in a transaction within it.
    pub(crate) fn of(txn: &PbTxnRequest) -> Self {
        let steps = || txn.success.iter().chain(&txn.failure).map(|step| &step.request);
        if steps().any(|step| matches!(step, Some(PbTxnOpRequest::RequestPut(_)))) {
            Self::Growth
        } else if steps().all(|step| matches!(step, Some(PbTxnOpRequest::RequestRange(_)))) {
            Self::None
        } else {
            Self::Other
        }
    }
}

impl Alarms {
    /// Does what is asked, and tells which alarms it was done with.
    pub(crate) fn handle(&self, request: PbAlarmRequest) -> Result<Vec<PbAlarmMember>, Status> {
        let unknown = || Status::invalid_argument("coord: there is no such alarm");
        let kind = AlarmType::try_from(request.alarm).map_err(|_| unknown())?;
        let alarm = (kind, request.member_id);
        let mut raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        let done = match request.action {
            0 => {
                let asked = |&&(raised, _): &&_| kind == AlarmType::None || raised == kind;
                raised.iter().filter(asked).copied().collect()
            }
            1 if kind != AlarmType::None => {
                raised.insert(alarm);
                vec![alarm]
            }
            2 if raised.remove(&alarm) => vec![alarm],
            _ => Vec::new(),
        };
        let member = |(kind, member_id)| PbAlarmMember { member_id, alarm: kind as i32 };
        Ok(done.into_iter().map(member).collect())
    }

    /// All of them, as etcd prints them.
    pub(crate) fn printed(&self) -> Vec<String> {
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        let print = |&(kind, member): &(AlarmType, u64)| {
            let member = if member == 0 { String::new() } else { format!("memberID:{member} ") };
            format!("{member}alarm:{} ", kind.as_str_name())
        };
        raised.iter().map(print).collect()
    }

    /// The first that is raised, of those that count.
    pub(crate) fn first(&self, counts: impl Fn(AlarmType) -> bool) -> Option<AlarmType> {
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        raised.iter().map(|&(kind, _)| kind).find(|kind| counts(*kind))
    }

    /// Refuses a change while an alarm forbids it.
    pub(crate) fn check(&self, change: Change) -> Result<(), Status> {
        let raised = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
        // The worse comes last.
        match raised.last() {
            Some((AlarmType::Corrupt, _)) if change != Change::None => {
                Err(Status::new(Code::DataLoss, "etcdserver: corrupt cluster"))
            }
            Some((AlarmType::Nospace, _)) if change == Change::Growth => {
                Err(Status::resource_exhausted("etcdserver: mvcc: database space exceeded"))
            }
            _ => Ok(()),
        }
    }
}
