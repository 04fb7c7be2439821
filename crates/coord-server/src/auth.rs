//! The Auth service: authentication is never enabled.
//!
//! The messages of `AuthStatus` are declared here, because etcd-client does not export them.

use coord_etcd::wire::ToWire;
use etcd_client::proto::PbResponseHeader;
use tonic::Status;
use tonic::codegen::http;

use crate::call::{CallFuture, reject, unary, unknown_method};
use crate::fast_path::RequestBody;
use crate::services::Services;

#[derive(Clone, PartialEq, prost::Message)]
struct AuthStatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct AuthStatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<PbResponseHeader>,
    #[prost(bool, tag = "2")]
    enabled: bool,
    #[prost(uint64, tag = "3")]
    auth_revision: u64,
}

/// Methods of etcd's Auth service that this server rejects.
const UNSUPPORTED_METHODS: &[&str] = &[
    "AuthEnable",
    "AuthDisable",
    "UserAdd",
    "UserGet",
    "UserList",
    "UserDelete",
    "UserChangePassword",
    "UserGrantRole",
    "UserRevokeRole",
    "RoleAdd",
    "RoleGet",
    "RoleList",
    "RoleDelete",
    "RoleGrantPermission",
    "RoleRevokePermission",
];

/// Handles a call of the Auth service.
pub(crate) fn call(
    services: &Services,
    method: &str,
    request: http::Request<impl RequestBody>,
) -> CallFuture {
    match method {
        "AuthStatus" => unary(services, request, auth_status),
        // As etcd responds without authentication. Clients then continue without a token.
        "Authenticate" => {
            reject(Status::failed_precondition("etcdserver: authentication is not enabled"))
        }
        _ if UNSUPPORTED_METHODS.contains(&method) => {
            reject(Status::unimplemented(format!("coord has no users and no roles: {method}")))
        }
        _ => reject(unknown_method("etcdserverpb.Auth", method)),
    }
}

async fn auth_status(
    services: Services,
    _: AuthStatusRequest,
) -> Result<AuthStatusResponse, Status> {
    let header = Some(services.header().await?.to_wire());
    // The auth store of an etcd that never had a user is at revision 1.
    Ok(AuthStatusResponse { header, enabled: false, auth_revision: 1 })
}
