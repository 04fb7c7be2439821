//! What is said on a watch stream, and what is answered, apart from events.

use crate::kv::{delete, put};
use crate::play::Play;
use coord_etcd_tests::create;

pub(crate) async fn ids(play: &mut Play) {
    let mut talk = play.watch().await;
    for (what, id) in [
        ("of the server's choice", 0),
        ("of our own", 7),
        ("taken", 7),
        ("negative", -5),
        ("minus one", -1),
        ("minus one, taken", -1),
        ("the next", 1),
        ("the one after", 2),
        ("after those that are taken", 0),
        ("taken by the server", 3),
        ("the greatest", i64::MAX),
        ("the least", i64::MIN),
    ] {
        talk.union(create!("a", watch_id: id));
        play.next(what, &mut talk).await;
    }
    for id in [0, 7, -5] {
        talk.cancel(id);
        play.next("cancel", &mut talk).await;
    }
    // To these nothing is said, as what comes next shows.
    for id in [0, 7, 99, -2] {
        talk.cancel(id);
    }
    for id in [0, 7, -5, 0] {
        talk.union(create!("a", watch_id: id));
        play.next("an id that was free again", &mut talk).await;
    }
    // Another stream has ids of its own.
    let mut other = play.watch().await;
    other.union(create!("a"));
    play.next("another stream", &mut other).await;
    other.union(create!("a", watch_id: 7));
    play.next("another stream, of our own", &mut other).await;
}

pub(crate) async fn refusals(play: &mut Play) {
    play.put("put", put("a", "1")).await;
    let mut talk = play.watch().await;
    for (what, request) in [
        ("backwards", create!("b", range_end: b"a".to_vec())),
        ("the same", create!("b", range_end: b"b".to_vec())),
        ("no key, backwards", create!("", range_end: b"\0".to_vec())),
        ("backwards, with an id", create!("b", range_end: b"a".to_vec(), watch_id: 5)),
        ("the id is free", create!("b", watch_id: 5)),
        ("taken and backwards", create!("b", range_end: b"a".to_vec(), watch_id: 5)),
        ("taken and in the future", create!("b", start_revision: 100, watch_id: 5)),
        ("no key", create!("")),
        ("no key, but an end", create!("", range_end: b"z".to_vec())),
        ("everything", create!("\0", range_end: b"\0".to_vec())),
        ("a filter that nobody knows", create!("a", filters: vec![5, 0])),
        ("no id was used up", create!("a")),
    ] {
        talk.union(request);
        play.next(what, &mut talk).await;
    }
    // What says nothing is passed over.
    talk.say(etcd_client::proto::PbWatchRequest { request_union: None });
    talk.union(create!("a"));
    play.next("after silence", &mut talk).await;
    // etcd 3.4 takes these for watches, and some time later has more to say about them.
    for (what, request) in [
        ("a negative start", create!("a", start_revision: -1, watch_id: 20)),
        ("the least start", create!("a", start_revision: i64::MIN, watch_id: 21)),
        ("negative and backwards", create!("b", range_end: b"a".to_vec(), start_revision: -1)),
        ("taken and negative", create!("b", start_revision: -1, watch_id: 5)),
    ] {
        let mut talk = play.watch().await;
        talk.union(create!("b", watch_id: 5));
        play.next("the id is taken", &mut talk).await;
        talk.union(request);
        play.next(what, &mut talk).await;
    }
}

pub(crate) async fn starts(play: &mut Play) {
    for value in ["1", "2", "3", "4"] {
        play.put("put", put("a", value)).await;
    }
    play.delete("delete", delete("a", "")).await;
    play.compact("compact", 3, true).await;
    let mut talk = play.watch().await;
    for start in [1, 2] {
        talk.union(create!("a", start_revision: start));
        play.next("compacted: created", &mut talk).await;
        play.next("compacted: cancelled", &mut talk).await;
    }
    talk.union(create!("a", start_revision: 1, watch_id: 9));
    play.next("compacted, own id: created", &mut talk).await;
    play.next("compacted, own id: cancelled", &mut talk).await;
    talk.union(create!("a", watch_id: 9));
    play.next("its id is taken", &mut talk).await;
    talk.cancel(9);
    play.next("cancel", &mut talk).await;
    talk.union(create!("a", watch_id: 9));
    play.next("its id is free", &mut talk).await;
    talk.cancel(9);
    play.next("cancel", &mut talk).await;

    for (what, start) in [("tomorrow", 8), ("next", 7)] {
        talk.union(create!("b", start_revision: start));
        play.next(what, &mut talk).await;
    }
    play.put("put", put("b", "1")).await;
    play.next("the next", &mut talk).await;
    play.put("put", put("b", "2")).await;
    let mut two = [talk.next().await, talk.next().await]
        .map(|next| next.expect("both hear it").expect("no error").expect("the stream goes on"));
    two.sort_by_key(|message| message.watch_id);
    play.note("both", two);
}

