//! Watch cases: which events are delivered, in which batches and order, and their contents.

use std::task::Poll;
use std::time::Duration;

use coord_core::{
    Client,
    error::ErrorKind,
    kv::{Delete, EventKind, KeyRange, KeyValue, Op, Put, Txn, Watch, WatchFilter},
};
use futures_util::future::{join_all, poll_fn};
use tokio::time::timeout;

use super::helpers::{
    CaseFailure, CheckResult, current_revision, event_texts, expect_batch, expect_refused, get,
    grant_lease, next_batch, next_batch_or_progress, put_on, puts, run_ops, unused_lease_id,
    watch_all,
};
use super::table;

table! { Watch;
    watch_header_carries_the_registration_revision,
    watch_delivers_every_change_after_its_registration,
    watch_without_start_skips_earlier_changes,
    put_event_carries_every_field_of_the_key,
    delete_event_carries_only_the_key_and_its_revision,
    events_distinguish_creations_from_later_puts,
    put_of_the_same_value_is_delivered,
    put_that_keeps_the_value_is_delivered_with_it,
    every_revision_is_a_batch_of_its_own,
    changes_of_a_txn_arrive_in_one_batch,
    events_of_a_batch_are_in_the_order_of_the_ops,
    events_of_nested_txns_are_in_depth_first_order,
    events_of_a_range_delete_are_in_key_order,
    put_and_delete_of_siblings_are_both_delivered,
    txn_that_changes_nothing_delivers_nothing,
    refused_txn_delivers_nothing,
    revoked_lease_delivers_its_deletions_in_one_batch,
    watch_of_one_key_delivers_only_that_key,
    watch_of_an_interval_excludes_its_end,
    watch_of_a_prefix_delivers_only_keys_with_the_prefix,
    unbounded_watch_delivers_from_its_key_on,
    watch_of_all_keys_delivers_every_change,
    watch_of_an_empty_key_watches_the_zero_byte_key,
    unbounded_watch_of_an_empty_key_watches_all_keys,
    batch_omits_changes_outside_the_range,
    no_put_filter_omits_puts,
    no_delete_filter_omits_deletes,
    both_filters_omit_every_event,
    filter_omits_part_of_a_batch,
    previous_key_is_not_delivered_unless_requested,
    previous_key_of_a_put_is_delivered_on_request,
    previous_key_of_a_delete_is_delivered_on_request,
    previous_key_of_a_creation_is_absent,
    previous_key_of_a_recreation_is_absent,
    delete_and_put_in_one_txn_deliver_one_previous_key: UnboundedDeletes,
    two_watches_each_receive_every_change,
    overlapping_watches_receive_only_their_own_keys,
    dropped_watch_leaves_other_watches_alone,
    dropped_next_future_loses_nothing,
    waiting_watch_is_woken_by_a_change,
    unread_watch_misses_nothing,
    concurrent_changes_arrive_in_order_and_complete,
    watch_of_an_inverted_range_is_refused,
    watch_of_an_interval_that_ends_at_its_start_is_refused,
}

async fn watch_header_carries_the_registration_revision(kv: &Client) -> CheckResult {
    let [current] = puts(kv, [("a", "1")]).await?;
    ensure_eq!(watch_all(kv).await?.header().revision, current);
    Ok(())
}

async fn watch_delivers_every_change_after_its_registration(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    let [one, two] = puts(kv, [("a", "1"), ("b", "2")]).await?;
    let three = kv.delete("a").await?.header.revision;
    expect_batch(&mut watch, one, ["put a=1"]).await?;
    expect_batch(&mut watch, two, ["put b=2"]).await?;
    expect_batch(&mut watch, three, ["delete a"]).await
}

async fn watch_without_start_skips_earlier_changes(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("a", "2")]).await?;
    let mut watch = watch_all(kv).await?;
    let [after] = puts(kv, [("a", "3")]).await?;
    expect_batch(&mut watch, after, ["put a=3"]).await
}

async fn put_event_carries_every_field_of_the_key(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    kv.put("a", "1").await?;
    let mut watch = watch_all(kv).await?;
    put_on(kv, id, "a").await?;
    let batch = next_batch(&mut watch).await?;
    ensure_eq!(batch.events[0].kind, EventKind::Put);
    ensure_eq!(batch.events[0].kv, get(kv, "a").await?);
    ensure_eq!(batch.revision, batch.events[0].kv.mod_revision);
    Ok(())
}

