//! The Cluster service: a list of one.

use coord_core::kv::{Header, Revision};
use coord_etcd::wire::ToWire;
use etcd_client::proto::{
    PbClusterService, PbMember, PbMemberAddRequest, PbMemberAddResponse, PbMemberListRequest,
    PbMemberListResponse, PbMemberPromoteRequest, PbMemberPromoteResponse, PbMemberRemoveRequest,
    PbMemberRemoveResponse, PbMemberUpdateRequest, PbMemberUpdateResponse,
};
use tonic::{Request, Response, Status, async_trait};

use crate::services::Services;

/// There are no others, and will be none.
fn alone() -> Status {
    Status::unimplemented("coord is a cluster of one member, which cannot be changed")
}

impl Services {
    /// Nothing can be done to the one member, and there is none to do it to but that.
    async fn refuse_change<T>(&self, id: u64) -> Result<T, Status> {
        let known = self.header().await?.member_id == id;
        let unknown = || Status::not_found("etcdserver: member not found");
        Err(if known { alone() } else { unknown() })
    }
}

#[async_trait]
impl PbClusterService for Services {
    async fn member_list(
        &self,
        _: Request<PbMemberListRequest>,
    ) -> Result<Response<PbMemberListResponse>, Status> {
        let header @ Header { member_id, .. } = self.header().await?;
        // Clients that look for more endpoints go where these lead, so they have to lead here.
        let urls: Vec<_> =
            self.address().map(|here| format!("http://{here}")).into_iter().collect();
        let member = PbMember {
            id: member_id,
            name: "default".to_owned(),
            peer_ur_ls: urls.clone(),
            client_ur_ls: urls,
            is_learner: false,
        };
        // Members are none of the store's business, so its revision is not told.
        let header = Some(Header { revision: Revision::ZERO, ..header }.to_wire());
        Ok(Response::new(PbMemberListResponse { header, members: vec![member] }))
    }

    async fn member_add(
        &self,
        _: Request<PbMemberAddRequest>,
    ) -> Result<Response<PbMemberAddResponse>, Status> {
        Err(alone())
    }

    async fn member_remove(
        &self,
        request: Request<PbMemberRemoveRequest>,
    ) -> Result<Response<PbMemberRemoveResponse>, Status> {
        self.refuse_change(request.get_ref().id).await
    }

    async fn member_update(
        &self,
        request: Request<PbMemberUpdateRequest>,
    ) -> Result<Response<PbMemberUpdateResponse>, Status> {
        self.refuse_change(request.get_ref().id).await
    }

    async fn member_promote(
        &self,
        request: Request<PbMemberPromoteRequest>,
    ) -> Result<Response<PbMemberPromoteResponse>, Status> {
        self.refuse_change(request.get_ref().id).await
    }
}
