//! The KV service: reads, changes, transactions, compaction.

use coord_core::{
    Error,
    kv::{Compact, Delete, Put, Range, Txn},
};
use coord_etcd::wire::ToWire;
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbCompare, PbDeleteRequest, PbDeleteResponse,
    PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse, PbTargetUnion, PbTxnOpRequest,
    PbTxnRequest, PbTxnResponse,
};
use tonic::Status;
use tonic::codegen::http;

use crate::alarm::Change;
use crate::call::{Answer, refuse, unary, unknown_method};
use crate::check::{check_sort, check_txn};
use crate::services::{MESSAGE_OVERHEAD_BYTES, Services, read};
use crate::small::Incoming;
use crate::status::{check_message, status_of};

impl Services {
    /// What the backend answered, as etcd would.
    fn answer<T: ToWire>(&self, answer: coord_core::Result<T>) -> Result<T::Wire, Status> {
        let answer = answer.map_err(|error| status_of(&error, self.backend().limits()))?;
        Ok(answer.to_wire())
    }

    /// Refuses a change that etcd's transport would not let in, where this server's own transport
    /// lets in more than the backend takes.
    fn check_message(&self, change: &impl prost::Message) -> Result<(), Status> {
        let limit = self.backend().limits().max_request_bytes;
        if self.limits().request_bytes <= limit {
            return Ok(());
        }
        check_message(change.encoded_len(), limit.saturating_add(MESSAGE_OVERHEAD_BYTES))
    }

    /// Whether the backend would take a change of this size, and this server does not.
    fn is_too_large(&self, change: &impl prost::Message) -> bool {
        let limit = self.limits().request_bytes;
        limit < self.backend().limits().max_request_bytes && change.encoded_len() > limit
    }

    /// Refuses a change, if it is too large: for what else is wrong with it, if something is.
    fn refuse_size(
        &self,
        is_too_large: bool,
        check: impl FnOnce() -> coord_core::Result<()>,
    ) -> Result<(), Status> {
        if !is_too_large {
            return Ok(());
        }
        check().map_err(|error| status_of(&error, self.backend().limits()))?;
        Err(Status::invalid_argument("etcdserver: request is too large"))
    }
}

/// Answers a call of the service.
pub(crate) fn call(
    services: &Services,
    method: &str,
    request: http::Request<impl Incoming>,
) -> Answer {
    match method {
        "Range" => unary(services, request, range),
        "Put" => unary(services, request, put),
        "DeleteRange" => unary(services, request, delete_range),
        "Txn" => unary(services, request, txn),
        "Compact" => unary(services, request, compact),
        _ => refuse(unknown_method("etcdserverpb.KV", method)),
    }
}

async fn range(services: Services, request: PbRangeRequest) -> Result<PbRangeResponse, Status> {
    check_sort(&request)?;
    let request: Range = read(request)?;
    services.answer(services.backend().range(request).await)
}

async fn put(services: Services, request: PbPutRequest) -> Result<PbPutResponse, Status> {
    services.check_message(&request)?;
    let is_too_large = services.is_too_large(&request);
    services.alarms().check(Change::Growth)?;
    let request: Put = read(request)?;
    services.refuse_size(is_too_large, || request.check())?;
    services.answer(services.backend().put_with(request).await)
}

async fn delete_range(
    services: Services,
    request: PbDeleteRequest,
) -> Result<PbDeleteResponse, Status> {
    services.check_message(&request)?;
    let is_too_large = services.is_too_large(&request);
    services.alarms().check(Change::Other)?;
    let request: Delete = read(request)?;
    services.refuse_size(is_too_large, || {
        let has_key = !request.keys.start().is_empty();
        has_key.then_some(()).ok_or(Error::EmptyKey)
    })?;
    services.answer(services.backend().delete(request).await)
}

async fn txn(services: Services, request: PbTxnRequest) -> Result<PbTxnResponse, Status> {
    services.check_message(&request)?;
    let is_too_large = services.is_too_large(&request);
    check_txn(&request, services.backend().limits().max_txn_ops)?;
    services.alarms().check(Change::of(&request))?;
    let request: Txn = read(etcds_reading(request))?;
    services.refuse_size(is_too_large, || request.check(&services.backend().limits()))?;
    services.answer(services.backend().txn(request).await)
}

async fn compact(
    services: Services,
    request: PbCompactionRequest,
) -> Result<PbCompactionResponse, Status> {
    services.alarms().check(Change::Other)?;
    let request: Compact = read(request)?;
    services.answer(services.backend().compact(request).await)
}

/// Says in known words what etcd takes compares to mean that it does not know.
fn etcds_reading(mut txn: PbTxnRequest) -> PbTxnRequest {
    txn.compare.iter_mut().for_each(read_as_etcd);
    for step in txn.success.iter_mut().chain(&mut txn.failure) {
        if let Some(PbTxnOpRequest::RequestTxn(nested)) = &mut step.request {
            *nested = etcds_reading(std::mem::take(nested));
        }
    }
    txn
}

/// With a result that etcd does not know a compare holds, and a target that it does not know is
/// equal to whatever it is compared with. Values of keys that are not there never compare.
///
/// Source: etcd 3.5 `applyCompare` in `server/etcdserver/apply.go`.
fn read_as_etcd(compare: &mut PbCompare) {
    const VERSION: i32 = 0;
    const VALUE: i32 = 3;
    const EQUAL: i32 = 0;
    const GREATER: i32 = 1;
    let target_known = (0..=4).contains(&compare.target);
    let least_version = match compare.result {
        0..=3 if target_known => return,
        // Versions are never negative, so one of two compares always holds, the other never.
        EQUAL => 0,
        1..=3 => i64::MAX,
        _ if compare.target == VALUE => 1,
        _ => 0,
    };
    compare.target = VERSION;
    compare.result = GREATER;
    compare.target_union = Some(PbTargetUnion::Version(least_version - 1));
}
