//! Events on watch streams: history, filters, previous values, fragments.

use coord_etcd_tests::create_watch;
use etcd_client::proto::{
    PbKeyValue, PbPutResponse, PbTxnOpRequest, PbTxnRequest, PbWatchResponse,
};
use tokio::time::{Duration, sleep};

use crate::kv::{delete, put};
use crate::scenario_run::{RawWatchStream, ScenarioRun};
use crate::txn::op;

impl ScenarioRun {
    /// Records the next `count` events, however they are grouped into messages.
    async fn history(&mut self, what: &str, stream: &mut RawWatchStream, count: usize) {
        let mut events = Vec::new();
        while events.len() < count {
            let message = stream.next().await.unwrap_or_else(|| panic!("{what}: {events:?}"));
            let message: PbWatchResponse = message.unwrap().unwrap();
            events.extend(message.events.into_iter().map(|event| (message.watch_id, event)));
        }
        self.note(what, events);
    }
}

pub(crate) async fn events(run: &mut ScenarioRun) {
    let mut stream = run.watch().await;
    stream.send_request(create_watch!("a", range_end: b"c".to_vec()));
    run.next("create", &mut stream).await;
    run.grant("grant", 5, 60).await;
    for (key, value) in [("a", "1"), ("a", "1"), ("b", "2")] {
        run.put("put", put(key, value)).await;
        run.next("event", &mut stream).await;
    }
    run.put("put elsewhere", put("c", "1")).await;
    let leased = etcd_client::proto::PbPutRequest { lease: 5, ..put("a", "3") };
    run.put("put on a lease", leased).await;
    run.next("event", &mut stream).await;
    run.delete("delete", delete("a", "")).await;
    run.next("event", &mut stream).await;
    run.delete("delete nothing", delete("a", "")).await;
    let steps = ["bb", "ba", "z"].map(|key| op(PbTxnOpRequest::RequestPut(put(key, "1"))));
    let delete_b = op(PbTxnOpRequest::RequestDeleteRange(delete("b", "ba")));
    let success = steps.into_iter().chain([delete_b]).collect();
    run.txn("txn", PbTxnRequest { success, ..PbTxnRequest::default() }).await;
    run.next("events of one revision", &mut stream).await;
    run.delete("delete all", delete("\0", "\0")).await;
    run.next("events in key order", &mut stream).await;

    let mut late = run.watch().await;
    late.send_request(
        create_watch!("a", range_end: b"c".to_vec(), start_revision: 2, prev_kv: true),
    );
    run.next("create, late", &mut late).await;
    run.history("whole history", &mut late, 10).await;
    run.put("put", put("a", "9")).await;
    run.next("next event", &mut late).await;
    late.send_request(create_watch!("\0", range_end: b"\0".to_vec(), start_revision: 1));
    run.next("create, everything", &mut late).await;
    run.history("everything", &mut late, 15).await;
}

pub(crate) async fn filters(run: &mut ScenarioRun) {
    let mut stream = run.watch().await;
    for filters in [vec![0], vec![1], vec![0, 1], vec![1, 1], vec![7]] {
        stream.send_request(create_watch!("a", filters: filters));
        run.next("create", &mut stream).await;
    }
    for step in 0..2 {
        if step == 0 {
            run.put("put", put("a", "1")).await;
        } else {
            run.delete("delete", delete("a", "")).await;
        }
        let mut messages = Vec::new();
        let count = if step == 0 { 3 } else { 2 };
        for _ in 0..count {
            let message = stream.next().await.unwrap().unwrap();
            messages.push(message.unwrap());
        }
        messages.sort_by_key(|message: &PbWatchResponse| message.watch_id);
        run.note("watches that received it", messages);
    }
    stream.request_progress();
    run.next("progress", &mut stream).await;
}

