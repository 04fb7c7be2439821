//! Servers that are told to take less, or to say more.

use coord_etcd_tests::create;
use std::time::Duration;

use etcd_client::proto::{
    PbPutRequest, PbRangeResponse, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp,
    PbWatchRequestUnion,
};
use tokio::time::{Instant, timeout};

use crate::kv::{delete, put, range};
use crate::play::Play;
use crate::txn::op;

pub(crate) async fn small_requests(play: &mut Play) {
    for bytes in [9_900, 10_100, 500_000, 534_000, 535_000, 1_000_000] {
        let large = "x".repeat(bytes);
        play.put("put", put("a", &large)).await;
        let step: PbTxnRequestOp = op(PbTxnOpRequest::RequestPut(put("a", &large)));
        let success = vec![step];
        play.txn("txn", PbTxnRequest { success, ..PbTxnRequest::default() }).await;
        play.delete("delete", delete(&large, "")).await;
        play.range("range", range(&large, "")).await;
        let mut talk = play.watch().await;
        talk.union(create!(large));
        play.next("watch", &mut talk).await;
    }
}

/// What is too large is refused for that last of all.
pub(crate) async fn large_and_wrong(play: &mut Play) {
    let large = "x".repeat(20_000);
    play.put("no key", put("", &large)).await;
    play.put("a value to ignore", PbPutRequest { ignore_value: true, ..put("a", &large) }).await;
    let lease = PbPutRequest { lease: 5, ignore_lease: true, ..put("a", &large) };
    play.put("a lease to ignore", lease).await;
    play.put("no such lease", PbPutRequest { lease: 5, ..put("a", &large) }).await;
    play.delete("no key", delete("", &large)).await;
    let put = || op(PbTxnOpRequest::RequestPut(put("a", &large)));
    for (what, success) in [
        ("one key twice", vec![put(), put()]),
        ("no operation", vec![put(), PbTxnRequestOp { request: None }]),
        ("too many operations", vec![put(); 129]),
        ("nothing else", vec![put()]),
    ] {
        play.txn(what, PbTxnRequest { success, ..PbTxnRequest::default() }).await;
    }
}

/// The third of two streams waits until there is room.
pub(crate) async fn few_streams(play: &mut Play) {
    let mut talks = [play.watch().await, play.watch().await];
    for talk in &mut talks {
        talk.union(create!("a"));
        play.next("create", talk).await;
    }
    let early = play.ask::<_, PbRangeResponse>("/etcdserverpb.KV/Range", range("a", ""));
    let early = timeout(Duration::from_millis(300), early).await;
    play.note("a third", early.map_err(|_| "waits"));
    let [first, mut second] = talks;
    drop(first);
    play.range("a second", range("a", "")).await;
    play.put("put", put("a", "1")).await;
    play.next("event", &mut second).await;
}

/// What a watch is told that hears nothing.
pub(crate) async fn notifications(play: &mut Play) {
    let mut talk = play.watch().await;
    talk.union(create!("a", progress_notify: true));
    play.next("create", &mut talk).await;
    let quiet: PbWatchRequestUnion = create!("a");
    talk.union(quiet);
    play.next("create, without", &mut talk).await;
    play.next("bookmark", &mut talk).await;
    play.next("bookmark", &mut talk).await;
    play.put("put elsewhere", put("b", "1")).await;
    play.next("bookmark, further on", &mut talk).await;
    talk.cancel(1);
    play.next("cancel", &mut talk).await;
    play.put("put", put("a", "1")).await;
    play.next("event", &mut talk).await;
    let before = Instant::now();
    play.next("bookmark, after the event", &mut talk).await;
    // The one that was due first is left out.
    play.note("late", before.elapsed() > Duration::from_millis(900));
    talk.cancel(0);
    play.next("cancel", &mut talk).await;
    let nothing = timeout(Duration::from_millis(1_300), talk.next()).await;
    play.note("nothing any more", nothing.is_err());
}

/// What a watch is told that is to be told in a lifetime or two.
pub(crate) async fn no_notifications(play: &mut Play) {
    let mut talk = play.watch().await;
    talk.union(create!("a", progress_notify: true));
    play.next("create", &mut talk).await;
    play.put("put", put("a", "1")).await;
    play.next("event", &mut talk).await;
}