async fn delete_event_carries_only_the_key_and_its_revision(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    let mut watch = watch_all(kv).await?;
    let mod_revision = kv.delete("a").await?.header.revision;
    let event = next_batch(&mut watch).await?.events.remove(0);
    ensure_eq!(event.kind, EventKind::Delete);
    ensure_eq!(event.kv, KeyValue { key: "a".into(), mod_revision, ..KeyValue::default() });
    Ok(())
}

async fn events_distinguish_creations_from_later_puts(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    puts(kv, [("a", "1"), ("a", "2")]).await?;
    kv.delete("a").await?;
    puts(kv, [("a", "3")]).await?;
    for creates in [true, false, false, true] {
        let batch = next_batch(&mut watch).await?;
        ensure_eq!(batch.events[0].is_create(), creates, "{:?}", event_texts(&batch));
    }
    Ok(())
}

async fn put_of_the_same_value_is_delivered(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    let mut watch = watch_all(kv).await?;
    let [again] = puts(kv, [("a", "1")]).await?;
    expect_batch(&mut watch, again, ["put a=1"]).await
}

async fn put_that_keeps_the_value_is_delivered_with_it(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    let mut watch = watch_all(kv).await?;
    let again = kv.put_with(Put::new("a", "").ignore_value()).await?.header.revision;
    expect_batch(&mut watch, again, ["put a=1"]).await
}

async fn every_revision_is_a_batch_of_its_own(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    let revisions = puts(kv, [("a", "1"), ("a", "2"), ("b", "1"), ("a", "3")]).await?;
    for revision in revisions {
        let batch = next_batch(&mut watch).await?;
        ensure_eq!((batch.revision, batch.events.len()), (revision, 1));
    }
    Ok(())
}

async fn changes_of_a_txn_arrive_in_one_batch(kv: &Client) -> CheckResult {
    kv.put("c", "1").await?;
    let mut watch = watch_all(kv).await?;
    let ops = [Op::from(Put::new("a", "1")), Put::new("b", "2").into(), Delete::new("c").into()];
    let revision = run_ops(kv, ops).await?.header.revision;
    expect_batch(&mut watch, revision, ["put a=1", "put b=2", "delete c"]).await
}

async fn events_of_a_batch_are_in_the_order_of_the_ops(kv: &Client) -> CheckResult {
    kv.put("b", "1").await?;
    let mut watch = watch_all(kv).await?;
    let ops = [Op::from(Put::new("c", "1")), Delete::new("b").into(), Put::new("a", "1").into()];
    let revision = run_ops(kv, ops).await?.header.revision;
    expect_batch(&mut watch, revision, ["put c=1", "delete b", "put a=1"]).await
}

async fn events_of_nested_txns_are_in_depth_first_order(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    let put = |key| Op::from(Put::new(key, "1"));
    let inner = Txn::new().and_then([put("c")]);
    let nested = Txn::new().and_then([put("d"), inner.into(), put("b")]);
    let revision = run_ops(kv, [put("e"), nested.into(), put("a")]).await?.header.revision;
    let events = ["put e=1", "put d=1", "put c=1", "put b=1", "put a=1"];
    expect_batch(&mut watch, revision, events).await
}

async fn events_of_a_range_delete_are_in_key_order(kv: &Client) -> CheckResult {
    puts(kv, [("c", "1"), ("a", "1"), ("b", "1")]).await?;
    let mut watch = watch_all(kv).await?;
    let revision = kv.delete(KeyRange::between("a", "d")).await?.header.revision;
    expect_batch(&mut watch, revision, ["delete a", "delete b", "delete c"]).await
}

async fn put_and_delete_of_siblings_are_both_delivered(kv: &Client) -> CheckResult {
    let request = Watch::new(KeyRange::all()).with_prev_kv();
    let mut watch = kv.watch(request).await?;
    let created = Txn::new().and_then([Put::new("a", "1")]);
    let deleted = Txn::new().and_then([Delete::new("a")]);
    run_ops(kv, [created.into(), deleted.into()]).await?;
    let batch = next_batch(&mut watch).await?;
    ensure_eq!(event_texts(&batch), ["put a=1", "delete a"]);
    // The key did not exist before the transaction.
    ensure!(batch.events.iter().all(|event| event.prev_kv.is_none()), "{batch:?}");
    Ok(())
}

