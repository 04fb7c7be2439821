//! The Lease service: grant, revoke, keep-alive, time to live, expiry.

use coord_etcd_tests::create_watch;
use coord_etcd_tests::raw_client::rejection;
use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse,
    PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse,
    PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse, PbPutRequest,
};

use crate::kv::{put, range};
use crate::scenario_run::{RawStream, ScenarioRun};

type KeepAliveStream = RawStream<PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse>;

impl ScenarioRun {
    async fn revoke(&mut self, what: &str, id: i64) {
        let (path, request) = ("/etcdserverpb.Lease/LeaseRevoke", PbLeaseRevokeRequest { id });
        self.call::<_, PbLeaseRevokeResponse>(what, path, request).await;
    }

    /// Records the time to live. A remaining time within 2 s of the granted TTL is recorded as the
    /// TTL.
    async fn time_to_live(&mut self, what: &str, id: i64, keys: bool) {
        let request = PbLeaseTimeToLiveRequest { id, keys };
        let path = "/etcdserverpb.Lease/LeaseTimeToLive";
        let response: Result<PbLeaseTimeToLiveResponse, _> = self.unary(path, request).await;
        let response = response.map(|mut response| {
            response.keys.sort();
            if response.ttl >= response.granted_ttl - 2 && response.granted_ttl > 0 {
                response.ttl = response.granted_ttl;
            }
            response
        });
        self.record(what, response);
    }

    async fn leases(&mut self, what: &str) {
        let path = "/etcdserverpb.Lease/LeaseLeases";
        let response: Result<PbLeaseLeasesResponse, _> =
            self.unary(path, PbLeaseLeasesRequest {}).await;
        let response = response.map(|mut response| {
            response.leases.sort_by_key(|lease| lease.id);
            response
        });
        self.record(what, response);
    }
}

pub(crate) async fn grants(run: &mut ScenarioRun) {
    run.leases("none").await;
    for (what, id, ttl) in [
        ("a minute", 5, 60),
        ("again", 5, 60),
        ("again, TTL too large", 5, 9_000_000_001),
        ("a negative id", -5, 60),
        ("the least id", i64::MIN, 60),
        ("the greatest id", i64::MAX, 60),
        ("TTL 0", 1, 0),
        ("negative TTL", 2, -100),
        ("one second", 3, 1),
        ("minimum TTL", 4, 2),
        ("longer TTL", 6, 3),
        ("maximum TTL", 7, 9_000_000_000),
        ("TTL too large", 8, 9_000_000_001),
        ("TTL overflow", 9, i64::MAX),
        ("minimum i64 TTL", 10, i64::MIN),
    ] {
        run.grant(what, id, ttl).await;
    }
    run.leases("many").await;
    let path = "/etcdserverpb.Lease/LeaseGrant";
    let request = PbLeaseGrantRequest { ttl: 60, id: 0 };
    let chosen = [run.unary(path, request).await, run.unary(path, request).await];
    let [one, two]: [PbLeaseGrantResponse; 2] = chosen.map(|granted| granted.unwrap());
    run.note("server's ids", (one.id > 0, two.id > 0, one.id != two.id, one.ttl));
    for id in [5, -5, i64::MIN, i64::MAX, 1, 7, 8, 0] {
        run.time_to_live("time to live", id, false).await;
    }
    for id in [5, 5, -5, 0, 99, i64::MIN] {
        run.revoke("revoke", id).await;
    }
    run.time_to_live("revoked", 5, true).await;
    run.grant("lease granted again", 5, 60).await;
}

pub(crate) async fn attached_keys(run: &mut ScenarioRun) {
    run.grant("grant", 5, 60).await;
    run.grant("grant", 6, 60).await;
    for key in ["c", "a", "b", "a"] {
        run.put("put", PbPutRequest { lease: 5, ..put(key, "1") }).await;
    }
    run.time_to_live("keys", 5, true).await;
    run.time_to_live("keys are omitted", 5, false).await;
    run.time_to_live("no keys", 6, true).await;
    run.time_to_live("keys of a missing lease", 7, true).await;
    run.put("key moved to another lease", PbPutRequest { lease: 6, ..put("a", "2") }).await;
    run.put("freed", put("b", "2")).await;
    run.time_to_live("remaining keys", 5, true).await;
    run.time_to_live("attached keys", 6, true).await;
    let mut stream = run.watch().await;
    stream.send_request(create_watch!("a", range_end: b"z".to_vec(), prev_kv: true));
    run.next("create", &mut stream).await;
    run.put("on the lease again", PbPutRequest { lease: 5, ..put("b", "3") }).await;
    run.next("event", &mut stream).await;
    run.revoke("revoke", 5).await;
    run.next("events of one revision", &mut stream).await;
    run.range("remaining keys", range("\0", "\0")).await;
    run.revoke("revoke", 6).await;
    run.range("remaining keys", range("\0", "\0")).await;
}

pub(crate) async fn keep_alives(run: &mut ScenarioRun) {
    run.grant("grant", 5, 60).await;
    let path = "/etcdserverpb.Lease/LeaseKeepAlive";
    let mut stream: KeepAliveStream = run.open_stream(path).await;
    for (what, id) in
        [("keep-alive", 5), ("unknown", 6), ("none", 0), ("negative", -5), ("again", 5)]
    {
        stream.send(PbLeaseKeepAliveRequest { id });
        run.next(what, &mut stream).await;
    }
    // Three requests at once: the responses arrive in order.
    for id in [5, 6, 5] {
        stream.send(PbLeaseKeepAliveRequest { id });
    }
    for _ in 0..3 {
        run.next("one of three", &mut stream).await;
    }
    run.revoke("revoke", 5).await;
    stream.send(PbLeaseKeepAliveRequest { id: 5 });
    run.next("revoked", &mut stream).await;
    stream.finish();
    run.next("end of the stream", &mut stream).await;

    let mut silent: KeepAliveStream = run.open_stream(path).await;
    silent.finish();
    match silent.next().await.unwrap() {
        Ok(response) => run.note("no request before closing", response),
        Err(status) => run.note("no request before closing", rejection(&status)),
    }
}

pub(crate) async fn list_order(run: &mut ScenarioRun) {
    for (id, ttl) in [(1, 300), (2, 100), (3, 200), (-4, 400)] {
        run.grant("grant", id, ttl).await;
    }
    let path = "/etcdserverpb.Lease/LeaseLeases";
    let request = PbLeaseLeasesRequest {};
    run.call::<_, PbLeaseLeasesResponse>("sorted by remaining TTL", path, request).await;
}

pub(crate) async fn expiry(run: &mut ScenarioRun) {
    let mut stream = run.watch().await;
    stream.send_request(create_watch!("a", range_end: b"z".to_vec(), prev_kv: true));
    run.next("create", &mut stream).await;
    run.grant("grant", 5, 2).await;
    for key in ["b", "a"] {
        run.put("put", PbPutRequest { lease: 5, ..put(key, "1") }).await;
        run.next("event", &mut stream).await;
    }
    run.next("its keys are deleted", &mut stream).await;
    run.time_to_live("the lease is deleted too", 5, true).await;
    run.revoke("revoke", 5).await;
    run.put("put", PbPutRequest { lease: 5, ..put("a", "1") }).await;
    let mut keeping: KeepAliveStream = run.open_stream("/etcdserverpb.Lease/LeaseKeepAlive").await;
    keeping.send(PbLeaseKeepAliveRequest { id: 5 });
    run.next("keep-alive", &mut keeping).await;
    run.grant("lease granted again", 5, 60).await;
}
