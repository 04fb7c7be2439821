//! The Maintenance, Cluster, Auth and Health services, and unknown services and methods.

use coord_etcd_tests::raw_client::rejection;
use etcd_client::proto::{
    PbAlarmRequest, PbAlarmResponse, PbAuthDisableRequest, PbAuthDisableResponse,
    PbAuthEnableRequest, PbAuthEnableResponse, PbAuthRoleAddRequest, PbAuthRoleAddResponse,
    PbAuthUserAddRequest, PbAuthUserAddResponse, PbAuthUserListRequest, PbAuthUserListResponse,
    PbAuthenticateRequest, PbAuthenticateResponse, PbDefragmentRequest, PbDefragmentResponse,
    PbDowngradeRequest, PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest,
    PbHashResponse, PbMemberAddRequest, PbMemberAddResponse, PbMemberListRequest,
    PbMemberListResponse, PbMemberPromoteRequest, PbMemberPromoteResponse, PbMemberRemoveRequest,
    PbMemberRemoveResponse, PbMemberUpdateRequest, PbMemberUpdateResponse, PbMoveLeaderRequest,
    PbMoveLeaderResponse, PbResponseHeader, PbSnapshotRequest, PbSnapshotResponse, PbStatusRequest,
    PbStatusResponse, PbTxnOpRequest, PbTxnRequest,
};

use crate::http_endpoints;
use crate::kv::{delete, put, range};
use crate::scenario_run::ScenarioRun;
use crate::txn::op;

pub(crate) async fn maintenance(run: &mut ScenarioRun) {
    for value in ["1", "2", "3"] {
        run.put("put", put("a", value)).await;
    }
    run.compact("compact", 2, true).await;
    let path = "/etcdserverpb.Maintenance/Status";
    let status: Result<PbStatusResponse, _> = run.unary(path, PbStatusRequest {}).await;
    let status = status.map(|status| {
        let header = status.header.unwrap();
        assert_eq!(status.leader, header.member_id);
        assert_eq!(status.raft_term, header.raft_term);
        let is_set = [
            status.db_size > 0,
            status.db_size_in_use > 0,
            status.raft_index > 0,
            status.raft_applied_index > 0,
            status.raft_applied_index <= status.raft_index,
        ];
        let unset = (status.is_learner, status.errors);
        run.note("version", status.version.starts_with("3.5."));
        (header, is_set, unset)
    });
    run.record("status", status);

    let path = "/etcdserverpb.Maintenance/Hash";
    let hash: Result<PbHashResponse, _> = run.unary(path, PbHashRequest {}).await;
    run.record("hash", hash.map(|response| response.header));
    let path = "/etcdserverpb.Maintenance/HashKV";
    for revision in [-1, 0, 1, 2, 3, 4, 5] {
        let hash: Result<PbHashKvResponse, _> = run.unary(path, PbHashKvRequest { revision }).await;
        let record = |response: PbHashKvResponse| {
            (response.header, response.compact_revision, response.hash_revision, response.hash == 0)
        };
        run.record(&format!("hash of revision {revision}"), hash.map(record));
    }
    let path = "/etcdserverpb.Maintenance/Defragment";
    run.call::<_, PbDefragmentResponse>("defragment", path, PbDefragmentRequest {}).await;
    let path = "/etcdserverpb.Maintenance/MoveLeader";
    let to = |target_id| PbMoveLeaderRequest { target_id };
    run.call::<_, PbMoveLeaderResponse>("another leader", path, to(12_345)).await;
    run.call::<_, PbMoveLeaderResponse>("no leader", path, to(0)).await;
    let path = "/etcdserverpb.Maintenance/Status";
    let status: PbStatusResponse = run.unary(path, PbStatusRequest {}).await.unwrap();
    let path = "/etcdserverpb.Maintenance/MoveLeader";
    run.call::<_, PbMoveLeaderResponse>("the same leader", path, to(status.leader)).await;
}

