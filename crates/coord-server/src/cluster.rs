//! The Cluster service: a list of one.

use coord_core::{Header, Revision};
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
        // etcd answers from what it knows of the cluster, which has no revision.
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
        _: Request<PbMemberRemoveRequest>,
    ) -> Result<Response<PbMemberRemoveResponse>, Status> {
        Err(alone())
    }

    async fn member_update(
        &self,
        _: Request<PbMemberUpdateRequest>,
    ) -> Result<Response<PbMemberUpdateResponse>, Status> {
        Err(alone())
    }

    async fn member_promote(
        &self,
        _: Request<PbMemberPromoteRequest>,
    ) -> Result<Response<PbMemberPromoteResponse>, Status> {
        Err(alone())
    }
}
