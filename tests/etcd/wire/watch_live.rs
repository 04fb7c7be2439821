//! The events that watches bring.

use coord_etcd_tests::create;
use etcd_client::proto::{
    PbKeyValue, PbPutResponse, PbTxnOpRequest, PbTxnRequest, PbWatchResponse,
};
use tokio::time::{Duration, sleep};

use crate::kv::{delete, put};
use crate::play::{Play, WatchTalk};
use crate::txn::op;

impl Play {
    /// Events of the past, however they are grouped into messages, until there are so many.
    async fn history(&mut self, what: &str, talk: &mut WatchTalk, count: usize) {
        let mut events = Vec::new();
        while events.len() < count {
            let message = talk.next().await.unwrap_or_else(|| panic!("{what}: {events:?}"));
            let message: PbWatchResponse = message.expect("no error").expect("the stream goes on");
            events.extend(message.events.into_iter().map(|event| (message.watch_id, event)));
        }
        self.note(what, events);
    }
}

pub(crate) async fn events(play: &mut Play) {
    let mut talk = play.watch().await;
    talk.union(create!("a", range_end: b"c".to_vec()));
    play.next("create", &mut talk).await;
    play.grant("grant", 5, 60).await;
    for (key, value) in [("a", "1"), ("a", "1"), ("b", "2")] {
        play.put("put", put(key, value)).await;
        play.next("event", &mut talk).await;
    }
    play.put("put elsewhere", put("c", "1")).await;
    let leased = etcd_client::proto::PbPutRequest { lease: 5, ..put("a", "3") };
    play.put("put on a lease", leased).await;
    play.next("event", &mut talk).await;
    play.delete("delete", delete("a", "")).await;
    play.next("event", &mut talk).await;
    play.delete("delete nothing", delete("a", "")).await;
    let steps = ["bb", "ba", "z"].map(|key| op(PbTxnOpRequest::RequestPut(put(key, "1"))));
    let delete_b = op(PbTxnOpRequest::RequestDeleteRange(delete("b", "ba")));
    let success = steps.into_iter().chain([delete_b]).collect();
    play.txn("txn", PbTxnRequest { success, ..PbTxnRequest::default() }).await;
    play.next("events of one revision", &mut talk).await;
    play.delete("delete all", delete("\0", "\0")).await;
    play.next("in order", &mut talk).await;

    let mut late = play.watch().await;
    late.union(create!("a", range_end: b"c".to_vec(), start_revision: 2, prev_kv: true));
    play.next("create, late", &mut late).await;
    play.history("all of it", &mut late, 10).await;
    play.put("put", put("a", "9")).await;
    play.next("and on", &mut late).await;
    late.union(create!("\0", range_end: b"\0".to_vec(), start_revision: 1));
    play.next("create, everything", &mut late).await;
    play.history("everything", &mut late, 15).await;
}

pub(crate) async fn filters(play: &mut Play) {
    let mut talk = play.watch().await;
    for filters in [vec![0], vec![1], vec![0, 1], vec![1, 1], vec![7]] {
        talk.union(create!("a", filters: filters));
        play.next("create", &mut talk).await;
    }
    for step in 0..2 {
        if step == 0 {
            play.put("put", put("a", "1")).await;
        } else {
            play.delete("delete", delete("a", "")).await;
        }
        let mut heard = Vec::new();
        let who = if step == 0 { 3 } else { 2 };
        for _ in 0..who {
            let message = talk.next().await.expect("an event").expect("no error");
            heard.push(message.expect("the stream goes on"));
        }
        heard.sort_by_key(|message: &PbWatchResponse| message.watch_id);
        play.note("who heard of it", heard);
    }
    talk.progress();
    play.next("nobody else", &mut talk).await;
}

