//! Progress notification cases. A progress notification is a batch without events: every event up
//! to its revision has been delivered.

use std::time::Duration;

use coord_core::{
    Client,
    kv::{KeyRange, Revision, Watch, Watcher},
};
use tokio::time::{sleep, timeout};

use super::helpers::{
    CaseFailure, CheckResult, compact, event_texts, expect_batch, next_batch,
    next_batch_or_progress, puts, watch_all, watch_from,
};
use super::table;

table! { Progress;
    requested_progress_is_notified,
    progress_covers_changes_outside_the_range,
    progress_arrives_after_the_changes_it_covers,
    progress_arrives_after_a_replay,
    progress_can_be_requested_again,
    changes_are_delivered_after_progress,
    watch_resumed_after_progress_misses_nothing,
    progress_request_does_not_end_other_watches_as_compacted,
    idle_watch_yields_no_progress_unless_requested: VirtualTime,
    progress_notify_reports_progress_of_an_idle_watch: VirtualTime,
    progress_notify_delivers_changes_too,
}

/// Passes if the watch yields a progress notification at `revision`. At most nine notifications at
/// earlier revisions may come before it.
async fn expect_progress(watch: &mut Watcher, revision: Revision) -> CheckResult {
    for _ in 0..10 {
        let batch = next_batch_or_progress(watch).await?;
        ensure_eq!(event_texts(&batch), [""; 0], "the events of a progress notification");
        ensure!(batch.revision <= revision, "progress at {}, expected {revision}", batch.revision);
        if batch.revision == revision {
            return Ok(());
        }
    }
    Err(CaseFailure::new(format!("ten progress notifications, none at {revision}")))
}

async fn requested_progress_is_notified(kv: &Client) -> CheckResult {
    let [current] = puts(kv, [("a", "1")]).await?;
    let mut watch = watch_all(kv).await?;
    watch.request_progress();
    expect_progress(&mut watch, current).await
}

async fn progress_covers_changes_outside_the_range(kv: &Client) -> CheckResult {
    let mut watch = kv.watch(Watch::new("a")).await?;
    let [.., last] = puts(kv, [("b", "1"), ("b", "2")]).await?;
    watch.request_progress();
    expect_progress(&mut watch, last).await
}

async fn progress_arrives_after_the_changes_it_covers(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    let [one, two] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    watch.request_progress();
    for revision in [one, two] {
        let batch = next_batch_or_progress(&mut watch).await?;
        ensure_eq!((batch.revision, batch.events.len()), (revision, 1));
    }
    expect_progress(&mut watch, two).await
}

async fn progress_arrives_after_a_replay(kv: &Client) -> CheckResult {
    let [one, two] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    let mut watch = watch_from(kv, one).await?;
    watch.request_progress();
    for revision in [one, two] {
        let batch = next_batch_or_progress(&mut watch).await?;
        ensure_eq!((batch.revision, batch.events.len()), (revision, 1));
    }
    expect_progress(&mut watch, two).await
}

async fn progress_can_be_requested_again(kv: &Client) -> CheckResult {
    let mut watch = kv.watch(Watch::new("a")).await?;
    for key in ["b", "c"] {
        let [current] = puts(kv, [(key, "1")]).await?;
        watch.request_progress();
        expect_progress(&mut watch, current).await?;
    }
    Ok(())
}

async fn changes_are_delivered_after_progress(kv: &Client) -> CheckResult {
    let [current] = puts(kv, [("a", "0")]).await?;
    let mut watch = watch_all(kv).await?;
    watch.request_progress();
    expect_progress(&mut watch, current).await?;
    let [one] = puts(kv, [("a", "1")]).await?;
    expect_batch(&mut watch, one, ["put a=1"]).await
}

async fn watch_resumed_after_progress_misses_nothing(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    let [one] = puts(kv, [("a", "1")]).await?;
    watch.request_progress();
    next_batch(&mut watch).await?;
    expect_progress(&mut watch, one).await?;
    drop(watch);
    let [two] = puts(kv, [("a", "2")]).await?;
    let mut watch = watch_from(kv, one.next()).await?;
    expect_batch(&mut watch, two, ["put a=2"]).await
}

/// A watch from a far future revision prevents etcd from sending progress notifications. A backend
/// that works around this for one watch must not end another watch, which has missed nothing, as
/// compacted.
async fn progress_request_does_not_end_other_watches_as_compacted(kv: &Client) -> CheckResult {
    let [current] = puts(kv, [("a", "1")]).await?;
    let mut requesting = kv.watch(Watch::new("b")).await?;
    let mut idle = kv.watch(Watch::new("c").start_at(current.next())).await?;
    let _far = kv.watch(Watch::new("c").start_at(Revision(current.0 + 1000))).await?;
    let [.., last] = puts(kv, [("a", "2"), ("a", "3"), ("a", "4")]).await?;
    compact(kv, last).await?;
    requesting.request_progress();
    expect_progress(&mut requesting, last).await?;
    let [one, two] = puts(kv, [("b", "1"), ("c", "1")]).await?;
    expect_batch(&mut requesting, one, ["put b=1"]).await?;
    expect_batch(&mut idle, two, ["put c=1"]).await
}

async fn idle_watch_yields_no_progress_unless_requested(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    sleep(Duration::from_secs(3600)).await;
    puts(kv, [("marker", "1")]).await?;
    ensure_eq!(event_texts(&next_batch_or_progress(&mut watch).await?), ["put marker=1"]);
    Ok(())
}

async fn progress_notify_reports_progress_of_an_idle_watch(kv: &Client) -> CheckResult {
    let [current] = puts(kv, [("b", "1")]).await?;
    let request = Watch::new("a").with_progress_notify();
    let mut watch = kv.watch(request).await?;
    for _ in 0..2 {
        // etcd sends progress every ten minutes, and up to 10 % later.
        let next = timeout(Duration::from_secs(700), watch.next()).await;
        let next = next.map_err(|_| CaseFailure::new("no progress notification within 700 s"))?;
        let progress = next.ok_or_else(|| CaseFailure::new("the watch ended"))??;
        ensure_eq!((progress.revision, progress.events.len()), (current, 0));
    }
    Ok(())
}

async fn progress_notify_delivers_changes_too(kv: &Client) -> CheckResult {
    let request = Watch::new(KeyRange::all()).with_progress_notify();
    let mut watch = kv.watch(request).await?;
    let [one] = puts(kv, [("a", "1")]).await?;
    expect_batch(&mut watch, one, ["put a=1"]).await
}
