//! What a member says about itself, and to what nobody knows.

use coord_etcd_tests::bare::refusal;
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

use crate::kv::{delete, put, range};
use crate::plain;
use crate::play::Play;
use crate::txn::op;

pub(crate) async fn maintenance(play: &mut Play) {
    for value in ["1", "2", "3"] {
        play.put("put", put("a", value)).await;
    }
    play.compact("compact", 2, true).await;
    let path = "/etcdserverpb.Maintenance/Status";
    let status: Result<PbStatusResponse, _> = play.ask(path, PbStatusRequest {}).await;
    let status = status.map(|status| {
        let header = status.header.expect("every answer has a header");
        assert_eq!(status.leader, header.member_id);
        assert_eq!(status.raft_term, header.raft_term);
        let there = [
            status.db_size > 0,
            status.db_size_in_use > 0,
            status.raft_index > 0,
            status.raft_applied_index > 0,
            status.raft_applied_index <= status.raft_index,
        ];
        let nothing = (status.is_learner, status.errors);
        play.note("version", status.version.starts_with("3.5."));
        (header, there, nothing)
    });
    play.told("status", status);

    let path = "/etcdserverpb.Maintenance/Hash";
    let hash: Result<PbHashResponse, _> = play.ask(path, PbHashRequest {}).await;
    play.told("hash", hash.map(|answer| answer.header));
    let path = "/etcdserverpb.Maintenance/HashKV";
    for revision in [-1, 0, 1, 2, 3, 4, 5] {
        let hash: Result<PbHashKvResponse, _> = play.ask(path, PbHashKvRequest { revision }).await;
        let told = |answer: PbHashKvResponse| {
            (answer.header, answer.compact_revision, answer.hash_revision, answer.hash == 0)
        };
        play.told(&format!("hash of revision {revision}"), hash.map(told));
    }
    let path = "/etcdserverpb.Maintenance/Defragment";
    play.call::<_, PbDefragmentResponse>("defragment", path, PbDefragmentRequest {}).await;
    let path = "/etcdserverpb.Maintenance/MoveLeader";
    let to = |target_id| PbMoveLeaderRequest { target_id };
    play.call::<_, PbMoveLeaderResponse>("another leader", path, to(12_345)).await;
    play.call::<_, PbMoveLeaderResponse>("no leader", path, to(0)).await;
    let path = "/etcdserverpb.Maintenance/Status";
    let status: PbStatusResponse = play.ask(path, PbStatusRequest {}).await.expect("as before");
    let path = "/etcdserverpb.Maintenance/MoveLeader";
    play.call::<_, PbMoveLeaderResponse>("the same leader", path, to(status.leader)).await;
}

pub(crate) async fn cluster(play: &mut Play) {
    let path = "/etcdserverpb.Cluster/MemberList";
    for linearizable in [true, false] {
        let list: Result<PbMemberListResponse, _> =
            play.ask(path, PbMemberListRequest { linearizable }).await;
        let list = list.map(|mut list| {
            let header = list.header.expect("every answer has a header");
            for member in &mut list.members {
                assert_eq!(member.id, header.member_id);
                // Clients go there.
                assert_eq!(member.client_ur_ls, [play.endpoint()]);
                assert_eq!(member.peer_ur_ls.len(), 1);
                assert!(!member.name.is_empty());
            }
            let learners: Vec<_> = list.members.iter().map(|member| member.is_learner).collect();
            (header, learners)
        });
        play.told("members", list);
    }
    let add = PbMemberAddRequest { peer_ur_ls: vec!["nowhere".to_owned()], is_learner: false };
    let path = "/etcdserverpb.Cluster/MemberAdd";
    play.call::<_, PbMemberAddResponse>("add", path, add).await;
    let path = "/etcdserverpb.Cluster/MemberRemove";
    play.call::<_, PbMemberRemoveResponse>("remove", path, PbMemberRemoveRequest { id: 12_345 })
        .await;
    let path = "/etcdserverpb.Cluster/MemberUpdate";
    let update =
        PbMemberUpdateRequest { id: 12_345, peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()] };
    play.call::<_, PbMemberUpdateResponse>("update", path, update).await;
    let path = "/etcdserverpb.Cluster/MemberPromote";
    play.call::<_, PbMemberPromoteResponse>("promote", path, PbMemberPromoteRequest { id: 12_345 })
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

pub(crate) async fn logins(play: &mut Play) {
    play.call::<_, AuthStatus>("status", "/etcdserverpb.Auth/AuthStatus", Anything {}).await;
    let who = PbAuthenticateRequest { name: "root".into(), password: "x".into() };
    let path = "/etcdserverpb.Auth/Authenticate";
    play.call::<_, PbAuthenticateResponse>("login", path, who).await;
    let path = "/etcdserverpb.Auth/AuthEnable";
    play.call::<_, PbAuthEnableResponse>("enable", path, PbAuthEnableRequest {}).await;
    let path = "/etcdserverpb.Auth/AuthDisable";
    play.call::<_, PbAuthDisableResponse>("disable", path, PbAuthDisableRequest {}).await;
    let path = "/etcdserverpb.Auth/UserList";
    play.call::<_, PbAuthUserListResponse>("users", path, PbAuthUserListRequest {}).await;
    let path = "/etcdserverpb.Auth/UserAdd";
    let user =
        PbAuthUserAddRequest { name: "a".into(), password: "b".into(), ..Default::default() };
    play.call::<_, PbAuthUserAddResponse>("add a user", path, user).await;
    let path = "/etcdserverpb.Auth/RoleAdd";
    let role = PbAuthRoleAddRequest { name: "r".into() };
    play.call::<_, PbAuthRoleAddResponse>("add a role", path, role).await;
}

