//! The services against the real thing, message by message.
//!
//! One script is played with the bare client crate, once to a real etcd and once to the services
//! over a store in memory, and the two transcripts have to be equal: every status code, every
//! message, every field, but for who answers.

use std::fmt::Debug;
use std::time::Duration;

use coord_etcd_tests::serve::masked;
use coord_etcd_tests::{Release, Setup};
use coord_mem::MemBackend;
use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Client, Compare, CompareOp, DeleteOptions, GetOptions,
    LeaseGrantOptions, PutOptions, Txn, TxnOp, WatchFilterType, WatchOptions, WatchStream,
};
use tokio::time::timeout;

#[tokio::test]
async fn services_answer_as_etcd_to_the_letter() {
    let server = Setup::new(Release::newest()).start().await;
    let real = Client::connect(server.endpoints(), None).await.expect("a server that is ready");
    let channel = coord_server::in_process(MemBackend::new());
    let ours = Client::from_channel(channel, None).await.expect("a channel that leads somewhere");
    let (real, ours) = (play(real).await, play(ours).await);
    for (real, ours) in real.iter().zip(&ours) {
        assert_eq!(real, ours, "left: {}, right: our services", server.release());
    }
    assert_eq!(real.len(), ours.len());
    assert!(real.len() > 60, "{}", real.len());
}

/// What was answered, without who did.
#[derive(Default)]
struct Transcript(Vec<String>);

impl Transcript {
    fn note(&mut self, what: &str, answer: Result<impl Debug, etcd_client::Error>) {
        let answer = match answer {
            Ok(answer) => masked(format!("{answer:?}")),
            Err(etcd_client::Error::GRpcStatus(status)) => {
                format!("{:?}: {}", status.code(), status.message())
            }
            Err(error) => format!("{error:?}"),
        };
        self.0.push(format!("{what}: {answer}"));
    }

    /// The next message of a watch stream; nothing if none comes.
    async fn next(&mut self, what: &str, stream: &mut WatchStream) {
        let message = timeout(Duration::from_secs(10), stream.message()).await;
        let message = message.unwrap_or_else(|_| panic!("{what}: nothing came"));
        self.note(what, message.map(|message| message.expect("the stream goes on").0));
    }
}

async fn play(client: Client) -> Vec<String> {
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
    t.note("put, prev", c.put("a", "2", prev).await.map(|r| r.0));
    t.note("put, no key", c.put("", "2", None).await.map(|r| r.0));
    let keep = || options().map(PutOptions::with_ignore_value);
    t.note("keep what is not", c.put("b", "", keep()).await.map(|r| r.0));
    t.note("keep and give", c.put("a", "3", keep()).await.map(|r| r.0));
    let both = options().map(|options| options.with_ignore_lease().with_lease(3));
    t.note("keep and give a lease", c.put("a", "3", both).await.map(|r| r.0));
    let lease = options().map(|options| options.with_lease(3));
    t.note("put, no lease", c.put("a", "3", lease).await.map(|r| r.0));
    let large = |bytes| vec![b'x'; bytes];
    t.note("put, large", c.put("a", large(1_600_000), None).await.map(|r| r.0));
    t.note("put, too large", c.put("a", large(2_200_000), None).await.map(|r| r.0));
    t.note("get, too large", c.get(large(2_200_000), None).await.map(|r| r.0));
    t.note("get", c.get("a", None).await.map(|r| r.0));
    t.note("get, no key", c.get("", Some(GetOptions::new())).await.map(|r| r.0));
    let at = |revision| Some(GetOptions::new().with_revision(revision));
    t.note("get, once", c.get("a", at(2)).await.map(|r| r.0));
    t.note("get, some day", c.get("a", at(99)).await.map(|r| r.0));
    t.note("compact, some day", c.compact(99, None).await.map(|_| "done"));
    t.note("compact", c.compact(3, None).await.map(|_| "done"));
    t.note("compact, again", c.compact(3, None).await.map(|_| "done"));
    t.note("get, too late", c.get("a", at(2)).await.map(|r| r.0));
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
        "txn, else",
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
    t.note("grant, negative id and time", c.lease_grant(-7, id(-6)).await.map(|r| r.0));
    t.note("grant, too long", c.lease_grant(9_000_000_001, id(7)).await.map(|r| r.0));
    t.note("revoke", c.lease_revoke(-6).await.map(|r| r.0));
    t.note("revoke, again", c.lease_revoke(-6).await.map(|r| r.0));
    t.note("revoke, none", c.lease_revoke(0).await.map(|r| r.0));
    t.note("ask, gone", c.lease_time_to_live(-6, None).await.map(|r| r.0));
    t.note("ask, none", c.lease_time_to_live(0, None).await.map(|r| r.0));
    t.note("list", c.leases().await.map(|r| r.0.leases));

    let (mut keeper, mut stream) = c.lease_keep_alive(5).await.expect("the lease is there");
    for (what, id) in [("refresh", 5), ("refresh, gone", -6), ("refresh, none", 0), ("refresh", 5)]
    {
        keeper.id = id;
        keeper.keep_alive().await.expect("the stream takes requests");
        let answer = stream.message().await;
        t.note(what, answer.map(|answer| answer.expect("the stream goes on").0));
    }
}

