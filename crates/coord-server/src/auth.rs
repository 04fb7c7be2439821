//! The Auth service: there are no logins, and that is what it says.
//!
//! etcd-client does not export the messages of `AuthStatus`, so they are here.

use coord_etcd::wire::ToWire;
use etcd_client::proto::PbResponseHeader;
use tonic::Status;
use tonic::codegen::http;

use crate::call::{Answer, refuse, unary, unknown_method};
use crate::services::Services;
use crate::small::Incoming;

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

/// What etcd can be asked, and is refused here.
const REFUSED: &[&str] = &[
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

/// Answers a call of the service.
pub(crate) fn call(
    services: &Services,
    method: &str,
    request: http::Request<impl Incoming>,
) -> Answer {
    match method {
        "AuthStatus" => unary(services, request, auth_status),
        // As etcd says without logins. Clients know it, and go on without.
        "Authenticate" => {
            refuse(Status::failed_precondition("etcdserver: authentication is not enabled"))
        }
        _ if REFUSED.contains(&method) => {
            refuse(Status::unimplemented(format!("coord has no users and no roles: {method}")))
        }
        _ => refuse(unknown_method("etcdserverpb.Auth", method)),
    }
}

async fn auth_status(
    services: Services,
    _: AuthStatusRequest,
) -> Result<AuthStatusResponse, Status> {
    let header = Some(services.header().await?.to_wire());
    // A store that never had a user is at the first revision of its users.
    Ok(AuthStatusResponse { header, enabled: false, auth_revision: 1 })
}
