//! Watch history cases: watches from a past or future revision, and the effect of compaction on
//! them.

use coord_core::{
    Client, Error,
    error::ErrorKind,
    kv::{Delete, KeyRange, Op, Put, Revision, Watch, WatchFilter},
};
use futures_util::future::join_all;

use super::helpers::{
    CaseFailure, CheckResult, compact, current_revision, event_texts, expect_batch, expect_refused,
    get, next_batch, next_item, puts, run_ops, watch_all, watch_from,
};
use super::table;

table! { History;
    watch_from_a_past_revision_replays_in_order,
    watch_from_the_first_revision_replays_everything: FreshStore,
    watch_from_the_current_revision_replays_that_one,
    watch_from_the_next_revision_delivers_the_next_change,
    watch_from_a_future_revision_skips_earlier_changes,
    replay_continues_with_live_changes_without_gap,
    replay_keeps_the_changes_of_a_txn_together,
    replay_delivers_deletions,
    replay_delivers_historic_keys,
    replay_respects_the_range,
    replay_respects_the_filters,
    replay_delivers_previous_keys_on_request,
    replay_of_more_than_a_thousand_revisions_is_complete,
    two_replays_start_at_their_own_revisions,
    watch_resumed_after_the_last_batch_misses_nothing,
    watch_from_a_compacted_revision_fails_and_ends,
    watch_of_unchanged_keys_from_compacted_revision_fails,
    watch_from_the_compact_revision_replays_kept_changes,
    watch_from_the_compact_revision_skips_earlier_changes,
    watch_from_the_compact_revision_delivers_a_deletion_there: RetainedTombstone,
    watch_from_after_the_compact_revision_is_complete,
    watch_from_now_survives_compaction,
    watch_from_a_future_revision_survives_compaction,
    previous_key_before_the_compact_revision_is_absent,
    previous_key_at_the_compact_revision_is_delivered,
    live_previous_key_survives_compaction,
    watch_from_a_negative_revision_is_refused,
    empty_watch_from_a_negative_start_fails_for_its_start,
}

