//! Differential test of coord's server against a real etcd, with the client crate etcd-client.
//!
//! One script runs on a real etcd and on coord's services in process, over an in-memory store. The
//! two transcripts must be equal: every status code, every message and every field, apart from the
//! values of the cluster id, the member id and the Raft term.
#![expect(clippy::unwrap_used, reason = "a call that fails fails the test")]

use std::fmt::Debug;
use std::time::Duration;

use coord_etcd_tests::test_server::mask_server_ids;
use coord_etcd_tests::{ClusterBuilder, Release};
use coord_mem::MemBackend;
use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Client, Compare, CompareOp, DeleteOptions, GetOptions,
    LeaseGrantOptions, PutOptions, Txn, TxnOp, WatchFilterType, WatchOptions, WatchStream,
};
use tokio::time::timeout;

#[tokio::test]
async fn services_respond_exactly_like_etcd() {
    let server = ClusterBuilder::new(Release::newest()).start().await;
    let etcd = Client::connect(server.endpoints(), None).await.unwrap();
    let channel = coord_server::in_process(MemBackend::new());
    let coord = Client::from_channel(channel, None).await.unwrap();
    let (etcd, coord) = (run_script(etcd).await, run_script(coord).await);
    for (etcd, coord) in etcd.iter().zip(&coord) {
        assert_eq!(etcd, coord, "left: {}, right: coord", server.release());
    }
    assert_eq!(etcd.len(), coord.len());
    assert!(etcd.len() > 60, "{}", etcd.len());
}

/// The responses of a run of the script, with the ids and the term of the server masked.
#[derive(Default)]
struct Transcript(Vec<String>);

impl Transcript {
    /// Records the result of a call.
    fn note(&mut self, what: &str, response: Result<impl Debug, etcd_client::Error>) {
        let response = match response {
            Ok(response) => mask_server_ids(format!("{response:?}")),
            Err(etcd_client::Error::GRpcStatus(status)) => {
                format!("{:?}: {}", status.code(), status.message())
            }
            Err(error) => format!("{error:?}"),
        };
        self.0.push(format!("{what}: {response}"));
    }

    /// Records the next message of a watch stream.
    async fn next(&mut self, what: &str, stream: &mut WatchStream) {
        let message = timeout(Duration::from_secs(10), stream.message()).await;
        let message = message.unwrap_or_else(|_| panic!("{what}: no message within 10 s"));
        self.note(what, message.map(|message| message.unwrap().0));
    }
}

async fn run_script(client: Client) -> Vec<String> {
    let mut transcript = Transcript::default();
    keys(&mut transcript, client.clone()).await;
    txns(&mut transcript, client.clone()).await;
    leases(&mut transcript, client.clone()).await;
    watches(&mut transcript, client.clone()).await;
    alarms(&mut transcript, client).await;
    transcript.0
}

async fn keys(t: &mut Transcript, mut c: Client) {
    t.note("put", c.put("a", "1", None).await.map(|r| r.0));
    let options = || Some(PutOptions::new());
    let prev = options().map(PutOptions::with_prev_key);
    t.note("put, prev_kv", c.put("a", "2", prev).await.map(|r| r.0));
    t.note("put, no key", c.put("", "2", None).await.map(|r| r.0));
    let keep = || options().map(PutOptions::with_ignore_value);
    t.note("ignore_value of a missing key", c.put("b", "", keep()).await.map(|r| r.0));
    t.note("ignore_value with a value", c.put("a", "3", keep()).await.map(|r| r.0));
    let both = options().map(|options| options.with_ignore_lease().with_lease(3));
    t.note("ignore_lease with a lease", c.put("a", "3", both).await.map(|r| r.0));
    let lease = options().map(|options| options.with_lease(3));
    t.note("put, missing lease", c.put("a", "3", lease).await.map(|r| r.0));
    let large = |bytes| vec![b'x'; bytes];
    t.note("put, large", c.put("a", large(1_600_000), None).await.map(|r| r.0));
    t.note("put, too large", c.put("a", large(2_200_000), None).await.map(|r| r.0));
    t.note("get, too large", c.get(large(2_200_000), None).await.map(|r| r.0));
    t.note("get", c.get("a", None).await.map(|r| r.0));
    t.note("get, no key", c.get("", Some(GetOptions::new())).await.map(|r| r.0));
    let at = |revision| Some(GetOptions::new().with_revision(revision));
    t.note("get, past revision", c.get("a", at(2)).await.map(|r| r.0));
    t.note("get, future revision", c.get("a", at(99)).await.map(|r| r.0));
    t.note("compact, future revision", c.compact(99, None).await.map(|_| "done"));
    t.note("compact", c.compact(3, None).await.map(|_| "done"));
    t.note("compact, again", c.compact(3, None).await.map(|_| "done"));
    t.note("get, compacted revision", c.get("a", at(2)).await.map(|r| r.0));
    let prev = || Some(DeleteOptions::new().with_prev_key());
    t.note("delete", c.delete("a", prev()).await.map(|r| r.0));
    t.note("delete, nothing", c.delete("a", prev()).await.map(|r| r.0));
    t.note("delete, no key", c.delete("", prev()).await.map(|r| r.0));
}