async fn txn_that_changes_nothing_delivers_nothing(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    kv.txn(Txn::new().and_then([Delete::new("a")])).await?;
    let [marker] = puts(kv, [("marker", "1")]).await?;
    expect_batch(&mut watch, marker, ["put marker=1"]).await
}

async fn refused_txn_delivers_nothing(kv: &Client) -> CheckResult {
    let missing = unused_lease_id(kv).await?;
    let mut watch = watch_all(kv).await?;
    let ops = [Put::new("a", "1"), Put::new("b", "1").lease(missing)];
    expect_refused(kv.txn(Txn::new().and_then(ops)).await, ErrorKind::LeaseNotFound)?;
    let [marker] = puts(kv, [("marker", "1")]).await?;
    expect_batch(&mut watch, marker, ["put marker=1"]).await
}

async fn revoked_lease_delivers_its_deletions_in_one_batch(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    for key in ["b", "c", "a"] {
        put_on(kv, id, key).await?;
    }
    let mut watch = watch_all(kv).await?;
    let revision = kv.lease_revoke(id).await?.header.revision;
    expect_batch(&mut watch, revision, ["delete a", "delete b", "delete c"]).await
}

/// Watches `keys`, puts six keys and then `marker`, and returns the events before the marker.
async fn events_in(kv: &Client, keys: KeyRange, marker: &str) -> CheckResult<Vec<String>> {
    let mut watch = kv.watch(Watch::new(keys)).await?;
    puts(kv, [("\0", ""), ("a", ""), ("a/", ""), ("a/1", ""), ("a0", ""), ("b", "")]).await?;
    kv.put(marker, "marker").await?;
    let mut events = Vec::new();
    // At most six changes and the marker are delivered.
    for _ in 0..7 {
        let batch = next_batch(&mut watch).await?;
        if batch.events[0].kv.value == "marker" {
            return Ok(events);
        }
        events.extend(event_texts(&batch));
    }
    Err(CaseFailure::new(format!("the marker was not delivered, but {events:?}")))
}

async fn watch_of_one_key_delivers_only_that_key(kv: &Client) -> CheckResult {
    ensure_eq!(events_in(kv, KeyRange::key("a"), "a").await?, ["put a="]);
    Ok(())
}

async fn watch_of_an_interval_excludes_its_end(kv: &Client) -> CheckResult {
    let events = events_in(kv, KeyRange::between("a", "a0"), "a/2").await?;
    ensure_eq!(events, ["put a=", "put a/=", "put a/1="]);
    Ok(())
}

async fn watch_of_a_prefix_delivers_only_keys_with_the_prefix(kv: &Client) -> CheckResult {
    let events = events_in(kv, KeyRange::prefix("a/"), "a/2").await?;
    ensure_eq!(events, ["put a/=", "put a/1="]);
    Ok(())
}

async fn unbounded_watch_delivers_from_its_key_on(kv: &Client) -> CheckResult {
    let events = events_in(kv, KeyRange::starting_at("a0"), "z").await?;
    ensure_eq!(events, ["put a0=", "put b="]);
    Ok(())
}

async fn watch_of_all_keys_delivers_every_change(kv: &Client) -> CheckResult {
    ensure_eq!(events_in(kv, KeyRange::all(), "z").await?.len(), 6);
    Ok(())
}

async fn watch_of_an_empty_key_watches_the_zero_byte_key(kv: &Client) -> CheckResult {
    ensure_eq!(events_in(kv, KeyRange::key(""), "\0").await?, ["put \\x00="]);
    Ok(())
}

async fn unbounded_watch_of_an_empty_key_watches_all_keys(kv: &Client) -> CheckResult {
    ensure_eq!(events_in(kv, KeyRange::from_wire("", "\0"), "z").await?.len(), 6);
    Ok(())
}

async fn batch_omits_changes_outside_the_range(kv: &Client) -> CheckResult {
    let mut watch = kv.watch(Watch::prefix("b")).await?;
    let ops = ["a", "b1", "c", "b2"].map(|key| Op::from(Put::new(key, "1")));
    let revision = run_ops(kv, ops).await?.header.revision;
    expect_batch(&mut watch, revision, ["put b1=1", "put b2=1"]).await
}

