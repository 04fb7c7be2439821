//! Requests on a watch stream and their responses: create, cancel and progress.

use coord_etcd_tests::create_watch;

use crate::kv::{delete, put};
use crate::scenario_run::ScenarioRun;

pub(crate) async fn ids(run: &mut ScenarioRun) {
    let mut stream = run.watch().await;
    for (what, id) in [
        ("server's id", 0),
        ("client's id", 7),
        ("taken", 7),
        ("negative", -5),
        ("minus one", -1),
        ("minus one, taken", -1),
        ("the next", 1),
        ("the next but one", 2),
        ("after the taken ids", 0),
        ("taken by the server", 3),
        ("the greatest", i64::MAX),
        ("the least", i64::MIN),
    ] {
        stream.send_request(create_watch!("a", watch_id: id));
        run.next(what, &mut stream).await;
    }
    for id in [0, 7, -5] {
        stream.cancel(id);
        run.next("cancel", &mut stream).await;
    }
    // There is no response to these requests: the next message is a later response.
    for id in [0, 7, 99, -2] {
        stream.cancel(id);
    }
    for id in [0, 7, -5, 0] {
        stream.send_request(create_watch!("a", watch_id: id));
        run.next("a freed id", &mut stream).await;
    }
    // Every stream has its own ids.
    let mut other = run.watch().await;
    other.send_request(create_watch!("a"));
    run.next("another stream", &mut other).await;
    other.send_request(create_watch!("a", watch_id: 7));
    run.next("another stream, client's id", &mut other).await;
}

pub(crate) async fn rejections(run: &mut ScenarioRun) {
    run.put("put", put("a", "1")).await;
    let mut stream = run.watch().await;
    for (what, request) in [
        ("backwards", create_watch!("b", range_end: b"a".to_vec())),
        ("the same", create_watch!("b", range_end: b"b".to_vec())),
        ("no key, backwards", create_watch!("", range_end: b"\0".to_vec())),
        ("backwards, with an id", create_watch!("b", range_end: b"a".to_vec(), watch_id: 5)),
        ("the id is free", create_watch!("b", watch_id: 5)),
        ("taken and backwards", create_watch!("b", range_end: b"a".to_vec(), watch_id: 5)),
        ("taken and in the future", create_watch!("b", start_revision: 100, watch_id: 5)),
        ("no key", create_watch!("")),
        ("no key, but an end", create_watch!("", range_end: b"z".to_vec())),
        ("everything", create_watch!("\0", range_end: b"\0".to_vec())),
        ("unknown filter", create_watch!("a", filters: vec![5, 0])),
        ("no id was used up", create_watch!("a")),
    ] {
        stream.send_request(request);
        run.next(what, &mut stream).await;
    }
    // A request without content is ignored.
    stream.send(etcd_client::proto::PbWatchRequest { request_union: None });
    stream.send_request(create_watch!("a"));
    run.next("after an empty request", &mut stream).await;
    // etcd 3.4 creates these watches, and cancels them later.
    for (what, request) in [
        ("a negative start", create_watch!("a", start_revision: -1, watch_id: 20)),
        ("the least start", create_watch!("a", start_revision: i64::MIN, watch_id: 21)),
        (
            "negative and backwards",
            create_watch!("b", range_end: b"a".to_vec(), start_revision: -1),
        ),
        ("taken and negative", create_watch!("b", start_revision: -1, watch_id: 5)),
    ] {
        let mut stream = run.watch().await;
        stream.send_request(create_watch!("b", watch_id: 5));
        run.next("the id is taken", &mut stream).await;
        stream.send_request(request);
        run.next(what, &mut stream).await;
    }
}

pub(crate) async fn starts(run: &mut ScenarioRun) {
    for value in ["1", "2", "3", "4"] {
        run.put("put", put("a", value)).await;
    }
    run.delete("delete", delete("a", "")).await;
    run.compact("compact", 3, true).await;
    let mut stream = run.watch().await;
    for start in [1, 2] {
        stream.send_request(create_watch!("a", start_revision: start));
        run.next("compacted: created", &mut stream).await;
        run.next("compacted: cancelled", &mut stream).await;
    }
    stream.send_request(create_watch!("a", start_revision: 1, watch_id: 9));
    run.next("compacted, own id: created", &mut stream).await;
    run.next("compacted, own id: cancelled", &mut stream).await;
    stream.send_request(create_watch!("a", watch_id: 9));
    run.next("its id is taken", &mut stream).await;
    stream.cancel(9);
    run.next("cancel", &mut stream).await;
    stream.send_request(create_watch!("a", watch_id: 9));
    run.next("its id is free", &mut stream).await;
    stream.cancel(9);
    run.next("cancel", &mut stream).await;

    for (what, start) in [("future start", 8), ("next", 7)] {
        stream.send_request(create_watch!("b", start_revision: start));
        run.next(what, &mut stream).await;
    }
    run.put("put", put("b", "1")).await;
    run.next("the next", &mut stream).await;
    run.put("put", put("b", "2")).await;
    let mut two =
        [stream.next().await, stream.next().await].map(|next| next.unwrap().unwrap().unwrap());
    two.sort_by_key(|message| message.watch_id);
    run.note("both", two);
}