async fn txns(t: &mut Transcript, mut c: Client) {
    let puts = |n: usize| (0..n).map(|i| TxnOp::put(format!("k{i}"), "1", None));
    let nested = TxnOp::txn(Txn::new().and_then([TxnOp::get("b", None)]));
    let ops: Vec<_> = puts(2).chain([nested, TxnOp::delete("k9", None)]).collect();
    let when = || [Compare::version("a", CompareOp::Equal, 0)];
    t.note("txn", c.txn(Txn::new().when(when()).and_then(ops)).await.map(|r| r.0));
    t.note(
        "txn, failure branch",
        c.txn(Txn::new().when([Compare::version("k0", CompareOp::Equal, 0)])).await.map(|r| r.0),
    );
    let many = puts(129).collect::<Vec<_>>();
    t.note("txn, many", c.txn(Txn::new().and_then(many)).await.map(|r| r.0));
    let twice = puts(1).chain(puts(1)).collect::<Vec<_>>();
    t.note("txn, twice", c.txn(Txn::new().and_then(twice)).await.map(|r| r.0));
    let no_key = [TxnOp::get("", None)];
    t.note("txn, no key", c.txn(Txn::new().and_then(no_key)).await.map(|r| r.0));
}

async fn leases(t: &mut Transcript, mut c: Client) {
    let id = |id| Some(LeaseGrantOptions::new().with_id(id));
    t.note("grant", c.lease_grant(60, id(5)).await.map(|r| r.0));
    t.note("grant, again", c.lease_grant(60, id(5)).await.map(|r| r.0));
    t.note("grant, negative id and TTL", c.lease_grant(-7, id(-6)).await.map(|r| r.0));
    t.note("grant, TTL too large", c.lease_grant(9_000_000_001, id(7)).await.map(|r| r.0));
    t.note("revoke", c.lease_revoke(-6).await.map(|r| r.0));
    t.note("revoke, again", c.lease_revoke(-6).await.map(|r| r.0));
    t.note("revoke, id 0", c.lease_revoke(0).await.map(|r| r.0));
    t.note("time to live, revoked", c.lease_time_to_live(-6, None).await.map(|r| r.0));
    t.note("time to live, id 0", c.lease_time_to_live(0, None).await.map(|r| r.0));
    t.note("list", c.leases().await.map(|r| r.0.leases));

    let (mut requests, mut stream) = c.lease_keep_alive(5).await.unwrap();
    for (what, id) in
        [("keep-alive", 5), ("keep-alive, revoked", -6), ("keep-alive, id 0", 0), ("keep-alive", 5)]
    {
        requests.id = id;
        requests.keep_alive().await.unwrap();
        let response = stream.message().await;
        t.note(what, response.map(|response| response.unwrap().0));
    }
}

async fn watches(t: &mut Transcript, mut c: Client) {
    let with_id = |id| Some(WatchOptions::new().with_watch_id(id));
    let mut w = c.watch("a", None).await.unwrap();
    t.next("watch", &mut w).await;
    for (what, key, options) in [
        ("empty range", "b", Some(WatchOptions::new().with_range("a"))),
        ("negative start", "b", Some(WatchOptions::new().with_start_revision(-1))),
        ("own id", "k7", with_id(7)),
        ("own id, taken", "k8", with_id(7)),
        ("own id, negative", "k-5", with_id(-5)),
        ("own id, the next free id", "k1", with_id(1)),
        ("server's id, skips the taken one", "k2", None),
        ("no key", "", None),
        ("future", "k9", Some(WatchOptions::new().with_start_revision(1_000))),
    ] {
        w.watch(key, options).await.unwrap();
        t.next(what, &mut w).await;
    }
    // A watch with a future start prevents progress notifications until it is cancelled.
    for (what, id) in [("cancel", 4), ("cancel", 7)] {
        w.cancel(id).await.unwrap();
        t.next(what, &mut w).await;
    }
    // There is no response to this request.
    w.cancel(7).await.unwrap();
    let put = c.put("a", "1", None).await;
    t.note("put", put.map(|r| r.0));
    t.next("event", &mut w).await;
    t.note("put", c.put("\0", "1", None).await.map(|r| r.0));
    t.next("event of the empty key's watch", &mut w).await;
    w.request_progress().await.unwrap();
    t.next("progress", &mut w).await;

    let no_put = WatchOptions::new().with_filters([WatchFilterType::NoPut]).with_prev_key();
    w.watch("f", Some(no_put.with_watch_id(20))).await.unwrap();
    t.next("filtered", &mut w).await;
    t.note("put", c.put("f", "1", None).await.map(|r| r.0));
    t.note("delete", c.delete("f", None).await.map(|r| r.0));
    t.next("delete event only", &mut w).await;
    compacted_start(t, c, w).await;
}