pub(crate) async fn prev_kvs(run: &mut ScenarioRun) {
    let mut stream = run.watch().await;
    stream.send_request(create_watch!("a", prev_kv: true));
    run.next("create", &mut stream).await;
    run.put("put", put("a", "1")).await;
    run.next("a new key", &mut stream).await;
    run.put("put", put("a", "2")).await;
    run.next("changed", &mut stream).await;
    run.delete("delete", delete("a", "")).await;
    run.next("deleted", &mut stream).await;
    run.put("put", put("a", "3")).await;
    run.next("key created again", &mut stream).await;
    run.put("put", put("a", "4")).await;
    run.next("changed", &mut stream).await;
    run.compact("compact", 6, true).await;
    let mut late = run.watch().await;
    late.send_request(create_watch!("a", prev_kv: true, start_revision: 6));
    run.next("create, late", &mut late).await;
    run.history("compacted prev_kv is omitted", &mut late, 1).await;
    run.put("put", put("a", "5")).await;
    run.next("changed", &mut late).await;
}

pub(crate) async fn fragments(run: &mut ScenarioRun) {
    let large = "x".repeat(700_000);
    let mut stream = run.watch().await;
    for key in ["a", "b", "c", "d", "e"] {
        run.put("put", put(key, &large)).await;
    }
    for fragment in [true, false] {
        stream.send_request(
            create_watch!("a", range_end: b"z".to_vec(), fragment: fragment, prev_kv: true),
        );
        run.next("create", &mut stream).await;
    }
    run.delete(
        "delete",
        etcd_client::proto::PbDeleteRequest { prev_kv: false, ..delete("a", "z") },
    )
    .await;
    let mut messages = Vec::new();
    for _ in 0..4 {
        let message = stream.next().await.unwrap().unwrap();
        let message = message.unwrap();
        messages.push((message.watch_id, message.fragment, message.events.len()));
    }
    messages.sort_by_key(|(id, fragment, _)| (*id, !fragment));
    run.note("fragments", messages);
}

/// Several watches of one key, on one stream and on several, each receive every event once.
pub(crate) async fn shared_keys(run: &mut ScenarioRun) {
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = run.watch().await;
        for key in ["a", "a", "b"] {
            stream.send_request(create_watch!(key));
            run.next("create", &mut stream).await;
        }
        streams.push(stream);
    }
    for n in 0..20 {
        run.put("put", put(["a", "b"][n % 2], &n.to_string())).await;
    }
    // The streams are not read meanwhile, so the server must retain the events.
    sleep(Duration::from_millis(200)).await;
    for stream in &mut streams {
        let mut events = Vec::new();
        while events.len() < 30 {
            let message = stream.next().await.unwrap().unwrap();
            let message = message.unwrap();
            events.extend(message.events.into_iter().map(|event| (message.watch_id, event)));
        }
        events.sort_by_key(|(id, event)| (*id, event.kv.as_ref().map_or(0, |kv| kv.mod_revision)));
        run.note("events of each watch", events);
    }
}

/// A history with more revisions than etcd sends in one message.
pub(crate) async fn long_history(run: &mut ScenarioRun) {
    for n in 0..1_200 {
        let put: Result<PbPutResponse, _> =
            run.unary("/etcdserverpb.KV/Put", put("a", &n.to_string())).await;
        put.unwrap();
    }
    let mut stream = run.watch().await;
    for (start_revision, count) in [(1, 1_200), (700, 502), (1_201, 1)] {
        stream.send_request(create_watch!("a", start_revision: start_revision, prev_kv: true));
        run.next("create", &mut stream).await;
        let mut events = Vec::new();
        while events.len() < count {
            let message = stream.next().await.unwrap().unwrap();
            events.extend(message.unwrap().events);
        }
        let revisions: Vec<_> = events
            .iter()
            .map(|event| {
                let revision = |kv: &Option<PbKeyValue>| kv.as_ref().map(|kv| kv.mod_revision);
                (revision(&event.kv), revision(&event.prev_kv))
            })
            .collect();
        let in_a_row = revisions.windows(2).all(|pair| pair[0].0 < pair[1].0);
        run.note("history", (in_a_row, revisions.len(), revisions.first(), revisions.last()));
    }
    run.put("put", put("a", "last")).await;
    let mut messages = Vec::new();
    for _ in 0..3 {
        messages.push(stream.next().await.unwrap().unwrap().unwrap());
    }
    messages.sort_by_key(|message| message.watch_id);
    run.note("events after the history", messages);
}
