//! The KV service: reads, changes, transactions, compaction.

use coord_core::{Compact, Delete, Put, Range, Txn};
use coord_etcd::wire::ToWire;
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbCompare, PbDeleteRequest, PbDeleteResponse,
    PbKvService, PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse,
    PbRangeStreamResponse, PbTargetUnion, PbTxnOpRequest, PbTxnRequest, PbTxnResponse,
};
use futures_util::stream::Empty;
use tonic::{Request, Response, Status, async_trait};

use crate::alarm::Change;
use crate::call::unknown_method;
use crate::check::{check_sort, check_txn};
use crate::services::{Services, read};
use crate::status::status_of;

impl Services {
    /// What the backend answered, as etcd would.
    fn answer<T: ToWire>(
        &self,
        answer: coord_core::Result<T>,
    ) -> Result<Response<T::Wire>, Status> {
        let answer = answer.map_err(|error| status_of(&error, self.backend().limits()))?;
        Ok(Response::new(answer.to_wire()))
    }

    /// Refuses a change that the backend would take, but this server does not.
    fn check_size(&self, change: &impl prost::Message) -> Result<(), Status> {
        let limit = self.limits().request_bytes;
        if limit < self.backend().limits().max_request_bytes && change.encoded_len() > limit {
            return Err(Status::invalid_argument("etcdserver: request is too large"));
        }
        Ok(())
    }
}

#[async_trait]
impl PbKvService for Services {
    async fn range(
        &self,
        request: Request<PbRangeRequest>,
    ) -> Result<Response<PbRangeResponse>, Status> {
        check_sort(request.get_ref())?;
        let request: Range = read(request)?;
        self.answer(self.backend().range(request).await)
    }

    type RangeStreamStream = Empty<Result<PbRangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        _: Request<PbRangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        // Newer than the etcd that is served, so no request comes here.
        Err(unknown_method("etcdserverpb.KV", "RangeStream"))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        self.check_size(request.get_ref())?;
        self.alarms().check(Change::Growth)?;
        let request: Put = read(request)?;
        self.answer(self.backend().put_with(request).await)
    }

    async fn delete_range(
        &self,
        request: Request<PbDeleteRequest>,
    ) -> Result<Response<PbDeleteResponse>, Status> {
        self.check_size(request.get_ref())?;
        self.alarms().check(Change::Other)?;
        let request: Delete = read(request)?;
        self.answer(self.backend().delete_with(request).await)
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        self.check_size(request.get_ref())?;
        check_txn(request.get_ref(), self.backend().limits().max_txn_ops)?;
        self.alarms().check(Change::of(request.get_ref()))?;
        let request: Txn = read(request.map(etcds_reading))?;
        self.answer(self.backend().txn(request).await)
    }

    async fn compact(
        &self,
        request: Request<PbCompactionRequest>,
    ) -> Result<Response<PbCompactionResponse>, Status> {
        self.alarms().check(Change::Other)?;
        let request: Compact = read(request)?;
        self.answer(self.backend().compact(request).await)
    }
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
