//! The Election service: elections for clients that have no recipe of their own.
//!
//! It stands on coord's waiting line, so these clients, coord's and Go's stand in one election. A
//! leader is known by its key and the revision that created it; whoever knows both may proclaim and
//! resign for it.
//!
//! Source: etcd 3.5 `server/etcdserver/api/v3election/election.go`,
//! `v3electionpb/v3election.proto`.

use std::sync::Arc;

use bytes::Bytes;
use coord_core::election::{Leader, Observer};
use coord_core::kv::{Compare, CompareOp, Delete, Header, KeyRange, Op, Put, Revision, Txn};
use coord_etcd::wire::ToWire;
use etcd_client::proto::{
    PbCampaignResponse, PbLeaderKey, PbLeaderResponse, PbProclaimResponse, PbResignResponse,
};
use futures_util::{Stream, StreamExt};
use tonic::Status;
use tonic::codegen::http;

use crate::alarm::Change;
use crate::call::{Answer, refuse, server_streaming, unary, unknown_method};
use crate::on_behalf::{Refusal, Wish, allow, first_in_line, lease};
use crate::services::Services;
use crate::small::Incoming;
use crate::status::without_code;

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

/// Answers a call of the service.
pub(crate) fn call(
    services: &Services,
    method: &str,
    request: http::Request<impl Incoming>,
) -> Answer {
    match method {
        "Campaign" => unary(services, request, campaign),
        "Proclaim" => unary(services, request, proclaim),
        "Leader" => unary(services, request, leader),
        "Observe" => server_streaming(services, request, observe),
        "Resign" => unary(services, request, resign),
        _ => refuse(unknown_method("v3electionpb.Election", method)),
    }
}

async fn campaign(
    services: Services,
    request: CampaignRequest,
) -> Result<PbCampaignResponse, Status> {
    let CampaignRequest { name, value, .. } = request;
    let lease = lease(&services, request.lease).await?;
    let wish = Wish { name: name.clone(), lease, value: Some(value) };
    let elected = first_in_line(&services, wish).await.map_err(|refusal| match refusal {
        Refusal::Lost => not_leader(),
        Refusal::Said(status) => status,
    })?;
    let (key, rev) = (elected.key.into(), elected.token.0.0);
    let leader = PbLeaderKey { name: name.into(), key, rev, lease: lease.get() };
    Ok(PbCampaignResponse { header: Some(elected.joined.to_wire()), leader: Some(leader) })
}

async fn proclaim(
    services: Services,
    ProclaimRequest { leader, value }: ProclaimRequest,
) -> Result<PbProclaimResponse, Status> {
    let leader = leader.ok_or_else(nobody_named)?;
    let lease = lease(&services, leader.lease).await?;
    allow(&services, Change::Growth)?;
    let put = Put::new(leader.key.clone(), value).lease(lease);
    let (header, led) = while_leading(&services, leader, Op::Put(put)).await?;
    if !led {
        return Err(not_leader());
    }
    Ok(PbProclaimResponse { header: Some(header.to_wire()) })
}

/// Resigning when somebody else leads is no error.
async fn resign(
    services: Services,
    ResignRequest { leader }: ResignRequest,
) -> Result<PbResignResponse, Status> {
    let leader = leader.ok_or_else(nobody_named)?;
    allow(&services, Change::Other)?;
    let delete = Op::Delete(Delete::new(KeyRange::key(leader.key.clone())));
    let (header, _) = while_leading(&services, leader, delete).await?;
    Ok(PbResignResponse { header: Some(header.to_wire()) })
}

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

fn nobody_named() -> Status {
    Status::unknown("\"leader\" field must be provided")
}

/// Does it if that leader leads or waits, and tells whether it did.
async fn while_leading(
    services: &Services,
    leader: PbLeaderKey,
    change: Op,
) -> Result<(Header, bool), Status> {
    let key = KeyRange::key(leader.key);
    let leads = Compare::create_revision(key, CompareOp::Equal, Revision(leader.rev));
    let done = services.backend().txn(Txn::new().when([leads]).and_then([change])).await;
    let done = done.map_err(|error| without_code(&error))?;
    Ok((done.header, done.succeeded))
}

async fn leader(
    services: Services,
    LeaderRequest { name }: LeaderRequest,
) -> Result<PbLeaderResponse, Status> {
    let leader = Observer::new(Arc::clone(services.backend()), name).leader().await;
    let leader = leader.map_err(|error| without_code(&error))?;
    let leader = leader.ok_or_else(|| Status::unknown("election: no leader"))?;
    Ok(told(&leader))
}

/// Every leader and every value. Of times without a leader nothing is said.
fn observe(
    services: Services,
    LeaderRequest { name }: LeaderRequest,
) -> impl Stream<Item = Result<PbLeaderResponse, Status>> + Send + 'static {
    let leaders = Observer::new(Arc::clone(services.backend()), name).observe();
    let shown = leaders.filter_map(|leader| async {
        leader
            .map(|leader| leader.as_ref().map(told))
            .map_err(|error| without_code(&error))
            .transpose()
    });
    services.until_stopped(shown)
}

fn told(leader: &Leader) -> PbLeaderResponse {
    let kv = Some(leader.key_value().clone().to_wire());
    PbLeaderResponse { header: Some(leader.header().to_wire()), kv }
}
