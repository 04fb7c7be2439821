//! The KV service: reads, changes, transactions, compaction.

use coord_core::{Compact, Delete, Put, Range, Txn};
use coord_etcd::wire::ToWire;
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService,
    PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse,
    PbTxnOpRequest, PbTxnRequest, PbTxnResponse,
};
use futures_util::stream::Empty;
use tonic::{Request, Response, Status, async_trait};

use crate::alarm::Change;
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
        Err(Status::unimplemented("unknown method RangeStream for service etcdserverpb.KV"))
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
        check_steps(request.get_ref())?;
        self.alarms().check(Change::of(request.get_ref()))?;
        let request: Txn = read(request)?;
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

/// Refuses a sort that etcd does not know, as 3.6 does; 3.5 crashes.
fn check_sort(range: &PbRangeRequest) -> Result<(), Status> {
    if (0..=2).contains(&range.sort_order) && (0..=4).contains(&range.sort_target) {
        return Ok(());
    }
    Err(Status::invalid_argument("etcdserver: invalid sort option"))
}

/// Refuses a step that says nothing, in etcd's odd words for it.
fn check_steps(txn: &PbTxnRequest) -> Result<(), Status> {
    for step in txn.success.iter().chain(&txn.failure) {
        match &step.request {
            Some(PbTxnOpRequest::RequestRange(range)) => check_sort(range)?,
            Some(PbTxnOpRequest::RequestTxn(nested)) => check_steps(nested)?,
            Some(_) => {}
            None => return Err(Status::invalid_argument("etcdserver: key not found")),
        }
    }
    Ok(())
}