pub(crate) async fn cluster(run: &mut ScenarioRun) {
    let path = "/etcdserverpb.Cluster/MemberList";
    for linearizable in [true, false] {
        let list: Result<PbMemberListResponse, _> =
            run.unary(path, PbMemberListRequest { linearizable }).await;
        let list = list.map(|mut list| {
            let header = list.header.unwrap();
            for member in &mut list.members {
                assert_eq!(member.id, header.member_id);
                // Clients that discover endpoints connect to these URLs.
                assert_eq!(member.client_ur_ls, [run.endpoint()]);
                assert_eq!(member.peer_ur_ls.len(), 1);
                assert!(!member.name.is_empty());
            }
            let learners: Vec<_> = list.members.iter().map(|member| member.is_learner).collect();
            (header, learners)
        });
        run.record("members", list);
    }
    let add = PbMemberAddRequest { peer_ur_ls: vec!["nowhere".to_owned()], is_learner: false };
    let path = "/etcdserverpb.Cluster/MemberAdd";
    run.call::<_, PbMemberAddResponse>("add", path, add).await;
    let path = "/etcdserverpb.Cluster/MemberRemove";
    run.call::<_, PbMemberRemoveResponse>("remove", path, PbMemberRemoveRequest { id: 12_345 })
        .await;
    let path = "/etcdserverpb.Cluster/MemberUpdate";
    let update =
        PbMemberUpdateRequest { id: 12_345, peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()] };
    run.call::<_, PbMemberUpdateResponse>("update", path, update).await;
    let path = "/etcdserverpb.Cluster/MemberPromote";
    run.call::<_, PbMemberPromoteResponse>("promote", path, PbMemberPromoteRequest { id: 12_345 })
        .await;
}

#[derive(Clone, PartialEq, prost::Message)]
struct AuthStatus {
    #[prost(message, optional, tag = "1")]
    header: Option<PbResponseHeader>,
    #[prost(bool, tag = "2")]
    enabled: bool,
    #[prost(uint64, tag = "3")]
    auth_revision: u64,
}

pub(crate) async fn auth(run: &mut ScenarioRun) {
    run.call::<_, AuthStatus>("status", "/etcdserverpb.Auth/AuthStatus", AnyMessage {}).await;
    let credentials = PbAuthenticateRequest { name: "root".into(), password: "x".into() };
    let path = "/etcdserverpb.Auth/Authenticate";
    run.call::<_, PbAuthenticateResponse>("authenticate", path, credentials).await;
    let path = "/etcdserverpb.Auth/AuthEnable";
    run.call::<_, PbAuthEnableResponse>("enable", path, PbAuthEnableRequest {}).await;
    let path = "/etcdserverpb.Auth/AuthDisable";
    run.call::<_, PbAuthDisableResponse>("disable", path, PbAuthDisableRequest {}).await;
    let path = "/etcdserverpb.Auth/UserList";
    run.call::<_, PbAuthUserListResponse>("users", path, PbAuthUserListRequest {}).await;
    let path = "/etcdserverpb.Auth/UserAdd";
    let user =
        PbAuthUserAddRequest { name: "a".into(), password: "b".into(), ..Default::default() };
    run.call::<_, PbAuthUserAddResponse>("add a user", path, user).await;
    let path = "/etcdserverpb.Auth/RoleAdd";
    let role = PbAuthRoleAddRequest { name: "r".into() };
    run.call::<_, PbAuthRoleAddResponse>("add a role", path, role).await;
}

/// Which calls succeed while an alarm is raised.
pub(crate) async fn alarms(run: &mut ScenarioRun) {
    let path = "/etcdserverpb.Maintenance/Alarm";
    let alarm = |action, alarm| PbAlarmRequest { action, member_id: 0, alarm };
    run.put("put", put("a", "1")).await;
    run.grant("grant", 5, 60).await;
    for raised in [1, 2] {
        for action in [0, 2] {
            for kind in [0, 1, 2] {
                run.call::<_, PbAlarmResponse>("none", path, alarm(action, kind)).await;
            }
        }
        run.call::<_, PbAlarmResponse>("raise", path, alarm(1, raised)).await;
        run.call::<_, PbAlarmResponse>("raise, again", path, alarm(1, raised)).await;
        for kind in [0, 1, 2] {
            run.call::<_, PbAlarmResponse>("list", path, alarm(0, kind)).await;
        }
        let status = "/etcdserverpb.Maintenance/Status";
        let status: Result<PbStatusResponse, _> = run.unary(status, PbStatusRequest {}).await;
        run.record("status", status.map(|status| status.errors));
        for page in [
            "/health",
            "/health?exclude=NOSPACE",
            "/health?exclude=CORRUPT",
            "/livez",
            "/readyz?exclude=non_learner&exclude=linearizable_read&exclude=serializable_read",
            "/readyz/data_corruption?verbose",
            "/readyz?exclude=data_corruption",
        ] {
            http_endpoints::note(run, page).await;
        }
        run.range("read", range("a", "")).await;
        run.put("put", put("a", "2")).await;
        run.delete("delete", delete("b", "")).await;
        run.grant("grant", 6, 60).await;
        run.grant("grant, again", 5, 60).await;
        run.compact("compact", 2, true).await;
        run.txn("reads", steps([PbTxnOpRequest::RequestRange(range("a", ""))])).await;
        run.txn("puts", steps([PbTxnOpRequest::RequestPut(put("a", "3"))])).await;
        let deletes = PbTxnOpRequest::RequestDeleteRange(delete("b", ""));
        run.txn("deletes", steps([deletes])).await;
        run.txn("nothing", PbTxnRequest::default()).await;
        run.call::<_, PbAlarmResponse>("disarm", path, alarm(2, raised)).await;
        run.call::<_, PbAlarmResponse>("disarm, again", path, alarm(2, raised)).await;
        run.put("as before", put("a", "4")).await;
        http_endpoints::note(run, "/health").await;
    }
}

