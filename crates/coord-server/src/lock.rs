//! The Lock service: server-side locks for clients that implement none themselves.
//!
//! The service uses coord's wait queue, so its clients contend with the clients of coord's `Mutex`
//! and of Go's package. A lock is held while its key exists: until a client unlocks it, or until
//! the lease ends. A request without a lease creates a lease of 60 s that is not kept alive, as in
//! etcd.
//!
//! Source: etcd 3.5 `server/etcdserver/api/v3lock/lock.go`, `v3lockpb/v3lock.proto`.

use bytes::Bytes;
use coord_core::kv::{Delete, KeyRange};
use coord_etcd::wire::ToWire;
use etcd_client::proto::{PbLockResponse, PbUnlockResponse};
use tonic::Status;
use tonic::codegen::http;

use crate::alarm::RequestKind;
use crate::call::{CallFuture, reject, unary, unknown_method};
use crate::fast_path::RequestBody;
use crate::lease_keyed_lock::{
    AcquireError, AcquireRequest, acquire, check_alarms, named_or_new_lease,
};
use crate::services::Services;
use crate::status::status_without_code;

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

/// Handles a call of the Lock service.
pub(crate) fn call(
    services: &Services,
    method: &str,
    request: http::Request<impl RequestBody>,
) -> CallFuture {
    match method {
        "Lock" => unary(services, request, lock),
        "Unlock" => unary(services, request, unlock),
        _ => reject(unknown_method("v3lockpb.Lock", method)),
    }
}

async fn lock(services: Services, request: LockRequest) -> Result<PbLockResponse, Status> {
    let lease = named_or_new_lease(&services, request.lease).await?;
    let request = AcquireRequest { name: request.name, lease, value: None };
    let acquired = acquire(&services, request).await.map_err(|error| match error {
        AcquireError::Lost => Status::unknown("mutex: session is expired"),
        AcquireError::Status(status) => status,
    })?;
    Ok(PbLockResponse { header: Some(acquired.acquire_header.to_wire()), key: acquired.key.into() })
}

/// Deletes the key without checking whether it is a queue key, as etcd does.
async fn unlock(services: Services, request: UnlockRequest) -> Result<PbUnlockResponse, Status> {
    check_alarms(&services, RequestKind::Write)?;
    let delete = Delete::new(KeyRange::key(request.key));
    let deleted = services.backend().delete(delete).await;
    let header = deleted.map_err(|error| status_without_code(&error))?.header;
    Ok(PbUnlockResponse { header: Some(header.to_wire()) })
}