pub(crate) async fn cancels(run: &mut ScenarioRun) {
    let mut stream = run.watch().await;
    for key in ["a", "b", "a"] {
        stream.send_request(create_watch!(key));
        run.next("create", &mut stream).await;
    }
    run.put("put", put("b", "1")).await;
    run.next("event", &mut stream).await;
    stream.cancel(1);
    run.next("cancel", &mut stream).await;
    stream.cancel(2);
    run.next("cancel", &mut stream).await;
    run.put("put", put("b", "2")).await;
    run.put("put", put("a", "2")).await;
    run.next("event of the remaining watch", &mut stream).await;
    stream.cancel(0);
    run.next("cancel", &mut stream).await;
    stream.send_request(create_watch!("c"));
    run.next("the stream is still open", &mut stream).await;
}

pub(crate) async fn progress_without_watches(run: &mut ScenarioRun) {
    let mut stream = run.watch().await;
    stream.send_request(create_watch!("a"));
    run.next("create", &mut stream).await;
    stream.cancel(0);
    run.next("cancel", &mut stream).await;
    stream.request_progress();
    stream.send_request(create_watch!("b"));
    run.next("no progress without watches", &mut stream).await;
}

/// A progress request does not wait for a watch that is created after it, and has a response even
/// if the watch is cancelled after it. etcd sends the responses in any order.
pub(crate) async fn progress_before_other_requests(run: &mut ScenarioRun) {
    for value in ["1", "2", "3"] {
        run.put("put", put("a", value)).await;
    }
    run.compact("compact", 3, true).await;
    for (what, start, count) in [("the future", 100, 2), ("what is compacted", 2, 3)] {
        let mut stream = run.watch().await;
        stream.send_request(create_watch!("a"));
        run.next("create", &mut stream).await;
        stream.request_progress();
        stream.send_request(create_watch!("a", start_revision: start));
        run.next_in_any_order(what, &mut stream, count).await;
    }
    let mut stream = run.watch().await;
    stream.send_request(create_watch!("a"));
    run.next("create", &mut stream).await;
    stream.request_progress();
    stream.cancel(0);
    run.next_in_any_order("and cancel", &mut stream, 2).await;
}

pub(crate) async fn progress(run: &mut ScenarioRun) {
    let mut stream = run.watch().await;
    stream.send_request(create_watch!("a"));
    run.next("create", &mut stream).await;
    stream.request_progress();
    run.next("progress", &mut stream).await;
    run.put("put elsewhere", put("x", "1")).await;
    stream.request_progress();
    run.next("progress at a later revision", &mut stream).await;
    for _ in 0..3 {
        stream.request_progress();
    }
    for _ in 0..3 {
        run.next("one of three", &mut stream).await;
    }
    stream.send_request(create_watch!("b"));
    run.next("create", &mut stream).await;
    stream.request_progress();
    run.next("progress of two watches", &mut stream).await;
    run.put("put", put("b", "1")).await;
    run.next("event", &mut stream).await;
    stream.request_progress();
    run.next("progress after the event", &mut stream).await;
}

/// A watch with a future start prevents progress notifications.
pub(crate) async fn progress_after_future_watch(run: &mut ScenarioRun) {
    let mut stream = run.watch().await;
    for start_revision in [0, 5] {
        stream.send_request(create_watch!("a", start_revision: start_revision));
        run.next("create", &mut stream).await;
    }
    stream.request_progress();
    stream.cancel(1);
    run.next("cancel, without progress before", &mut stream).await;
    stream.request_progress();
    run.next("progress", &mut stream).await;
}

/// Progress requests that were dropped have no later response.
pub(crate) async fn progress_during_future_watch(run: &mut ScenarioRun) {
    let mut stream = run.watch().await;
    for start_revision in [0, 5] {
        stream.send_request(create_watch!("a", start_revision: start_revision));
        run.next("create", &mut stream).await;
    }
    stream.request_progress();
    stream.request_progress();
    stream.send_request(create_watch!("b"));
    run.next("create, without progress before", &mut stream).await;
    for value in ["1", "2", "3", "4"] {
        run.put("put elsewhere", put("x", value)).await;
    }
    stream.request_progress();
    run.next("progress once the future revision exists", &mut stream).await;
    stream.send_request(create_watch!("c"));
    run.next("no second progress", &mut stream).await;
}

pub(crate) async fn half_closed(run: &mut ScenarioRun) {
    let mut stream = run.watch().await;
    stream.send_request(create_watch!("a"));
    run.next("create", &mut stream).await;
    stream.send_request(create_watch!("b"));
    stream.finish();
    run.next("create, then close the client's side", &mut stream).await;
    run.put("put", put("a", "1")).await;
    run.next("event", &mut stream).await;
    run.put("put", put("b", "1")).await;
    run.next("event", &mut stream).await;
}
