//! The KV service: range, put, delete, transactions and compaction.

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

use crate::alarm::RequestKind;
use crate::call::{CallFuture, reject, unary, unknown_method};
use crate::check::{check_sort, check_txn};
use crate::fast_path::RequestBody;
use crate::services::{MESSAGE_OVERHEAD_BYTES, Services, read_request};
use crate::status::{check_message, status_with_limits};

impl Services {
    /// Translates the backend's result into a response or into etcd's status.
    fn respond<T: ToWire>(&self, result: coord_core::Result<T>) -> Result<T::Wire, Status> {
        let response =
            result.map_err(|error| status_with_limits(&error, self.backend().limits()))?;
        Ok(response.to_wire())
    }

    /// Rejects a change that etcd's transport would reject. Needed if this server is configured
    /// with a higher limit than the backend has, and so accepts larger messages.
    fn check_transport_limit(&self, change: &impl prost::Message) -> Result<(), Status> {
        let limit = self.backend().limits().max_request_bytes;
        if self.limits().request_bytes <= limit {
            return Ok(());
        }
        check_message(change.encoded_len(), limit.saturating_add(MESSAGE_OVERHEAD_BYTES))
    }

    /// Whether a change exceeds this server's limit, if that is lower than the backend's.
    fn exceeds_server_limit(&self, change: &impl prost::Message) -> bool {
        let limit = self.limits().request_bytes;
        limit < self.backend().limits().max_request_bytes && change.encoded_len() > limit
    }

    /// Rejects a change that is too large. As in etcd, any other error of the change that is found
    /// without reading data takes precedence.
    fn check_size(
        &self,
        is_too_large: bool,
        check: impl FnOnce() -> coord_core::Result<()>,
    ) -> Result<(), Status> {
        if !is_too_large {
            return Ok(());
        }
        check().map_err(|error| status_with_limits(&error, self.backend().limits()))?;
        Err(Status::invalid_argument("etcdserver: request is too large"))
    }
}

/// Handles a call of the KV service.
pub(crate) fn call(
    services: &Services,
    method: &str,
    request: http::Request<impl RequestBody>,
) -> CallFuture {
    match method {
        "Range" => unary(services, request, range),
        "Put" => unary(services, request, put),
        "DeleteRange" => unary(services, request, delete_range),
        "Txn" => unary(services, request, txn),
        "Compact" => unary(services, request, compact),
        _ => reject(unknown_method("etcdserverpb.KV", method)),
    }
}

async fn range(services: Services, request: PbRangeRequest) -> Result<PbRangeResponse, Status> {
    check_sort(&request)?;
    let request: Range = read_request(request)?;
    services.respond(services.backend().range(request).await)
}

async fn put(services: Services, request: PbPutRequest) -> Result<PbPutResponse, Status> {
    services.check_transport_limit(&request)?;
    let is_too_large = services.exceeds_server_limit(&request);
    services.alarms().check(RequestKind::GrowingWrite)?;
    let request: Put = read_request(request)?;
    services.check_size(is_too_large, || request.check())?;
    services.respond(services.backend().put(request).await)
}

async fn delete_range(
    services: Services,
    request: PbDeleteRequest,
) -> Result<PbDeleteResponse, Status> {
    services.check_transport_limit(&request)?;
    let is_too_large = services.exceeds_server_limit(&request);
    services.alarms().check(RequestKind::Write)?;
    let request: Delete = read_request(request)?;
    services.check_size(is_too_large, || {
        let has_key = !request.keys.start().is_empty();
        has_key.then_some(()).ok_or(Error::EmptyKey)
    })?;
    services.respond(services.backend().delete(request).await)
}

async fn txn(services: Services, request: PbTxnRequest) -> Result<PbTxnResponse, Status> {
    services.check_transport_limit(&request)?;
    let is_too_large = services.exceeds_server_limit(&request);
    check_txn(&request, services.backend().limits().max_txn_ops)?;
    services.alarms().check(RequestKind::of(&request))?;
    let request: Txn = read_request(normalize_compares(request))?;
    services.check_size(is_too_large, || request.check(&services.backend().limits()))?;
    services.respond(services.backend().txn(request).await)
}

async fn compact(
    services: Services,
    request: PbCompactionRequest,
) -> Result<PbCompactionResponse, Status> {
    services.alarms().check(RequestKind::Write)?;
    let request: Compact = read_request(request)?;
    services.respond(services.backend().compact(request).await)
}

/// Replaces compares with unknown enum values by compares that evaluate to the same result as in
/// etcd.
fn normalize_compares(mut txn: PbTxnRequest) -> PbTxnRequest {
    txn.compare.iter_mut().for_each(normalize_compare);
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        if let Some(PbTxnOpRequest::RequestTxn(nested)) = &mut op.request {
            *nested = normalize_compares(std::mem::take(nested));
        }
    }
    txn
}

/// Replaces a compare with unknown enum values. etcd evaluates a compare with an unknown operator
/// as true, and an unknown target as equal to any operand. A compare of the value of a key that
/// does not exist is always false.
///
/// Source: etcd 3.5 `applyCompare` in `server/etcdserver/apply.go`.
fn normalize_compare(compare: &mut PbCompare) {
    const VERSION: i32 = 0;
    const VALUE: i32 = 3;
    const EQUAL: i32 = 0;
    const GREATER: i32 = 1;
    let target_known = (0..=4).contains(&compare.target);
    let least_version = match compare.result {
        0..=3 if target_known => return,
        // Versions are never negative. So a compare with a least version of 0 is always true, and
        // one with the maximum is always false.
        EQUAL => 0,
        1..=3 => i64::MAX,
        _ if compare.target == VALUE => 1,
        _ => 0,
    };
    compare.target = VERSION;
    compare.result = GREATER;
    compare.target_union = Some(PbTargetUnion::Version(least_version - 1));
}
