//! Leases.

use coord_etcd_tests::bare::refusal;
use coord_etcd_tests::create;
use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse,
    PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse,
    PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse, PbPutRequest,
};

use crate::kv::{put, range};
use crate::play::{Play, Talk};

type Keeping = Talk<PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse>;

impl Play {
    async fn revoke(&mut self, what: &str, id: i64) {
        let (path, request) = ("/etcdserverpb.Lease/LeaseRevoke", PbLeaseRevokeRequest { id });
        self.call::<_, PbLeaseRevokeResponse>(what, path, request).await;
    }

    /// The time that is left is told only roughly: a moment has passed.
    async fn time_to_live(&mut self, what: &str, id: i64, keys: bool) {
        let request = PbLeaseTimeToLiveRequest { id, keys };
        let path = "/etcdserverpb.Lease/LeaseTimeToLive";
        let answer: Result<PbLeaseTimeToLiveResponse, _> = self.ask(path, request).await;
        let answer = answer.map(|mut answer| {
            answer.keys.sort();
            if answer.ttl >= answer.granted_ttl - 2 && answer.granted_ttl > 0 {
                answer.ttl = answer.granted_ttl;
            }
            answer
        });
        self.told(what, answer);
    }

    async fn leases(&mut self, what: &str) {
        let path = "/etcdserverpb.Lease/LeaseLeases";
        let answer: Result<PbLeaseLeasesResponse, _> =
            self.ask(path, PbLeaseLeasesRequest {}).await;
        let answer = answer.map(|mut answer| {
            answer.leases.sort_by_key(|lease| lease.id);
            answer
        });
        self.told(what, answer);
    }
}

pub(crate) async fn grants(play: &mut Play) {
    play.leases("none").await;
    for (what, id, ttl) in [
        ("a minute", 5, 60),
        ("again", 5, 60),
        ("again, too long", 5, 9_000_000_001),
        ("a negative id", -5, 60),
        ("the least id", i64::MIN, 60),
        ("the greatest id", i64::MAX, 60),
        ("no time", 1, 0),
        ("less than no time", 2, -100),
        ("one second", 3, 1),
        ("as short as can be", 4, 2),
        ("longer", 6, 3),
        ("the longest", 7, 9_000_000_000),
        ("too long", 8, 9_000_000_001),
        ("far too long", 9, i64::MAX),
        ("the least time", 10, i64::MIN),
    ] {
        play.grant(what, id, ttl).await;
    }
    play.leases("many").await;
    let path = "/etcdserverpb.Lease/LeaseGrant";
    let request = PbLeaseGrantRequest { ttl: 60, id: 0 };
    let chosen = [play.ask(path, request).await, play.ask(path, request).await];
    let [one, two]: [PbLeaseGrantResponse; 2] = chosen.map(|granted| granted.expect("a lease"));
    play.note("ids of the server's choice", (one.id > 0, two.id > 0, one.id != two.id, one.ttl));
    for id in [5, -5, i64::MIN, i64::MAX, 1, 7, 8, 0] {
        play.time_to_live("time to live", id, false).await;
    }
    for id in [5, 5, -5, 0, 99, i64::MIN] {
        play.revoke("revoke", id).await;
    }
    play.time_to_live("revoked", 5, true).await;
    play.grant("a new life", 5, 60).await;
}

pub(crate) async fn keys_of_leases(play: &mut Play) {
    play.grant("grant", 5, 60).await;
    play.grant("grant", 6, 60).await;
    for key in ["c", "a", "b", "a"] {
        play.put("put", PbPutRequest { lease: 5, ..put(key, "1") }).await;
    }
    play.time_to_live("keys", 5, true).await;
    play.time_to_live("keys are not told", 5, false).await;
    play.time_to_live("no keys", 6, true).await;
    play.time_to_live("keys of none", 7, true).await;
    play.put("moved", PbPutRequest { lease: 6, ..put("a", "2") }).await;
    play.put("freed", put("b", "2")).await;
    play.time_to_live("keys that are left", 5, true).await;
    play.time_to_live("keys that came", 6, true).await;
    let mut talk = play.watch().await;
    talk.union(create!("a", range_end: b"z".to_vec(), prev_kv: true));
    play.next("create", &mut talk).await;
    play.put("on it again", PbPutRequest { lease: 5, ..put("b", "3") }).await;
    play.next("event", &mut talk).await;
    play.revoke("revoke", 5).await;
    play.next("events of one revision", &mut talk).await;
    play.range("left", range("\0", "\0")).await;
    play.revoke("revoke", 6).await;
    play.range("left", range("\0", "\0")).await;
}

pub(crate) async fn refreshes(play: &mut Play) {
    play.grant("grant", 5, 60).await;
    let path = "/etcdserverpb.Lease/LeaseKeepAlive";
    let mut talk: Keeping = play.talk(path).await;
    for (what, id) in [("refresh", 5), ("unknown", 6), ("none", 0), ("negative", -5), ("again", 5)]
    {
        talk.say(PbLeaseKeepAliveRequest { id });
        play.next(what, &mut talk).await;
    }
    // Said together, answered in order.
    for id in [5, 6, 5] {
        talk.say(PbLeaseKeepAliveRequest { id });
    }
    for _ in 0..3 {
        play.next("one of three", &mut talk).await;
    }
    play.revoke("revoke", 5).await;
    talk.say(PbLeaseKeepAliveRequest { id: 5 });
    play.next("revoked", &mut talk).await;
    talk.fall_silent();
    play.next("over", &mut talk).await;

    let mut silent: Keeping = play.talk(path).await;
    silent.fall_silent();
    match silent.next().await.expect("it ends") {
        Ok(answer) => play.note("nothing said", answer),
        Err(status) => play.note("nothing said", refusal(&status)),
    }
}

pub(crate) async fn order(play: &mut Play) {
    for (id, ttl) in [(1, 300), (2, 100), (3, 200), (-4, 400)] {
        play.grant("grant", id, ttl).await;
    }
    let path = "/etcdserverpb.Lease/LeaseLeases";
    let request = PbLeaseLeasesRequest {};
    play.call::<_, PbLeaseLeasesResponse>("by the time that is left", path, request).await;
}

pub(crate) async fn expiry(play: &mut Play) {
    let mut talk = play.watch().await;
    talk.union(create!("a", range_end: b"z".to_vec(), prev_kv: true));
    play.next("create", &mut talk).await;
    play.grant("grant", 5, 2).await;
    for key in ["b", "a"] {
        play.put("put", PbPutRequest { lease: 5, ..put(key, "1") }).await;
        play.next("event", &mut talk).await;
    }
    play.next("its keys are gone", &mut talk).await;
    play.time_to_live("so is the lease", 5, true).await;
    play.revoke("revoke", 5).await;
    play.put("put", PbPutRequest { lease: 5, ..put("a", "1") }).await;
    let mut keeping: Keeping = play.talk("/etcdserverpb.Lease/LeaseKeepAlive").await;
    keeping.say(PbLeaseKeepAliveRequest { id: 5 });
    play.next("refresh", &mut keeping).await;
    play.grant("a new life", 5, 60).await;
}