/// Watches all keys with a filter while two keys are put and deleted, and returns the events of the
/// first two batches.
async fn events_with_filter(kv: &Client, filter: WatchFilter) -> CheckResult<[Vec<String>; 2]> {
    let request = Watch::new(KeyRange::all()).filter(filter);
    let mut watch = kv.watch(request).await?;
    for key in ["a", "b"] {
        kv.put(key, "1").await?;
        kv.delete(key).await?;
    }
    Ok([event_texts(&next_batch(&mut watch).await?), event_texts(&next_batch(&mut watch).await?)])
}

async fn no_put_filter_omits_puts(kv: &Client) -> CheckResult {
    ensure_eq!(events_with_filter(kv, WatchFilter::NoPut).await?, [["delete a"], ["delete b"]]);
    Ok(())
}

async fn no_delete_filter_omits_deletes(kv: &Client) -> CheckResult {
    ensure_eq!(events_with_filter(kv, WatchFilter::NoDelete).await?, [["put a=1"], ["put b=1"]]);
    Ok(())
}

async fn both_filters_omit_every_event(kv: &Client) -> CheckResult {
    let request = Watch::new(KeyRange::all());
    let request = request.filter(WatchFilter::NoPut).filter(WatchFilter::NoDelete);
    let mut watch = kv.watch(request).await?;
    puts(kv, [("a", "1")]).await?;
    let deleted = kv.delete("a").await?.header.revision;
    watch.request_progress();
    let batch = next_batch_or_progress(&mut watch).await?;
    ensure_eq!(event_texts(&batch), [""; 0], "the events before the progress notification");
    ensure!(batch.revision >= deleted, "progress at {}, before the delete", batch.revision);
    Ok(())
}

async fn filter_omits_part_of_a_batch(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    let request = Watch::new(KeyRange::all()).filter(WatchFilter::NoPut);
    let mut watch = kv.watch(request).await?;
    let ops = [Op::from(Put::new("b", "1")), Delete::new("a").into(), Put::new("c", "1").into()];
    let revision = run_ops(kv, ops).await?.header.revision;
    expect_batch(&mut watch, revision, ["delete a"]).await
}

async fn previous_key_is_not_delivered_unless_requested(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    let mut watch = watch_all(kv).await?;
    kv.put("a", "2").await?;
    ensure_eq!(next_batch(&mut watch).await?.events[0].prev_kv, None);
    Ok(())
}

async fn previous_key_of_a_put_is_delivered_on_request(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    let before = get(kv, "a").await?;
    let mut watch = kv.watch(Watch::new("a").with_prev_kv()).await?;
    kv.put("a", "2").await?;
    ensure_eq!(next_batch(&mut watch).await?.events[0].prev_kv, Some(before));
    Ok(())
}

async fn previous_key_of_a_delete_is_delivered_on_request(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("a", "2")]).await?;
    let before = get(kv, "a").await?;
    let mut watch = kv.watch(Watch::new("a").with_prev_kv()).await?;
    kv.delete("a").await?;
    ensure_eq!(next_batch(&mut watch).await?.events[0].prev_kv, Some(before));
    Ok(())
}

async fn previous_key_of_a_creation_is_absent(kv: &Client) -> CheckResult {
    let mut watch = kv.watch(Watch::new("a").with_prev_kv()).await?;
    kv.put("a", "1").await?;
    ensure_eq!(next_batch(&mut watch).await?.events[0].prev_kv, None);
    Ok(())
}

async fn previous_key_of_a_recreation_is_absent(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    kv.delete("a").await?;
    let mut watch = kv.watch(Watch::new("a").with_prev_kv()).await?;
    kv.put("a", "2").await?;
    ensure_eq!(next_batch(&mut watch).await?.events[0].prev_kv, None);
    Ok(())
}

async fn delete_and_put_in_one_txn_deliver_one_previous_key(kv: &Client) -> CheckResult {
    kv.put("b", "1").await?;
    let before = get(kv, "b").await?;
    let mut watch = kv.watch(Watch::new("b").with_prev_kv()).await?;
    let delete = Delete::new(KeyRange::starting_at("b"));
    run_ops(kv, [delete.into(), Put::new("b", "2").into()]).await?;
    let batch = next_batch(&mut watch).await?;
    ensure_eq!(event_texts(&batch), ["delete b", "put b=2"]);
    ensure_eq!(batch.events[0].prev_kv, Some(before), "before the deletion");
    ensure_eq!(batch.events[1].prev_kv, None, "before the put");
    Ok(())
}

