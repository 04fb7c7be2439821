//! The Cluster service: the member list, which has exactly one member.

use coord_core::kv::{Header, Revision};
use coord_etcd::wire::ToWire;
use etcd_client::proto::{
    PbClusterService, PbMember, PbMemberAddRequest, PbMemberAddResponse, PbMemberListRequest,
    PbMemberListResponse, PbMemberPromoteRequest, PbMemberPromoteResponse, PbMemberRemoveRequest,
    PbMemberRemoveResponse, PbMemberUpdateRequest, PbMemberUpdateResponse,
};
use tonic::{Request, Response, Status, async_trait};

use crate::services::Services;

/// The status of a request to change the membership.
fn fixed_membership() -> Status {
    Status::unimplemented("coord: membership cannot be changed: a cluster always has one member")
}

impl Services {
    /// Rejects a change of a member: as unsupported for the only member, as not found for any other
    /// id.
    async fn reject_change<T>(&self, id: u64) -> Result<T, Status> {
        let is_member = self.header().await?.member_id == id;
        let unknown = || Status::not_found("etcdserver: member not found");
        Err(if is_member { fixed_membership() } else { unknown() })
    }
}

#[async_trait]
impl PbClusterService for Services {
    async fn member_list(
        &self,
        _: Request<PbMemberListRequest>,
    ) -> Result<Response<PbMemberListResponse>, Status> {
        let header @ Header { member_id, .. } = self.header().await?;
        // Clients that discover endpoints connect to these URLs, so they must lead to this server.
        let urls: Vec<_> =
            self.address().map(|here| format!("http://{here}")).into_iter().collect();
        let member = PbMember {
            id: member_id,
            name: "default".to_owned(),
            peer_ur_ls: urls.clone(),
            client_ur_ls: urls,
            is_learner: false,
        };
        // The member list is not part of the store, so etcd reports no revision with it.
        let header = Some(Header { revision: Revision::ZERO, ..header }.to_wire());
        Ok(Response::new(PbMemberListResponse { header, members: vec![member] }))
    }

    async fn member_add(
        &self,
        _: Request<PbMemberAddRequest>,
    ) -> Result<Response<PbMemberAddResponse>, Status> {
        Err(fixed_membership())
    }

    async fn member_remove(
        &self,
        request: Request<PbMemberRemoveRequest>,
    ) -> Result<Response<PbMemberRemoveResponse>, Status> {
        self.reject_change(request.get_ref().id).await
    }

    async fn member_update(
        &self,
        request: Request<PbMemberUpdateRequest>,
    ) -> Result<Response<PbMemberUpdateResponse>, Status> {
        self.reject_change(request.get_ref().id).await
    }

    async fn member_promote(
        &self,
        request: Request<PbMemberPromoteRequest>,
    ) -> Result<Response<PbMemberPromoteResponse>, Status> {
        self.reject_change(request.get_ref().id).await
    }
}
