//! The Maintenance service: status, alarms and hashes of a member.
//!
//! A backend has no files. So a defragmentation succeeds without effect, and requests that need
//! files or other members are rejected.
//!
//! Source: etcd 3.5 `server/etcdserver/api/v3rpc/maintenance.go`.

use coord_core::{
    Error,
    kv::{KeyRange, Range, Revision},
};
use coord_etcd::wire::ToWire;
use etcd_client::proto::{
    PbAlarmRequest, PbAlarmResponse, PbDefragmentRequest, PbDefragmentResponse, PbDowngradeRequest,
    PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest, PbHashResponse,
    PbMaintenanceService, PbMoveLeaderRequest, PbMoveLeaderResponse, PbSnapshotRequest,
    PbSnapshotResponse, PbStatusRequest, PbStatusResponse,
};
use futures_util::stream::Empty;
use tonic::{Request, Response, Status, async_trait};

use crate::services::Services;
use crate::status::status;

/// The reported version: the etcd version whose behaviour this server has. Clients check it before
/// they use newer features.
pub(crate) const ETCD_VERSION: &str = "3.5.30";

/// The reported database size: the file size of an empty etcd. A backend does not report its size,
/// and clients treat a size of zero as an error.
const REPORTED_DB_SIZE_BYTES: i64 = 20_480;

#[async_trait]
impl PbMaintenanceService for Services {
    async fn alarm(
        &self,
        request: Request<PbAlarmRequest>,
    ) -> Result<Response<PbAlarmResponse>, Status> {
        let alarms = self.alarms().handle(request.into_inner())?;
        let header = Some(self.header().await?.to_wire());
        Ok(Response::new(PbAlarmResponse { header, alarms }))
    }

    async fn status(
        &self,
        _: Request<PbStatusRequest>,
    ) -> Result<Response<PbStatusResponse>, Status> {
        let header = self.header().await?;
        // There is no raft log: each revision counts as one entry.
        let index = u64::try_from(header.revision.0).unwrap_or_default();
        Ok(Response::new(PbStatusResponse {
            header: Some(header.to_wire()),
            version: ETCD_VERSION.to_owned(),
            db_size: REPORTED_DB_SIZE_BYTES,
            db_size_in_use: REPORTED_DB_SIZE_BYTES,
            leader: header.member_id,
            raft_index: index,
            raft_term: header.raft_term,
            raft_applied_index: index,
            errors: self.alarms().to_strings(),
            ..PbStatusResponse::default()
        }))
    }

    async fn defragment(
        &self,
        _: Request<PbDefragmentRequest>,
    ) -> Result<Response<PbDefragmentResponse>, Status> {
        Ok(Response::new(PbDefragmentResponse { header: None }))
    }

    async fn hash(&self, _: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        let (header, hash) = self.hash_at(Revision::ZERO).await?;
        Ok(Response::new(PbHashResponse { header: Some(header.to_wire()), hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<PbHashKvRequest>,
    ) -> Result<Response<PbHashKvResponse>, Status> {
        let revision = Revision(request.get_ref().revision);
        let (header, hash) = self.hash_at(revision).await?;
        Ok(Response::new(PbHashKvResponse {
            header: Some(header.to_wire()),
            hash,
            compact_revision: self.compact_revision().await?,
            // The field is newer than `ETCD_VERSION`.
            hash_revision: 0,
        }))
    }

    type SnapshotStream = Empty<Result<PbSnapshotResponse, Status>>;

    async fn snapshot(
        &self,
        _: Request<PbSnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(Status::unimplemented("coord has no files to take a snapshot of"))
    }

    async fn move_leader(
        &self,
        request: Request<PbMoveLeaderRequest>,
    ) -> Result<Response<PbMoveLeaderResponse>, Status> {
        let header = self.header().await?;
        if request.get_ref().target_id == header.member_id {
            // The member is the leader already.
            return Ok(Response::new(PbMoveLeaderResponse { header: None }));
        }
        Err(Status::failed_precondition("etcdserver: bad leader transferee"))
    }

    async fn downgrade(
        &self,
        _: Request<PbDowngradeRequest>,
    ) -> Result<Response<PbDowngradeResponse>, Status> {
        Err(Status::unimplemented("coord has no other version to downgrade to"))
    }
}

impl Services {
    /// The hash of all keys at a revision, with the header of the range response. Backends with the
    /// same keys have the same hash, but etcd has another.
    async fn hash_at(&self, revision: Revision) -> Result<(coord_core::kv::Header, u32), Status> {
        let all = Range::new(KeyRange::all()).at(revision);
        let read = self.backend().range(all).await.map_err(|error| status(&error))?;
        let mut hash = Fnv::default();
        for kv in &read.kvs {
            hash.write_part(&kv.key);
            hash.write_part(&kv.value);
            let lease = kv.lease.map_or(0, |lease| lease.get());
            for number in [kv.create_revision.0, kv.mod_revision.0, kv.version, lease] {
                hash.write_part(&number.to_le_bytes());
            }
        }
        Ok((read.header, hash.0))
    }

    /// The compact revision; -1 if no compaction was above revision 1. The error of a range at
    /// revision 1 contains it.
    async fn compact_revision(&self) -> Result<i64, Status> {
        let first = Range::new(KeyRange::all()).at(Revision(1)).limit(1);
        match self.backend().range(first).await {
            Ok(_) => Ok(-1),
            Err(Error::Compacted { compact_revision, .. }) => {
                Ok(compact_revision.unwrap_or_default().0)
            }
            Err(error) => Err(status(&error)),
        }
    }
}

/// FNV-1a over byte strings; the length of each string is hashed too.
struct Fnv(u32);

impl Default for Fnv {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl Fnv {
    fn write_part(&mut self, bytes: &[u8]) {
        let length = bytes.len().to_le_bytes();
        for byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}