async fn two_watches_each_receive_every_change(kv: &Client) -> CheckResult {
    let (mut one, mut two) = (watch_all(kv).await?, watch_all(kv).await?);
    let [a, b] = puts(kv, [("a", "1"), ("b", "2")]).await?;
    for watch in [&mut one, &mut two] {
        expect_batch(watch, a, ["put a=1"]).await?;
        expect_batch(watch, b, ["put b=2"]).await?;
    }
    Ok(())
}

async fn overlapping_watches_receive_only_their_own_keys(kv: &Client) -> CheckResult {
    let mut left = kv.watch(Watch::new(KeyRange::between("a", "c"))).await?;
    let mut right = kv.watch(Watch::new(KeyRange::between("b", "d"))).await?;
    let [a, b, c] = puts(kv, [("a", "1"), ("b", "1"), ("c", "1")]).await?;
    expect_batch(&mut left, a, ["put a=1"]).await?;
    expect_batch(&mut left, b, ["put b=1"]).await?;
    expect_batch(&mut right, b, ["put b=1"]).await?;
    expect_batch(&mut right, c, ["put c=1"]).await
}

async fn dropped_watch_leaves_other_watches_alone(kv: &Client) -> CheckResult {
    let (one, mut two) = (watch_all(kv).await?, watch_all(kv).await?);
    let [a] = puts(kv, [("a", "1")]).await?;
    drop(one);
    let [b] = puts(kv, [("b", "1")]).await?;
    expect_batch(&mut two, a, ["put a=1"]).await?;
    expect_batch(&mut two, b, ["put b=1"]).await
}

async fn dropped_next_future_loses_nothing(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    let early = timeout(Duration::from_millis(10), watch.next()).await;
    ensure!(early.is_err(), "yielded {early:?} before any change");
    let [a, b] = puts(kv, [("a", "1"), ("b", "1")]).await?;
    for _ in 0..3 {
        // The future is polled once and dropped. The batch must still be delivered, exactly once.
        let mut next = Box::pin(watch.next());
        let polled = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
        drop(next);
        if let Poll::Ready(item) = polled {
            let batch = item.ok_or_else(|| CaseFailure::new("the watch ended"))??;
            ensure_eq!((batch.revision, event_texts(&batch)), (a, vec!["put a=1".to_owned()]));
            return expect_batch(&mut watch, b, ["put b=1"]).await;
        }
    }
    expect_batch(&mut watch, a, ["put a=1"]).await?;
    expect_batch(&mut watch, b, ["put b=1"]).await
}

async fn waiting_watch_is_woken_by_a_change(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    let change = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        kv.put("a", "1").await
    };
    let (batch, put) = futures_util::future::join(next_batch(&mut watch), change).await;
    ensure_eq!(batch?.revision, put?.header.revision);
    Ok(())
}

async fn unread_watch_misses_nothing(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    let before = current_revision(kv).await?;
    for _ in 0..30 {
        for put in join_all((0..50).map(|i| kv.put(format!("k{i}"), "1"))).await {
            put?;
        }
    }
    for expected in before.0 + 1..=before.0 + 1500 {
        ensure_eq!(next_batch(&mut watch).await?.revision.0, expected);
    }
    Ok(())
}

async fn concurrent_changes_arrive_in_order_and_complete(kv: &Client) -> CheckResult {
    let mut watch = watch_all(kv).await?;
    let mut expected = Vec::new();
    for (i, put) in join_all((0..20).map(|i| kv.put("a", i.to_string()))).await.iter().enumerate() {
        let put = put.as_ref().map_err(|error| CaseFailure::from(error.clone()))?;
        expected.push((put.header.revision, format!("put a={i}")));
    }
    expected.sort();
    for (revision, event) in &expected {
        expect_batch(&mut watch, *revision, [event]).await?;
    }
    Ok(())
}

async fn watch_of_an_inverted_range_is_refused(kv: &Client) -> CheckResult {
    let request = Watch::new(KeyRange::from_wire("c", "a"));
    expect_refused(kv.watch(request).await, ErrorKind::EmptyWatchRange)?;
    Ok(())
}

async fn watch_of_an_interval_that_ends_at_its_start_is_refused(kv: &Client) -> CheckResult {
    let request = Watch::new(KeyRange::from_wire("a", "a"));
    expect_refused(kv.watch(request).await, ErrorKind::EmptyWatchRange)?;
    Ok(())
}