async fn watches(t: &mut Transcript, mut c: Client) {
    let with_id = |id| Some(WatchOptions::new().with_watch_id(id));
    let mut w = c.watch("a", None).await.expect("the stream opens");
    t.next("watch", &mut w).await;
    for (what, key, options) in [
        ("empty range", "b", Some(WatchOptions::new().with_range("a"))),
        ("negative start", "b", Some(WatchOptions::new().with_start_revision(-1))),
        ("own id", "k7", with_id(7)),
        ("own id, taken", "k8", with_id(7)),
        ("own id, negative", "k-5", with_id(-5)),
        ("own id, next in line", "k1", with_id(1)),
        ("after one that is taken", "k2", None),
        ("no key", "", None),
        ("future", "k9", Some(WatchOptions::new().with_start_revision(1_000))),
    ] {
        w.watch(key, options).await.expect("the stream takes requests");
        t.next(what, &mut w).await;
    }
    // The one that waits for the future keeps all bookmarks away until it is gone.
    for (what, id) in [("cancel", 4), ("cancel", 7)] {
        w.cancel(id).await.expect("the stream takes requests");
        t.next(what, &mut w).await;
    }
    // Nothing is said to the first of these.
    w.cancel(7).await.expect("the stream takes requests");
    let put = c.put("a", "1", None).await;
    t.note("put", put.map(|r| r.0));
    t.next("event", &mut w).await;
    t.note("put", c.put("\0", "1", None).await.map(|r| r.0));
    t.next("event of the key for no key", &mut w).await;
    w.request_progress().await.expect("the stream takes requests");
    t.next("progress", &mut w).await;

    let no_put = WatchOptions::new().with_filters([WatchFilterType::NoPut]).with_prev_key();
    w.watch("f", Some(no_put.with_watch_id(20))).await.expect("the stream takes requests");
    t.next("filtered", &mut w).await;
    t.note("put", c.put("f", "1", None).await.map(|r| r.0));
    t.note("delete", c.delete("f", None).await.map(|r| r.0));
    t.next("deletion alone", &mut w).await;
    gone(t, c, w).await;
}

/// A watch whose start is compacted, and what it does to its neighbours.
async fn gone(t: &mut Transcript, mut c: Client, mut w: WatchStream) {
    let revision = c.put("g", "1", None).await.expect("put").0.header.expect("header").revision;
    t.note("compact", c.compact(revision, None).await.map(|_| "done"));
    let from = |revision| WatchOptions::new().with_start_revision(revision).with_watch_id(9);
    w.watch("g", Some(from(1))).await.expect("the stream takes requests");
    t.next("compacted: created", &mut w).await;
    t.next("compacted: cancelled", &mut w).await;
    w.watch("g", Some(from(0))).await.expect("the stream takes requests");
    t.next("its id is still taken", &mut w).await;
    // Not answered, as the event shows that comes instead.
    w.request_progress().await.expect("the stream takes requests");
    t.note("put", c.put("a", "2", None).await.map(|r| r.0));
    t.next("event instead of progress", &mut w).await;
    t.note("put", c.put("g", "2", None).await.map(|r| r.0));
    w.cancel(9).await.expect("the stream takes requests");
    t.next("cancel", &mut w).await;
    w.request_progress().await.expect("the stream takes requests");
    t.next("progress", &mut w).await;
    w.watch("g", Some(from(revision))).await.expect("the stream takes requests");
    t.next("its id is free", &mut w).await;
    // All that had happened comes at once.
    t.next("its history", &mut w).await;
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
        ("raise none", raise, AlarmType::None),
        ("raise", raise, AlarmType::Nospace),
        ("raise, again", raise, AlarmType::Nospace),
        ("others", list, AlarmType::Corrupt),
    ] {
        t.note(what, c.alarm(action, alarm, of(7)).await.map(|r| r.0));
    }
    t.note("put, no space", c.put("a", "1", None).await.map(|r| r.0));
    t.note("grant, no space", c.lease_grant(60, None).await.map(|_| "done"));
    t.note("delete, no space", c.delete("nothing", None).await.map(|r| r.0));
    for (what, op) in [
        ("txn of a put", TxnOp::put("a", "1", None)),
        ("txn of a put within", TxnOp::txn(Txn::new().and_then([TxnOp::put("n", "1", None)]))),
        ("txn of a deletion", TxnOp::delete("nothing", None)),
    ] {
        t.note(what, c.txn(Txn::new().and_then([op])).await.map(|r| r.0));
    }
    t.note("errors", c.status().await.map(|status| status.errors().to_vec()));
    t.note("disarm another's", c.alarm(disarm, AlarmType::Nospace, of(8)).await.map(|r| r.0));
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
    t.note("put, at last", c.put("a", "1", None).await.map(|r| r.0));
}