/// A watch with a compacted start, and its effect on the other watches of the stream.
async fn compacted_start(t: &mut Transcript, mut c: Client, mut w: WatchStream) {
    let revision = c.put("g", "1", None).await.unwrap().0.header.unwrap().revision;
    t.note("compact", c.compact(revision, None).await.map(|_| "done"));
    let from = |revision| WatchOptions::new().with_start_revision(revision).with_watch_id(9);
    w.watch("g", Some(from(1))).await.unwrap();
    t.next("compacted: created", &mut w).await;
    t.next("compacted: cancelled", &mut w).await;
    w.watch("g", Some(from(0))).await.unwrap();
    t.next("its id is still taken", &mut w).await;
    // There is no response: the next message is an event.
    w.request_progress().await.unwrap();
    t.note("put", c.put("a", "2", None).await.map(|r| r.0));
    t.next("event, without progress before", &mut w).await;
    t.note("put", c.put("g", "2", None).await.map(|r| r.0));
    w.cancel(9).await.unwrap();
    t.next("cancel", &mut w).await;
    w.request_progress().await.unwrap();
    t.next("progress", &mut w).await;
    w.watch("g", Some(from(revision))).await.unwrap();
    t.next("its id is free", &mut w).await;
    // The whole history arrives in one message.
    t.next("history in one message", &mut w).await;
}

async fn alarms(t: &mut Transcript, mut c: Client) {
    let of = |member| {
        let mut options = AlarmOptions::new();
        options.with_member(member);
        Some(options)
    };
    let (list, raise, disarm) = (AlarmAction::Get, AlarmAction::Activate, AlarmAction::Deactivate);
    for (what, action, alarm) in [
        ("no alarms", list, AlarmType::None),
        ("raise, no kind", raise, AlarmType::None),
        ("raise", raise, AlarmType::Nospace),
        ("raise, again", raise, AlarmType::Nospace),
        ("list, other kind", list, AlarmType::Corrupt),
    ] {
        t.note(what, c.alarm(action, alarm, of(7)).await.map(|r| r.0));
    }
    t.note("put, no space", c.put("a", "1", None).await.map(|r| r.0));
    t.note("grant, no space", c.lease_grant(60, None).await.map(|_| "done"));
    t.note("delete, no space", c.delete("nothing", None).await.map(|r| r.0));
    for (what, op) in [
        ("txn of a put", TxnOp::put("a", "1", None)),
        ("txn of a nested put", TxnOp::txn(Txn::new().and_then([TxnOp::put("n", "1", None)]))),
        ("txn of a deletion", TxnOp::delete("nothing", None)),
    ] {
        t.note(what, c.txn(Txn::new().and_then([op])).await.map(|r| r.0));
    }
    t.note("errors", c.status().await.map(|status| status.errors().to_vec()));
    t.note("disarm, other member", c.alarm(disarm, AlarmType::Nospace, of(8)).await.map(|r| r.0));
    t.note("disarm", c.alarm(disarm, AlarmType::Nospace, of(7)).await.map(|r| r.0));
    t.note("put, again", c.put("a", "1", None).await.map(|r| r.0));
    t.note("corrupt", c.alarm(raise, AlarmType::Corrupt, None).await.map(|r| r.0));
    t.note("put, corrupt", c.put("a", "1", None).await.map(|r| r.0));
    t.note("delete, corrupt", c.delete("nothing", None).await.map(|r| r.0));
    t.note("revoke, corrupt", c.lease_revoke(5).await.map(|_| "done"));
    let read = Txn::new().and_then([TxnOp::get("a", None)]);
    t.note("get, corrupt", c.get("a", None).await.map(|r| r.0));
    t.note("txn of a get, corrupt", c.txn(read).await.map(|r| r.0));
    t.note("disarm", c.alarm(disarm, AlarmType::Corrupt, None).await.map(|r| r.0));
    t.note("put, after disarm", c.put("a", "1", None).await.map(|r| r.0));
}