pub(crate) async fn previous(play: &mut Play) {
    let mut talk = play.watch().await;
    talk.union(create!("a", prev_kv: true));
    play.next("create", &mut talk).await;
    play.put("put", put("a", "1")).await;
    play.next("a new key", &mut talk).await;
    play.put("put", put("a", "2")).await;
    play.next("changed", &mut talk).await;
    play.delete("delete", delete("a", "")).await;
    play.next("deleted", &mut talk).await;
    play.put("put", put("a", "3")).await;
    play.next("a new life", &mut talk).await;
    play.put("put", put("a", "4")).await;
    play.next("changed", &mut talk).await;
    play.compact("compact", 6, true).await;
    let mut late = play.watch().await;
    late.union(create!("a", prev_kv: true, start_revision: 6));
    play.next("create, late", &mut late).await;
    play.history("what is compacted is not told", &mut late, 1).await;
    play.put("put", put("a", "5")).await;
    play.next("changed", &mut late).await;
}

pub(crate) async fn fragments(play: &mut Play) {
    let large = "x".repeat(700_000);
    let mut talk = play.watch().await;
    for key in ["a", "b", "c", "d", "e"] {
        play.put("put", put(key, &large)).await;
    }
    for fragment in [true, false] {
        talk.union(create!("a", range_end: b"z".to_vec(), fragment: fragment, prev_kv: true));
        play.next("create", &mut talk).await;
    }
    play.delete(
        "delete",
        etcd_client::proto::PbDeleteRequest { prev_kv: false, ..delete("a", "z") },
    )
    .await;
    let mut heard = Vec::new();
    for _ in 0..4 {
        let message = talk.next().await.expect("an event").expect("no error");
        let message = message.expect("the stream goes on");
        heard.push((message.watch_id, message.fragment, message.events.len()));
    }
    heard.sort_by_key(|(id, fragment, _)| (*id, !fragment));
    play.note("pieces", heard);
}

/// Several watches of one key, on one stream and on others, each hear everything once.
pub(crate) async fn together(play: &mut Play) {
    let mut talks = Vec::new();
    for _ in 0..3 {
        let mut talk = play.watch().await;
        for key in ["a", "a", "b"] {
            talk.union(create!(key));
            play.next("create", &mut talk).await;
        }
        talks.push(talk);
    }
    for n in 0..20 {
        play.put("put", put(["a", "b"][n % 2], &n.to_string())).await;
    }
    // Nothing is read in the meantime: what is not read is kept.
    sleep(Duration::from_millis(200)).await;
    for talk in &mut talks {
        let mut events = Vec::new();
        while events.len() < 30 {
            let message = talk.next().await.expect("events").expect("no error");
            let message = message.expect("the stream goes on");
            events.extend(message.events.into_iter().map(|event| (message.watch_id, event)));
        }
        events.sort_by_key(|(id, event)| (*id, event.kv.as_ref().map_or(0, |kv| kv.mod_revision)));
        play.note("each hears all", events);
    }
}

/// More of it than etcd puts into one message.
pub(crate) async fn long_history(play: &mut Play) {
    for n in 0..1_200 {
        let put: Result<PbPutResponse, _> =
            play.ask("/etcdserverpb.KV/Put", put("a", &n.to_string())).await;
        put.expect("a put");
    }
    let mut talk = play.watch().await;
    for (start_revision, count) in [(1, 1_200), (700, 502), (1_201, 1)] {
        talk.union(create!("a", start_revision: start_revision, prev_kv: true));
        play.next("create", &mut talk).await;
        let mut events = Vec::new();
        while events.len() < count {
            let message = talk.next().await.expect("events").expect("no error");
            events.extend(message.expect("the stream goes on").events);
        }
        let revisions: Vec<_> = events
            .iter()
            .map(|event| {
                let revision = |kv: &Option<PbKeyValue>| kv.as_ref().map(|kv| kv.mod_revision);
                (revision(&event.kv), revision(&event.prev_kv))
            })
            .collect();
        let in_a_row = revisions.windows(2).all(|pair| pair[0].0 < pair[1].0);
        play.note("history", (in_a_row, revisions.len(), revisions.first(), revisions.last()));
    }
    play.put("put", put("a", "last")).await;
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.push(talk.next().await.expect("events").expect("no error").expect("it goes on"));
    }
    heard.sort_by_key(|message| message.watch_id);
    play.note("live again", heard);
}
