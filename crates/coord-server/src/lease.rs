//! The Lease service: grant, revoke, keep-alive, time to live, list.

use coord_core::{
    Error,
    kv::{LeaseGrant, LeaseId, LeaseTimeToLive, LeaseTimeToLiveResponse},
};
use coord_etcd::wire::{FromWire, ToWire};
use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse,
    PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse,
    PbLeaseService, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::alarm::RequestKind;
use crate::services::{Services, read_request};
use crate::status::status;

/// Translates the backend's result into a response or into etcd's status.
fn respond<T: ToWire>(result: coord_core::Result<T>) -> Result<Response<T::Wire>, Status> {
    result.map(|response| Response::new(response.to_wire())).map_err(|error| status(&error))
}

#[async_trait]
impl PbLeaseService for Services {
    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        self.alarms().check(RequestKind::GrowingWrite)?;
        let request: LeaseGrant = read_request(request.into_inner())?;
        respond(self.backend().lease_grant(request).await)
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        self.alarms().check(RequestKind::Write)?;
        let id: Option<LeaseId> = read_request(request.into_inner())?;
        let id = id.ok_or_else(|| status(&Error::LeaseNotFound { lease: None }))?;
        respond(self.backend().lease_revoke(id).await)
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<PbLeaseKeepAliveResponse, Status>>;

    /// Sends one response for each keep-alive, in order, until either side closes the stream.
    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let services = self.clone();
        let responses = request.into_inner().then(move |request| {
            let services = services.clone();
            async move { services.keep_alive(request?).await }
        });
        Ok(Response::new(self.until_stopped(responses).boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let id = request.get_ref().id;
        let request: Option<LeaseTimeToLive> = read_request(request.into_inner())?;
        let Some(request) = request else {
            let header = Some(self.header().await?.to_wire());
            let (ttl, granted_ttl, keys) = (-1, 0, Vec::new());
            return Ok(Response::new(PbLeaseTimeToLiveResponse {
                header,
                id,
                ttl,
                granted_ttl,
                keys,
            }));
        };
        let result = self.backend().lease_time_to_live(request).await;
        respond(result.map(|response: LeaseTimeToLiveResponse| (request.id, response)))
    }

    async fn lease_leases(
        &self,
        _: Request<PbLeaseLeasesRequest>,
    ) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        respond(self.backend().leases().await)
    }
}

impl Services {
    /// Refreshes a lease. If the lease does not exist, the response has a TTL of zero, as in etcd.
    async fn keep_alive(
        &self,
        request: PbLeaseKeepAliveRequest,
    ) -> Result<PbLeaseKeepAliveResponse, Status> {
        let wire_id = request.id;
        let id = Option::<LeaseId>::from_wire(request);
        let id = id.map_err(|error| Status::invalid_argument(error.to_string()))?;
        if let Some(id) = id {
            match self.backend().lease_keep_alive(id).await {
                Ok(response) => return Ok(response.to_wire()),
                Err(Error::LeaseNotFound { .. }) => {}
                Err(error) => return Err(status(&error)),
            }
        }
        let header = Some(self.header().await?.to_wire());
        Ok(PbLeaseKeepAliveResponse { header, id: wire_id, ttl: 0 })
    }
}