pub(crate) async fn cancels(play: &mut Play) {
    let mut talk = play.watch().await;
    for key in ["a", "b", "a"] {
        talk.union(create!(key));
        play.next("create", &mut talk).await;
    }
    play.put("put", put("b", "1")).await;
    play.next("event", &mut talk).await;
    talk.cancel(1);
    play.next("cancel", &mut talk).await;
    talk.cancel(2);
    play.next("cancel", &mut talk).await;
    play.put("put", put("b", "2")).await;
    play.put("put", put("a", "2")).await;
    play.next("one is left", &mut talk).await;
    talk.cancel(0);
    play.next("cancel", &mut talk).await;
    talk.union(create!("c"));
    play.next("the stream is still there", &mut talk).await;
}

pub(crate) async fn nobodys_bookmarks(play: &mut Play) {
    let mut talk = play.watch().await;
    talk.union(create!("a"));
    play.next("create", &mut talk).await;
    talk.cancel(0);
    play.next("cancel", &mut talk).await;
    talk.progress();
    talk.union(create!("b"));
    play.next("a bookmark for nobody is not told", &mut talk).await;
}

/// A bookmark says nothing of a watch that is created after it was asked for, and comes if the
/// watches it was asked for are cancelled after that. The order is left to chance by etcd.
pub(crate) async fn hasty_bookmarks(play: &mut Play) {
    for value in ["1", "2", "3"] {
        play.put("put", put("a", value)).await;
    }
    play.compact("compact", 3, true).await;
    for (what, start, count) in [("the future", 100, 2), ("what is compacted", 2, 3)] {
        let mut talk = play.watch().await;
        talk.union(create!("a"));
        play.next("create", &mut talk).await;
        talk.progress();
        talk.union(create!("a", start_revision: start));
        play.next_in_any_order(what, &mut talk, count).await;
    }
    let mut talk = play.watch().await;
    talk.union(create!("a"));
    play.next("create", &mut talk).await;
    talk.progress();
    talk.cancel(0);
    play.next_in_any_order("and cancel", &mut talk, 2).await;
}

pub(crate) async fn bookmarks(play: &mut Play) {
    let mut talk = play.watch().await;
    talk.union(create!("a"));
    play.next("create", &mut talk).await;
    talk.progress();
    play.next("bookmark", &mut talk).await;
    play.put("put elsewhere", put("x", "1")).await;
    talk.progress();
    play.next("bookmark, further on", &mut talk).await;
    for _ in 0..3 {
        talk.progress();
    }
    for _ in 0..3 {
        play.next("one of three", &mut talk).await;
    }
    talk.union(create!("b"));
    play.next("create", &mut talk).await;
    talk.progress();
    play.next("bookmark of two", &mut talk).await;
    play.put("put", put("b", "1")).await;
    play.next("event", &mut talk).await;
    talk.progress();
    play.next("bookmark after the event", &mut talk).await;
}

/// One that waits for the future keeps all bookmarks away.
pub(crate) async fn late_bookmarks(play: &mut Play) {
    let mut talk = play.watch().await;
    for start_revision in [0, 5] {
        talk.union(create!("a", start_revision: start_revision));
        play.next("create", &mut talk).await;
    }
    talk.progress();
    talk.cancel(1);
    play.next("cancel instead of a bookmark", &mut talk).await;
    talk.progress();
    play.next("bookmark", &mut talk).await;
}

/// What was asked for in vain is not made up for.
pub(crate) async fn vain_bookmarks(play: &mut Play) {
    let mut talk = play.watch().await;
    for start_revision in [0, 5] {
        talk.union(create!("a", start_revision: start_revision));
        play.next("create", &mut talk).await;
    }
    talk.progress();
    talk.progress();
    talk.union(create!("b"));
    play.next("create", &mut talk).await;
    for value in ["1", "2", "3", "4"] {
        play.put("put elsewhere", put("x", value)).await;
    }
    talk.progress();
    play.next("bookmark when the future is there", &mut talk).await;
    talk.union(create!("c"));
    play.next("and no other", &mut talk).await;
}

pub(crate) async fn half_closed(play: &mut Play) {
    let mut talk = play.watch().await;
    talk.union(create!("a"));
    play.next("create", &mut talk).await;
    talk.union(create!("b"));
    talk.fall_silent();
    play.next("create and be silent", &mut talk).await;
    play.put("put", put("a", "1")).await;
    play.next("event", &mut talk).await;
    play.put("put", put("b", "1")).await;
    play.next("event", &mut talk).await;
}
