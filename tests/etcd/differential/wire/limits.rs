//! Servers with other limits and other progress intervals.

use std::time::Duration;

use coord_etcd_tests::create_watch;
use etcd_client::proto::{
    PbPutRequest, PbRangeResponse, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp,
    PbWatchRequestUnion,
};
use tokio::time::{Instant, timeout};

use crate::kv::{delete, put, range};
use crate::scenario_run::ScenarioRun;
use crate::txn::op;

pub(crate) async fn small_requests(run: &mut ScenarioRun) {
    for bytes in [9_900, 10_100, 500_000, 534_000, 535_000, 1_000_000] {
        let large = "x".repeat(bytes);
        run.put("put", put("a", &large)).await;
        let step: PbTxnRequestOp = op(PbTxnOpRequest::RequestPut(put("a", &large)));
        let success = vec![step];
        run.txn("txn", PbTxnRequest { success, ..PbTxnRequest::default() }).await;
        run.delete("delete", delete(&large, "")).await;
        run.range("range", range(&large, "")).await;
        let mut stream = run.watch().await;
        stream.send_request(create_watch!(large));
        run.next("watch", &mut stream).await;
    }
}

/// Every other error of a request takes precedence over the size error.
pub(crate) async fn large_and_invalid(run: &mut ScenarioRun) {
    let large = "x".repeat(20_000);
    run.put("no key", put("", &large)).await;
    run.put("a value to ignore", PbPutRequest { ignore_value: true, ..put("a", &large) }).await;
    let lease = PbPutRequest { lease: 5, ignore_lease: true, ..put("a", &large) };
    run.put("a lease to ignore", lease).await;
    run.put("missing lease", PbPutRequest { lease: 5, ..put("a", &large) }).await;
    run.delete("no key", delete("", &large)).await;
    let put = || op(PbTxnOpRequest::RequestPut(put("a", &large)));
    for (what, success) in [
        ("one key twice", vec![put(), put()]),
        ("no operation", vec![put(), PbTxnRequestOp { request: None }]),
        ("too many operations", vec![put(); 129]),
        ("nothing else", vec![put()]),
    ] {
        run.txn(what, PbTxnRequest { success, ..PbTxnRequest::default() }).await;
    }
}

/// A third stream waits until one of two is closed.
pub(crate) async fn max_streams(run: &mut ScenarioRun) {
    let mut streams = [run.watch().await, run.watch().await];
    for stream in &mut streams {
        stream.send_request(create_watch!("a"));
        run.next("create", stream).await;
    }
    let early = run.unary::<_, PbRangeResponse>("/etcdserverpb.KV/Range", range("a", ""));
    let early = timeout(Duration::from_millis(300), early).await;
    run.note("third stream", early.map_err(|_| "waits"));
    let [first, mut second] = streams;
    drop(first);
    run.range("call after one stream closed", range("a", "")).await;
    run.put("put", put("a", "1")).await;
    run.next("event", &mut second).await;
}

/// Periodic progress notifications of a watch without events.
pub(crate) async fn notifications(run: &mut ScenarioRun) {
    let mut stream = run.watch().await;
    stream.send_request(create_watch!("a", progress_notify: true));
    run.next("create", &mut stream).await;
    let quiet: PbWatchRequestUnion = create_watch!("a");
    stream.send_request(quiet);
    run.next("create, without", &mut stream).await;
    run.next("progress", &mut stream).await;
    run.next("progress", &mut stream).await;
    run.put("put elsewhere", put("b", "1")).await;
    run.next("progress at a later revision", &mut stream).await;
    stream.cancel(1);
    run.next("cancel", &mut stream).await;
    run.put("put", put("a", "1")).await;
    run.next("event", &mut stream).await;
    let before = Instant::now();
    run.next("progress after the event", &mut stream).await;
    // The notification that was due before a full interval without events is skipped.
    run.note("waited a full interval", before.elapsed() > Duration::from_millis(900));
    stream.cancel(0);
    run.next("cancel", &mut stream).await;
    let nothing = timeout(Duration::from_millis(1_300), stream.next()).await;
    run.note("no more messages", nothing.is_err());
}

/// On coord's server, the interval is longer than the clock can represent.
pub(crate) async fn no_notifications(run: &mut ScenarioRun) {
    let mut stream = run.watch().await;
    stream.send_request(create_watch!("a", progress_notify: true));
    run.next("create", &mut stream).await;
    run.put("put", put("a", "1")).await;
    run.next("event", &mut stream).await;
}