async fn watch_from_a_past_revision_replays_in_order(kv: &Client) -> CheckResult {
    let [_, b, a, c] = puts(kv, [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1")]).await?;
    let mut watch = watch_from(kv, b).await?;
    expect_batch(&mut watch, b, ["put b=1"]).await?;
    expect_batch(&mut watch, a, ["put a=2"]).await?;
    expect_batch(&mut watch, c, ["put c=1"]).await
}

async fn watch_from_the_first_revision_replays_everything(kv: &Client) -> CheckResult {
    let [a, b] = puts(kv, [("a", "1"), ("b", "1")]).await?;
    let mut watch = watch_from(kv, Revision(1)).await?;
    expect_batch(&mut watch, a, ["put a=1"]).await?;
    expect_batch(&mut watch, b, ["put b=1"]).await
}

async fn watch_from_the_current_revision_replays_that_one(kv: &Client) -> CheckResult {
    let [_, current] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    let mut watch = watch_from(kv, current).await?;
    expect_batch(&mut watch, current, ["put a=2"]).await
}

async fn watch_from_the_next_revision_delivers_the_next_change(kv: &Client) -> CheckResult {
    let [current] = puts(kv, [("a", "1")]).await?;
    let mut watch = watch_from(kv, current.next()).await?;
    let [next] = puts(kv, [("a", "2")]).await?;
    expect_batch(&mut watch, next, ["put a=2"]).await
}

async fn watch_from_a_future_revision_skips_earlier_changes(kv: &Client) -> CheckResult {
    let current = current_revision(kv).await?;
    let mut watch = watch_from(kv, Revision(current.0 + 3)).await?;
    let [.., third] = puts(kv, [("a", "1"), ("a", "2"), ("a", "3")]).await?;
    expect_batch(&mut watch, third, ["put a=3"]).await
}

async fn replay_continues_with_live_changes_without_gap(kv: &Client) -> CheckResult {
    let [one, two] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    let mut watch = watch_from(kv, one).await?;
    let [three] = puts(kv, [("a", "3")]).await?;
    expect_batch(&mut watch, one, ["put a=1"]).await?;
    let [four] = puts(kv, [("a", "4")]).await?;
    expect_batch(&mut watch, two, ["put a=2"]).await?;
    expect_batch(&mut watch, three, ["put a=3"]).await?;
    expect_batch(&mut watch, four, ["put a=4"]).await
}

async fn replay_keeps_the_changes_of_a_txn_together(kv: &Client) -> CheckResult {
    kv.put("c", "1").await?;
    let ops = [Op::from(Put::new("b", "1")), Delete::new("c").into(), Put::new("a", "1").into()];
    let revision = run_ops(kv, ops).await?.header.revision;
    let mut watch = watch_from(kv, revision).await?;
    expect_batch(&mut watch, revision, ["put b=1", "delete c", "put a=1"]).await
}

async fn replay_delivers_deletions(kv: &Client) -> CheckResult {
    let [put] = puts(kv, [("a", "1")]).await?;
    let deleted = kv.delete("a").await?.header.revision;
    let [again] = puts(kv, [("a", "2")]).await?;
    let mut watch = watch_from(kv, put).await?;
    expect_batch(&mut watch, put, ["put a=1"]).await?;
    expect_batch(&mut watch, deleted, ["delete a"]).await?;
    expect_batch(&mut watch, again, ["put a=2"]).await
}

async fn replay_delivers_historic_keys(kv: &Client) -> CheckResult {
    let [first] = puts(kv, [("a", "1")]).await?;
    let then = get(kv, "a").await?;
    puts(kv, [("a", "2")]).await?;
    let mut watch = watch_from(kv, first).await?;
    ensure_eq!(next_batch(&mut watch).await?.events[0].kv, then);
    Ok(())
}

async fn replay_respects_the_range(kv: &Client) -> CheckResult {
    let [start, b, _, bb] = puts(kv, [("a", "1"), ("b", "1"), ("c", "1"), ("bb", "1")]).await?;
    let mut watch = kv.watch(Watch::prefix("b").start_at(start)).await?;
    expect_batch(&mut watch, b, ["put b=1"]).await?;
    expect_batch(&mut watch, bb, ["put bb=1"]).await
}

async fn replay_respects_the_filters(kv: &Client) -> CheckResult {
    let [start] = puts(kv, [("a", "1")]).await?;
    let deleted = kv.delete("a").await?.header.revision;
    let request = Watch::new("a").start_at(start).filter(WatchFilter::NoPut);
    expect_batch(&mut kv.watch(request).await?, deleted, ["delete a"]).await
}

async fn replay_delivers_previous_keys_on_request(kv: &Client) -> CheckResult {
    let [first] = puts(kv, [("a", "1")]).await?;
    let before = get(kv, "a").await?;
    puts(kv, [("a", "2"), ("a", "3")]).await?;
    let mut watch = kv.watch(Watch::new("a").start_at(first).with_prev_kv()).await?;
    ensure_eq!(next_batch(&mut watch).await?.events[0].prev_kv, None);
    ensure_eq!(next_batch(&mut watch).await?.events[0].prev_kv, Some(before));
    Ok(())
}

async fn replay_of_more_than_a_thousand_revisions_is_complete(kv: &Client) -> CheckResult {
    let first = current_revision(kv).await?.next();
    for _ in 0..30 {
        for put in join_all((0..50).map(|i| kv.put(format!("k{i}"), "1"))).await {
            put?;
        }
    }
    let mut watch = watch_from(kv, first).await?;
    for expected in first.0..first.0 + 1500 {
        ensure_eq!(next_batch(&mut watch).await?.revision.0, expected);
    }
    Ok(())
}

async fn two_replays_start_at_their_own_revisions(kv: &Client) -> CheckResult {
    let [one, two, _] = puts(kv, [("a", "1"), ("a", "2"), ("a", "3")]).await?;
    let (mut early, mut late) = (watch_from(kv, one).await?, watch_from(kv, two).await?);
    expect_batch(&mut late, two, ["put a=2"]).await?;
    expect_batch(&mut early, one, ["put a=1"]).await?;
    expect_batch(&mut early, two, ["put a=2"]).await
}

async fn watch_resumed_after_the_last_batch_misses_nothing(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    let [one, two] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    expect_batch(&mut watch, one, ["put a=1"]).await?;
    drop(watch);
    let [three] = puts(kv, [("a", "3")]).await?;
    let mut watch = watch_from(kv, one.next()).await?;
    expect_batch(&mut watch, two, ["put a=2"]).await?;
    expect_batch(&mut watch, three, ["put a=3"]).await
}

/// Passes if the watch yields `Compacted` with the compact revision `revision`, and ends.
async fn expect_compacted(kv: &Client, request: Watch, revision: Revision) -> CheckResult {
    let mut watch = kv.watch(request).await?;
    match next_item(&mut watch).await? {
        Some(Err(Error::Compacted { compact_revision, .. })) => {
            ensure_eq!(compact_revision, Some(revision));
        }
        other => return Err(CaseFailure::new(format!("expected Compacted, got {other:?}"))),
    }
    let end = next_item(&mut watch).await?;
    ensure!(end.is_none(), "after its error the watch yielded {end:?}");
    Ok(())
}

async fn watch_from_a_compacted_revision_fails_and_ends(kv: &Client) -> CheckResult {
    let [one, _, three] = puts(kv, [("a", "1"), ("a", "2"), ("a", "3")]).await?;
    compact(kv, three).await?;
    expect_compacted(kv, Watch::new("a").start_at(one), three).await?;
    expect_compacted(kv, Watch::new(KeyRange::all()).start_at(one), three).await
}

async fn watch_of_unchanged_keys_from_compacted_revision_fails(kv: &Client) -> CheckResult {
    let [one, two] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, two).await?;
    expect_compacted(kv, Watch::new("b").start_at(one), two).await
}

async fn watch_from_the_compact_revision_replays_kept_changes(kv: &Client) -> CheckResult {
    let [_, two, three] = puts(kv, [("a", "1"), ("a", "2"), ("a", "3")]).await?;
    compact(kv, two).await?;
    let mut watch = watch_from(kv, two).await?;
    expect_batch(&mut watch, two, ["put a=2"]).await?;
    expect_batch(&mut watch, three, ["put a=3"]).await
}

async fn watch_from_the_compact_revision_skips_earlier_changes(kv: &Client) -> CheckResult {
    // Compaction keeps the last version of `a`, whose revision is before the compact revision.
    let [_, two] = puts(kv, [("a", "1"), ("b", "1")]).await?;
    compact(kv, two).await?;
    let mut watch = watch_from(kv, two).await?;
    expect_batch(&mut watch, two, ["put b=1"]).await
}

async fn watch_from_the_compact_revision_delivers_a_deletion_there(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    let deleted = kv.delete("a").await?.header.revision;
    let [after] = puts(kv, [("b", "1")]).await?;
    compact(kv, deleted).await?;
    let mut watch = watch_from(kv, deleted).await?;
    expect_batch(&mut watch, deleted, ["delete a"]).await?;
    expect_batch(&mut watch, after, ["put b=1"]).await
}

async fn watch_from_after_the_compact_revision_is_complete(kv: &Client) -> CheckResult {
    let [one] = puts(kv, [("a", "1")]).await?;
    let deleted = kv.delete("a").await?.header.revision;
    let [last] = puts(kv, [("a", "2")]).await?;
    compact(kv, one).await?;
    let mut watch = watch_from(kv, one.next()).await?;
    expect_batch(&mut watch, deleted, ["delete a"]).await?;
    expect_batch(&mut watch, last, ["put a=2"]).await
}

async fn watch_from_now_survives_compaction(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    let [one, two] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    expect_batch(&mut watch, one, ["put a=1"]).await?;
    expect_batch(&mut watch, two, ["put a=2"]).await?;
    compact(kv, two).await?;
    let [three] = puts(kv, [("a", "3")]).await?;
    expect_batch(&mut watch, three, ["put a=3"]).await
}

async fn watch_from_a_future_revision_survives_compaction(kv: &Client) -> CheckResult {
    let start = Revision(current_revision(kv).await?.0 + 3);
    let mut watch = watch_from(kv, start).await?;
    let [_, two] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, two).await?;
    let [three] = puts(kv, [("a", "3")]).await?;
    expect_batch(&mut watch, three, ["put a=3"]).await
}