/// What an alarm lets be done, and what not.
pub(crate) async fn alarms(play: &mut Play) {
    let path = "/etcdserverpb.Maintenance/Alarm";
    let alarm = |action, alarm| PbAlarmRequest { action, member_id: 0, alarm };
    play.put("put", put("a", "1")).await;
    play.grant("grant", 5, 60).await;
    for raised in [1, 2] {
        for action in [0, 2] {
            for kind in [0, 1, 2] {
                play.call::<_, PbAlarmResponse>("none", path, alarm(action, kind)).await;
            }
        }
        play.call::<_, PbAlarmResponse>("raise", path, alarm(1, raised)).await;
        play.call::<_, PbAlarmResponse>("raise, again", path, alarm(1, raised)).await;
        for kind in [0, 1, 2] {
            play.call::<_, PbAlarmResponse>("list", path, alarm(0, kind)).await;
        }
        let status = "/etcdserverpb.Maintenance/Status";
        let status: Result<PbStatusResponse, _> = play.ask(status, PbStatusRequest {}).await;
        play.told("status", status.map(|status| status.errors));
        for page in [
            "/health",
            "/health?exclude=NOSPACE",
            "/health?exclude=CORRUPT",
            "/livez",
            "/readyz?exclude=non_learner&exclude=linearizable_read&exclude=serializable_read",
            "/readyz/data_corruption?verbose",
            "/readyz?exclude=data_corruption",
        ] {
            plain::note(play, page).await;
        }
        play.range("read", range("a", "")).await;
        play.put("put", put("a", "2")).await;
        play.delete("delete", delete("b", "")).await;
        play.grant("grant", 6, 60).await;
        play.grant("grant, again", 5, 60).await;
        play.compact("compact", 2, true).await;
        play.txn("reads", steps([PbTxnOpRequest::RequestRange(range("a", ""))])).await;
        play.txn("puts", steps([PbTxnOpRequest::RequestPut(put("a", "3"))])).await;
        let deletes = PbTxnOpRequest::RequestDeleteRange(delete("b", ""));
        play.txn("deletes", steps([deletes])).await;
        play.txn("nothing", PbTxnRequest::default()).await;
        play.call::<_, PbAlarmResponse>("disarm", path, alarm(2, raised)).await;
        play.call::<_, PbAlarmResponse>("disarm, again", path, alarm(2, raised)).await;
        play.put("as before", put("a", "4")).await;
        plain::note(play, "/health").await;
    }
}

fn steps<const N: usize>(steps: [PbTxnOpRequest; N]) -> PbTxnRequest {
    PbTxnRequest { success: steps.map(op).into(), ..PbTxnRequest::default() }
}

/// What needs files, or other versions.
pub(crate) async fn operations(play: &mut Play) {
    let path = "/etcdserverpb.Maintenance/Snapshot";
    let mut talk = play.talk::<PbSnapshotRequest, PbSnapshotResponse>(path).await;
    talk.say(PbSnapshotRequest {});
    talk.fall_silent();
    let first = talk.next().await.expect("an answer");
    play.told("snapshot", first.map(|first| first.is_some()));
    let path = "/etcdserverpb.Maintenance/Downgrade";
    for (what, action, version) in [
        ("to nothing", 0, ""),
        ("to nonsense", 0, "x"),
        ("too far", 0, "3.1.0"),
        ("further up", 0, "3.9.0"),
        ("not under way", 2, ""),
        ("unknown", 9, ""),
    ] {
        let request = PbDowngradeRequest { action, version: version.to_owned() };
        play.call::<_, PbDowngradeResponse>(what, path, request).await;
    }
}

/// Any message: nothing of it is read.
#[derive(Clone, PartialEq, prost::Message)]
struct Anything {}

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

pub(crate) async fn health(play: &mut Play) {
    for service in ["", "etcdserverpb.KV", "etcdserverpb.Watch", "etcdserverpb.Lease", "nobody"] {
        let check = HealthCheck { service: service.to_owned() };
        let path = "/grpc.health.v1.Health/Check";
        play.call::<_, Health>(service, path, check.clone()).await;
        let path = "/grpc.health.v1.Health/Watch";
        let mut talk = play.talk::<HealthCheck, Health>(path).await;
        talk.say(check);
        talk.fall_silent();
        play.next(service, &mut talk).await;
    }
}

pub(crate) async fn unknown(play: &mut Play) {
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
        "/nobody/Nothing",
        "/nobody.Nowhere/Nothing/More",
        "/nobody",
        "/",
        "/etcdserverpb.kv/Range",
        "/a/b/c/d",
    ] {
        let answer: Result<Anything, _> = play.ask(path, Anything {}).await;
        play.told(path, answer);
    }
    // Bytes that are no message of this kind.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Nonsense {
        #[prost(int64, tag = "1")]
        key: i64,
    }
    let answer: Result<Anything, _> = play.ask("/etcdserverpb.KV/Put", Nonsense { key: 5 }).await;
    play.note("nonsense", answer.map_err(|status| refusal(&status)));
    #[derive(Clone, PartialEq, prost::Message)]
    struct Newer {
        #[prost(bytes, tag = "1")]
        key: Vec<u8>,
        #[prost(string, tag = "99")]
        later: String,
    }
    let newer = Newer { key: b"a".to_vec(), later: "more".to_owned() };
    let answer: Result<Anything, _> = play.ask("/etcdserverpb.KV/Put", newer).await;
    play.note("a field that nobody knows", answer.map_err(|status| refusal(&status)));
}
