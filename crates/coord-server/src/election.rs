//! The Election service: server-side elections for clients that implement none themselves.
//!
//! The service uses coord's wait queue, so its clients contend with the clients of coord's
//! `Election` and of Go's package. A leader is identified by its key and the key's create revision;
//! any client that has both may proclaim and resign for it.
//!
//! Source: etcd 3.5 `server/etcdserver/api/v3election/election.go`,
//! `v3electionpb/v3election.proto`.

use std::sync::Arc;

use bytes::Bytes;
use coord_core::election::Leader;
use coord_core::kv::{Compare, CompareOp, Delete, Header, KeyRange, Op, Put, Revision, Txn};
use coord_core::{Client, Election};
use coord_etcd::wire::ToWire;
use etcd_client::proto::{
    PbCampaignResponse, PbLeaderKey, PbLeaderResponse, PbProclaimResponse, PbResignResponse,
};
use futures_util::{Stream, StreamExt};
use tonic::Status;
use tonic::codegen::http;

use crate::alarm::RequestKind;
use crate::call::{CallFuture, reject, server_streaming, unary, unknown_method};
use crate::fast_path::RequestBody;
use crate::lease_keyed_lock::{
    AcquireError, AcquireRequest, acquire, check_alarms, named_or_new_lease,
};
use crate::services::Services;
use crate::status::status_without_code;

#[derive(Clone, PartialEq, prost::Message)]
struct CampaignRequest {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(int64, tag = "2")]
    lease: i64,
    #[prost(bytes = "bytes", tag = "3")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LeaderRequest {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResignRequest {
    #[prost(message, optional, tag = "1")]
    leader: Option<PbLeaderKey>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ProclaimRequest {
    #[prost(message, optional, tag = "1")]
    leader: Option<PbLeaderKey>,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// Handles a call of the Election service.
pub(crate) fn call(
    services: &Services,
    method: &str,
    request: http::Request<impl RequestBody>,
) -> CallFuture {
    match method {
        "Campaign" => unary(services, request, campaign),
        "Proclaim" => unary(services, request, proclaim),
        "Leader" => unary(services, request, leader),
        "Observe" => server_streaming(services, request, observe),
        "Resign" => unary(services, request, resign),
        _ => reject(unknown_method("v3electionpb.Election", method)),
    }
}

async fn campaign(
    services: Services,
    request: CampaignRequest,
) -> Result<PbCampaignResponse, Status> {
    let CampaignRequest { name, value, .. } = request;
    let lease = named_or_new_lease(&services, request.lease).await?;
    let request = AcquireRequest { name: name.clone(), lease, value: Some(value) };
    let elected = acquire(&services, request).await.map_err(|error| match error {
        AcquireError::Lost => not_leader(),
        AcquireError::Status(status) => status,
    })?;
    let (key, rev) = (elected.key.into(), elected.token.0.0);
    let leader = PbLeaderKey { name: name.into(), key, rev, lease: lease.get() };
    Ok(PbCampaignResponse { header: Some(elected.enqueue_header.to_wire()), leader: Some(leader) })
}

async fn proclaim(
    services: Services,
    ProclaimRequest { leader, value }: ProclaimRequest,
) -> Result<PbProclaimResponse, Status> {
    let leader = leader.ok_or_else(leader_missing)?;
    let lease = named_or_new_lease(&services, leader.lease).await?;
    check_alarms(&services, RequestKind::GrowingWrite)?;
    let put = Put::new(leader.key.clone(), value).lease(lease);
    let (header, applied) = apply_if_key_exists(&services, leader, Op::Put(put)).await?;
    if !applied {
        return Err(not_leader());
    }
    Ok(PbProclaimResponse { header: Some(header.to_wire()) })
}

/// Deletes the leader's key if it still exists. As in etcd, a missing key is not an error.
async fn resign(
    services: Services,
    ResignRequest { leader }: ResignRequest,
) -> Result<PbResignResponse, Status> {
    let leader = leader.ok_or_else(leader_missing)?;
    check_alarms(&services, RequestKind::Write)?;
    let delete = Op::Delete(Delete::new(KeyRange::key(leader.key.clone())));
    let (header, _) = apply_if_key_exists(&services, leader, delete).await?;
    Ok(PbResignResponse { header: Some(header.to_wire()) })
}

/// The status for a client that does not lead.
fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

/// The status for a request without a leader key.
fn leader_missing() -> Status {
    Status::unknown("\"leader\" field must be provided")
}

/// Applies a change if the leader's key still exists. Returns whether it was applied.
async fn apply_if_key_exists(
    services: &Services,
    leader: PbLeaderKey,
    change: Op,
) -> Result<(Header, bool), Status> {
    let key = KeyRange::key(leader.key);
    let exists = Compare::create_revision(key, CompareOp::Equal, Revision(leader.rev));
    let response = services.backend().txn(Txn::new().when([exists]).and_then([change])).await;
    let response = response.map_err(|error| status_without_code(&error))?;
    Ok((response.header, response.succeeded))
}

async fn leader(
    services: Services,
    LeaderRequest { name }: LeaderRequest,
) -> Result<PbLeaderResponse, Status> {
    let leader =
        Election::observer(&Client::from(Arc::clone(services.backend())), name).leader().await;
    let leader = leader.map_err(|error| status_without_code(&error))?;
    let leader = leader.ok_or_else(|| Status::unknown("election: no leader"))?;
    Ok(leader_response(&leader))
}

/// Streams every leader and every new value. While there is no leader, the stream sends nothing.
fn observe(
    services: Services,
    LeaderRequest { name }: LeaderRequest,
) -> impl Stream<Item = Result<PbLeaderResponse, Status>> + Send + 'static {
    let leaders = Election::observer(&Client::from(Arc::clone(services.backend())), name).observe();
    let responses = leaders.filter_map(|leader| async {
        leader
            .map(|leader| leader.as_ref().map(leader_response))
            .map_err(|error| status_without_code(&error))
            .transpose()
    });
    services.until_stopped(responses)
}

fn leader_response(leader: &Leader) -> PbLeaderResponse {
    let kv = Some(leader.key_value().clone().to_wire());
    PbLeaderResponse { header: Some(leader.header().to_wire()), kv }
}