fn steps<const N: usize>(steps: [PbTxnOpRequest; N]) -> PbTxnRequest {
    PbTxnRequest { success: steps.map(op).into(), ..PbTxnRequest::default() }
}

/// Operations that need files or several versions.
pub(crate) async fn operations(run: &mut ScenarioRun) {
    let path = "/etcdserverpb.Maintenance/Snapshot";
    let mut stream = run.open_stream::<PbSnapshotRequest, PbSnapshotResponse>(path).await;
    stream.send(PbSnapshotRequest {});
    stream.finish();
    let first = stream.next().await.unwrap();
    run.record("snapshot", first.map(|first| first.is_some()));
    let path = "/etcdserverpb.Maintenance/Downgrade";
    for (what, action, version) in [
        ("empty version", 0, ""),
        ("malformed version", 0, "x"),
        ("too low", 0, "3.1.0"),
        ("higher version", 0, "3.9.0"),
        ("no downgrade in progress", 2, ""),
        ("unknown", 9, ""),
    ] {
        let request = PbDowngradeRequest { action, version: version.to_owned() };
        run.call::<_, PbDowngradeResponse>(what, path, request).await;
    }
}

/// A message of any type. Its fields are ignored.
#[derive(Clone, PartialEq, prost::Message)]
struct AnyMessage {}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheck {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Health {
    #[prost(int32, tag = "1")]
    status: i32,
}

pub(crate) async fn health(run: &mut ScenarioRun) {
    for service in ["", "etcdserverpb.KV", "etcdserverpb.Watch", "etcdserverpb.Lease", "unknown"] {
        let check = HealthCheck { service: service.to_owned() };
        let path = "/grpc.health.v1.Health/Check";
        run.call::<_, Health>(service, path, check.clone()).await;
        let path = "/grpc.health.v1.Health/Watch";
        let mut stream = run.open_stream::<HealthCheck, Health>(path).await;
        stream.send(check);
        stream.finish();
        run.next(service, &mut stream).await;
    }
}

pub(crate) async fn unknown(run: &mut ScenarioRun) {
    for path in [
        "/etcdserverpb.KV/Nothing",
        "/etcdserverpb.KV/RangeStream",
        "/etcdserverpb.KV/",
        "/etcdserverpb.KV",
        "/etcdserverpb.Watch/Nothing",
        "/etcdserverpb.Lease/Nothing",
        "/etcdserverpb.Maintenance/Nothing",
        "/etcdserverpb.Cluster/Nothing",
        "/etcdserverpb.Auth/Nothing",
        "/v3lockpb.Lock/Nothing",
        "/v3electionpb.Election/Nothing",
        "/grpc.health.v1.Health/Nothing",
        "/grpc.health.v1.Health/List",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/unknown/Nothing",
        "/unknown.Nowhere/Nothing/More",
        "/unknown",
        "/",
        "/etcdserverpb.kv/Range",
        "/a/b/c/d",
    ] {
        let response: Result<AnyMessage, _> = run.unary(path, AnyMessage {}).await;
        run.record(path, response);
    }
    // The bytes of another message type are malformed for this method.
    #[derive(Clone, PartialEq, prost::Message)]
    struct WrongType {
        #[prost(int64, tag = "1")]
        key: i64,
    }
    let response: Result<AnyMessage, _> =
        run.unary("/etcdserverpb.KV/Put", WrongType { key: 5 }).await;
    run.note("malformed", response.map_err(|status| rejection(&status)));
    #[derive(Clone, PartialEq, prost::Message)]
    struct Newer {
        #[prost(bytes, tag = "1")]
        key: Vec<u8>,
        #[prost(string, tag = "99")]
        later: String,
    }
    let newer = Newer { key: b"a".to_vec(), later: "more".to_owned() };
    let response: Result<AnyMessage, _> = run.unary("/etcdserverpb.KV/Put", newer).await;
    run.note("unknown field", response.map_err(|status| rejection(&status)));
}