async fn previous_key_before_the_compact_revision_is_absent(kv: &Client) -> CheckResult {
    let [_, two] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, two).await?;
    let mut watch = kv.watch(Watch::new("a").start_at(two).with_prev_kv()).await?;
    let batch = next_batch(&mut watch).await?;
    ensure_eq!(event_texts(&batch), ["put a=2"]);
    ensure_eq!(batch.events[0].prev_kv, None);
    Ok(())
}

async fn previous_key_at_the_compact_revision_is_delivered(kv: &Client) -> CheckResult {
    let [_, two] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    let before = get(kv, "a").await?;
    kv.delete("a").await?;
    compact(kv, two).await?;
    let request = Watch::new("a").start_at(two.next()).with_prev_kv();
    let batch = next_batch(&mut kv.watch(request).await?).await?;
    ensure_eq!(event_texts(&batch), ["delete a"]);
    ensure_eq!(batch.events[0].prev_kv, Some(before));
    Ok(())
}

async fn live_previous_key_survives_compaction(kv: &Client) -> CheckResult {
    let mut watch = kv.watch(Watch::new("a").with_prev_kv()).await?;
    let [one] = puts(kv, [("a", "1")]).await?;
    next_batch(&mut watch).await?;
    compact(kv, one).await?;
    let before = get(kv, "a").await?;
    kv.put("a", "2").await?;
    ensure_eq!(next_batch(&mut watch).await?.events[0].prev_kv, Some(before));
    Ok(())
}

async fn watch_from_a_negative_revision_is_refused(kv: &Client) -> CheckResult {
    let request = Watch::new("a").start_at(Revision(-1));
    expect_refused(kv.watch(request).await, ErrorKind::Compacted)?;
    Ok(())
}

async fn empty_watch_from_a_negative_start_fails_for_its_start(kv: &Client) -> CheckResult {
    for end in ["a", "b"] {
        let keys = KeyRange::from_wire("b", end);
        let request = Watch::new(keys).start_at(Revision(-1));
        expect_refused(kv.watch(request).await, ErrorKind::Compacted)?;
    }
    Ok(())
}
