//! The Lock service: a lock for clients that have no recipe of their own.
//!
//! It stands on coord's waiting line, so these clients, coord's and Go's wait in one line. The lock
//! is held as long as its key is there: until somebody unlocks, or the lease ends. A client that
//! names no lease gets one of 60 s that nobody keeps alive, as etcd gives it.
//!
//! Source: etcd 3.5 `server/etcdserver/api/v3lock/lock.go`, `v3lockpb/v3lock.proto`.

use bytes::Bytes;
use coord_core::kv::{Delete, KeyRange};
use coord_etcd::wire::ToWire;
use etcd_client::proto::{PbLockResponse, PbUnlockResponse};
use tonic::Status;
use tonic::codegen::http;

use crate::alarm::Change;
use crate::call::{Answer, refuse, unary, unknown_method};
use crate::on_behalf::{Refusal, Wish, allow, first_in_line, lease};
use crate::services::Services;
use crate::small::Incoming;
use crate::status::without_code;

#[derive(Clone, PartialEq, prost::Message)]
struct LockRequest {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(int64, tag = "2")]
    lease: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct UnlockRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

/// Answers a call of the service.
pub(crate) fn call(
    services: &Services,
    method: &str,
    request: http::Request<impl Incoming>,
) -> Answer {
    match method {
        "Lock" => unary(services, request, lock),
        "Unlock" => unary(services, request, unlock),
        _ => refuse(unknown_method("v3lockpb.Lock", method)),
    }
}

async fn lock(services: Services, request: LockRequest) -> Result<PbLockResponse, Status> {
    let lease = lease(&services, request.lease).await?;
    let wish = Wish { name: request.name, lease, value: None };
    let first = first_in_line(&services, wish).await.map_err(|refusal| match refusal {
        Refusal::Lost => Status::unknown("mutex: session is expired"),
        Refusal::Said(status) => status,
    })?;
    Ok(PbLockResponse { header: Some(first.seen.to_wire()), key: first.key.into() })
}

/// Deletes the key, whatever it is: so does etcd.
async fn unlock(services: Services, request: UnlockRequest) -> Result<PbUnlockResponse, Status> {
    allow(&services, Change::Other)?;
    let delete = Delete::new(KeyRange::key(request.key));
    let deleted = services.backend().delete(delete).await;
    let header = deleted.map_err(|error| without_code(&error))?.header;
    Ok(PbUnlockResponse { header: Some(header.to_wire()) })
}
