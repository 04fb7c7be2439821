//! Bookmarks: batches without events, which say that everything up to their revision has come.

use std::time::Duration;

use coord_core::{
    KvBackend,
    kv::{KeyRange, Revision, Watch, Watcher},
};
use tokio::time::{sleep, timeout};

use super::steps::{
    Checked, Failure, compact, expect_batch, next_any, next_batch, puts, told, watch_all,
    watch_from,
};
use super::table;

table! { Progress;
    requested_progress_gives_a_bookmark,
    bookmark_covers_changes_outside_the_range,
    bookmark_comes_after_the_changes_before_it,
    bookmark_comes_after_a_replay,
    bookmark_can_be_requested_again,
    changes_go_on_after_a_bookmark,
    watch_resumed_after_a_bookmark_misses_nothing,
    bookmark_for_one_watch_does_not_lose_another_to_a_compaction,
    quiet_watch_gives_no_bookmark_unasked: VirtualTime,
    progress_notify_gives_bookmarks_while_nothing_happens: VirtualTime,
    progress_notify_delivers_changes_too,
}

/// Passes if the watch yields a bookmark at `revision`, and before it at most older ones.
async fn bookmark(watch: &mut Watcher, revision: Revision) -> Checked {
    for _ in 0..10 {
        let batch = next_any(watch).await?;
        ensure_eq!(told(&batch), [""; 0], "the events of a bookmark");
        ensure!(batch.revision <= revision, "a bookmark at {}, not {revision}", batch.revision);
        if batch.revision == revision {
            return Ok(());
        }
    }
    Err(Failure::new(format!("ten bookmarks came, and none at {revision}")))
}

async fn requested_progress_gives_a_bookmark(kv: &Client) -> Checked {
    let [current] = puts(kv, [("a", "1")]).await?;
    let mut watch = watch_all(kv).await?;
    watch.request_progress();
    bookmark(&mut watch, current).await
}

async fn bookmark_covers_changes_outside_the_range(kv: &Client) -> Checked {
    let mut watch = kv.watch(Watch::new("a")).await?;
    let [.., last] = puts(kv, [("b", "1"), ("b", "2")]).await?;
    watch.request_progress();
    bookmark(&mut watch, last).await
}

async fn bookmark_comes_after_the_changes_before_it(kv: &Client) -> Checked {
    let mut watch = watch_all(kv).await?;
    let [one, two] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    watch.request_progress();
    for revision in [one, two] {
        let batch = next_any(&mut watch).await?;
        ensure_eq!((batch.revision, batch.events.len()), (revision, 1));
    }
    bookmark(&mut watch, two).await
}

async fn bookmark_comes_after_a_replay(kv: &Client) -> Checked {
    let [one, two] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    let mut watch = watch_from(kv, one).await?;
    watch.request_progress();
    for revision in [one, two] {
        let batch = next_any(&mut watch).await?;
        ensure_eq!((batch.revision, batch.events.len()), (revision, 1));
    }
    bookmark(&mut watch, two).await
}

async fn bookmark_can_be_requested_again(kv: &Client) -> Checked {
    let mut watch = kv.watch(Watch::new("a")).await?;
    for key in ["b", "c"] {
        let [current] = puts(kv, [(key, "1")]).await?;
        watch.request_progress();
        bookmark(&mut watch, current).await?;
    }
    Ok(())
}

async fn changes_go_on_after_a_bookmark(kv: &Client) -> Checked {
    let [current] = puts(kv, [("a", "0")]).await?;
    let mut watch = watch_all(kv).await?;
    watch.request_progress();
    bookmark(&mut watch, current).await?;
    let [one] = puts(kv, [("a", "1")]).await?;
    expect_batch(&mut watch, one, ["put a=1"]).await
}

async fn watch_resumed_after_a_bookmark_misses_nothing(kv: &Client) -> Checked {
    let mut watch = watch_all(kv).await?;
    let [one] = puts(kv, [("a", "1")]).await?;
    watch.request_progress();
    next_batch(&mut watch).await?;
    bookmark(&mut watch, one).await?;
    drop(watch);
    let [two] = puts(kv, [("a", "2")]).await?;
    let mut watch = watch_from(kv, one.next()).await?;
    expect_batch(&mut watch, two, ["put a=2"]).await
}

/// A watch of the far future keeps an etcd silent, and whoever asks nevertheless must not be helped
/// at the expense of a watch that has caught up.
async fn bookmark_for_one_watch_does_not_lose_another_to_a_compaction(kv: &Client) -> Checked {
    let [current] = puts(kv, [("a", "1")]).await?;
    let mut asks = kv.watch(Watch::new("b")).await?;
    let mut quiet = kv.watch(Watch::new("c").start_at(current.next())).await?;
    let _far = kv.watch(Watch::new("c").start_at(Revision(current.0 + 1000))).await?;
    let [.., last] = puts(kv, [("a", "2"), ("a", "3"), ("a", "4")]).await?;
    compact(kv, last).await?;
    asks.request_progress();
    bookmark(&mut asks, last).await?;
    let [one, two] = puts(kv, [("b", "1"), ("c", "1")]).await?;
    expect_batch(&mut asks, one, ["put b=1"]).await?;
    expect_batch(&mut quiet, two, ["put c=1"]).await
}

async fn quiet_watch_gives_no_bookmark_unasked(kv: &Client) -> Checked {
    let mut watch = watch_all(kv).await?;
    sleep(Duration::from_secs(3600)).await;
    puts(kv, [("marker", "1")]).await?;
    ensure_eq!(told(&next_any(&mut watch).await?), ["put marker=1"]);
    Ok(())
}

async fn progress_notify_gives_bookmarks_while_nothing_happens(kv: &Client) -> Checked {
    let [current] = puts(kv, [("b", "1")]).await?;
    let request = Watch::new("a").with_progress_notify();
    let mut watch = kv.watch(request).await?;
    for _ in 0..2 {
        // Every ten minutes, says etcd, and up to a tenth more.
        let next = timeout(Duration::from_secs(700), watch.next()).await;
        let next = next.map_err(|_| Failure::new("no bookmark in 700 s"))?;
        let bookmark = next.ok_or_else(|| Failure::new("the watch has ended"))??;
        ensure_eq!((bookmark.revision, bookmark.events.len()), (current, 0));
    }
    Ok(())
}

async fn progress_notify_delivers_changes_too(kv: &Client) -> Checked {
    let request = Watch::new(KeyRange::all()).with_progress_notify();
    let mut watch = kv.watch(request).await?;
    let [one] = puts(kv, [("a", "1")]).await?;
    expect_batch(&mut watch, one, ["put a=1"]).await
}
