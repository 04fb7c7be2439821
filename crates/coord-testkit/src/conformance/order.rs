//! Sort order cases: the sort order, the filters and the limit of a range.
//!
//! A store evaluates a range in this order: fetch, count, filter, sort, limit, and then clear the
//! values if only keys are requested.

use coord_core::{
    Client,
    kv::{KeyRange, Range, RangeResponse, Revision, SortOrder, SortTarget},
};

use super::helpers::{CheckResult, key_names, keys_of, puts};
use super::table;

table! { Order;
    unsorted_range_comes_in_key_order,
    sort_by_key_descending_reverses,
    sort_by_version,
    sort_by_create_revision,
    sort_by_mod_revision,
    sort_by_value_is_bytewise,
    sort_by_value_works_on_keys_only,
    descending_sort_reverses_every_target,
    few_ties_stay_in_key_order_in_both_directions,
    sort_is_applied_before_the_limit,
    descending_limit_keeps_the_last_keys,
    order_none_sorts_other_targets_ascending,
    order_none_limits_by_key_before_it_sorts,
    order_none_with_a_filter_sorts_before_it_limits,
    min_mod_revision_is_inclusive,
    max_mod_revision_is_inclusive,
    min_create_revision_is_inclusive,
    max_create_revision_is_inclusive,
    all_filters_must_pass,
    negative_max_filter_excludes_every_key,
    negative_min_filter_excludes_no_key,
    limit_counts_keys_that_passed_the_filters,
    more_counts_only_keys_that_passed_the_filters,
    filters_of_a_historic_read_apply_to_historic_keys,
}

use SortOrder::{Ascending, Descending};

/// Puts four keys that each sort target orders differently, and returns the first revision:
///
/// ```text
///      create  mod  version  value
/// a         4    6        2      c
/// b         3    8        3      d
/// c         2    2        1      b
/// d         1    9        2      a        (revisions relative to the first put)
/// ```
async fn put_differently_ordered_keys(kv: &Client) -> CheckResult<Revision> {
    let [first, ..] = puts(
        kv,
        [
            ("d", "x"),
            ("c", "b"),
            ("b", "x"),
            ("a", "x"),
            ("z", "x"),
            ("a", "c"),
            ("b", "x"),
            ("b", "d"),
            ("d", "a"),
        ],
    )
    .await?;
    kv.delete("z").await?;
    Ok(first)
}

/// A request for all keys.
fn all() -> Range {
    Range::new(KeyRange::all())
}

async fn read(kv: &Client, range: Range) -> CheckResult<RangeResponse> {
    Ok(kv.range(range).await?)
}

async fn unsorted_range_comes_in_key_order(kv: &Client) -> CheckResult {
    put_differently_ordered_keys(kv).await?;
    ensure_eq!(keys_of(kv, all()).await?, ["a", "b", "c", "d"]);
    Ok(())
}

async fn sort_by_key_descending_reverses(kv: &Client) -> CheckResult {
    put_differently_ordered_keys(kv).await?;
    let sorted = keys_of(kv, all().sorted(SortTarget::Key, Descending)).await?;
    ensure_eq!(sorted, ["d", "c", "b", "a"]);
    Ok(())
}

async fn sort_by_version(kv: &Client) -> CheckResult {
    put_differently_ordered_keys(kv).await?;
    let sorted = keys_of(kv, all().sorted(SortTarget::Version, Ascending)).await?;
    ensure_eq!(sorted, ["c", "a", "d", "b"]);
    Ok(())
}

async fn sort_by_create_revision(kv: &Client) -> CheckResult {
    put_differently_ordered_keys(kv).await?;
    let sorted = keys_of(kv, all().sorted(SortTarget::CreateRevision, Ascending)).await?;
    ensure_eq!(sorted, ["d", "c", "b", "a"]);
    Ok(())
}

async fn sort_by_mod_revision(kv: &Client) -> CheckResult {
    put_differently_ordered_keys(kv).await?;
    let sorted = keys_of(kv, all().sorted(SortTarget::ModRevision, Ascending)).await?;
    ensure_eq!(sorted, ["c", "a", "b", "d"]);
    Ok(())
}

async fn sort_by_value_is_bytewise(kv: &Client) -> CheckResult {
    puts(kv, [("a", "b"), ("b", ""), ("c", "B"), ("d", "a"), ("e", "aa")]).await?;
    kv.put("f", b"\xff").await?;
    let sorted = keys_of(kv, all().sorted(SortTarget::Value, Ascending)).await?;
    ensure_eq!(sorted, ["b", "c", "d", "e", "a", "f"]);
    Ok(())
}

async fn sort_by_value_works_on_keys_only(kv: &Client) -> CheckResult {
    put_differently_ordered_keys(kv).await?;
    let range = all().sorted(SortTarget::Value, Ascending).keys_only();
    let response = read(kv, range).await?;
    ensure_eq!(key_names(&response.kvs), ["d", "c", "a", "b"]);
    ensure!(response.kvs.iter().all(|kv| kv.value.is_empty()), "values: {:?}", response.kvs);
    Ok(())
}

async fn descending_sort_reverses_every_target(kv: &Client) -> CheckResult {
    put_differently_ordered_keys(kv).await?;
    for (target, sorted) in [
        (SortTarget::CreateRevision, ["a", "b", "c", "d"]),
        (SortTarget::ModRevision, ["d", "b", "a", "c"]),
        (SortTarget::Value, ["b", "a", "c", "d"]),
    ] {
        ensure_eq!(keys_of(kv, all().sorted(target, Descending)).await?, sorted, "{target:?}");
    }
    Ok(())
}

/// Up to twelve keys: beyond that number etcd does not define the order of ties.
async fn few_ties_stay_in_key_order_in_both_directions(kv: &Client) -> CheckResult {
    puts(kv, [("c", "x"), ("a", "x"), ("b", "w"), ("d", "x")]).await?;
    let up = keys_of(kv, all().sorted(SortTarget::Value, Ascending)).await?;
    ensure_eq!(up, ["b", "a", "c", "d"]);
    let down = keys_of(kv, all().sorted(SortTarget::Value, Descending)).await?;
    ensure_eq!(down, ["a", "c", "d", "b"]);
    Ok(())
}

async fn sort_is_applied_before_the_limit(kv: &Client) -> CheckResult {
    put_differently_ordered_keys(kv).await?;
    let response = read(kv, all().sorted(SortTarget::ModRevision, Ascending).limit(1)).await?;
    ensure_eq!(key_names(&response.kvs), ["c"]);
    ensure!(response.more, "three keys are beyond the limit, but `more` is false");
    Ok(())
}

async fn descending_limit_keeps_the_last_keys(kv: &Client) -> CheckResult {
    put_differently_ordered_keys(kv).await?;
    let last = keys_of(kv, all().sorted(SortTarget::Key, Descending).limit(2)).await?;
    ensure_eq!(last, ["d", "c"]);
    Ok(())
}

async fn order_none_sorts_other_targets_ascending(kv: &Client) -> CheckResult {
    put_differently_ordered_keys(kv).await?;
    let sorted = keys_of(kv, all().sorted(SortTarget::ModRevision, SortOrder::None)).await?;
    ensure_eq!(sorted, ["c", "a", "b", "d"]);
    Ok(())
}

async fn order_none_limits_by_key_before_it_sorts(kv: &Client) -> CheckResult {
    put_differently_ordered_keys(kv).await?;
    // The store fetches one key more than the limit, a, b and c; sorts: c, a, b; limits: c, a.
    let range = all().sorted(SortTarget::ModRevision, SortOrder::None).limit(2);
    let response = read(kv, range).await?;
    ensure_eq!(key_names(&response.kvs), ["c", "a"]);
    ensure!(response.more, "two keys are beyond the limit, but `more` is false");
    let range = all().sorted(SortTarget::ModRevision, SortOrder::None).limit(1);
    ensure_eq!(keys_of(kv, range).await?, ["a"], "the limit is applied before the sort");
    Ok(())
}

async fn order_none_with_a_filter_sorts_before_it_limits(kv: &Client) -> CheckResult {
    let first = put_differently_ordered_keys(kv).await?;
    let range = all().sorted(SortTarget::ModRevision, SortOrder::None).limit(1);
    ensure_eq!(keys_of(kv, range.min_create_revision(first)).await?, ["c"]);
    Ok(())
}

async fn min_mod_revision_is_inclusive(kv: &Client) -> CheckResult {
    let [_, b, _] = puts(kv, [("a", "1"), ("b", "1"), ("c", "1")]).await?;
    ensure_eq!(keys_of(kv, all().min_mod_revision(b)).await?, ["b", "c"]);
    Ok(())
}

async fn max_mod_revision_is_inclusive(kv: &Client) -> CheckResult {
    let [_, b, _] = puts(kv, [("a", "1"), ("b", "1"), ("c", "1")]).await?;
    ensure_eq!(keys_of(kv, all().max_mod_revision(b)).await?, ["a", "b"]);
    Ok(())
}

async fn min_create_revision_is_inclusive(kv: &Client) -> CheckResult {
    let [_, b, ..] = puts(kv, [("a", "1"), ("b", "1"), ("c", "1"), ("a", "2")]).await?;
    ensure_eq!(keys_of(kv, all().min_create_revision(b)).await?, ["b", "c"]);
    Ok(())
}

async fn max_create_revision_is_inclusive(kv: &Client) -> CheckResult {
    let [_, b, ..] = puts(kv, [("a", "1"), ("b", "1"), ("c", "1"), ("a", "2")]).await?;
    ensure_eq!(keys_of(kv, all().max_create_revision(b)).await?, ["a", "b"]);
    Ok(())
}

async fn all_filters_must_pass(kv: &Client) -> CheckResult {
    let [a, b, _, a_again, b_again] =
        puts(kv, [("a", "1"), ("b", "1"), ("c", "1"), ("a", "2"), ("b", "2")]).await?;
    let range = all().min_create_revision(a).max_create_revision(b);
    let range = range.min_mod_revision(a_again).max_mod_revision(b_again.previous());
    ensure_eq!(keys_of(kv, range).await?, ["a"]);
    Ok(())
}

async fn negative_max_filter_excludes_every_key(kv: &Client) -> CheckResult {
    put_differently_ordered_keys(kv).await?;
    for range in [all().max_mod_revision(Revision(-1)), all().max_create_revision(Revision(-1))] {
        let response = read(kv, range).await?;
        ensure_eq!((response.kvs.len(), response.count), (0, 4));
    }
    Ok(())
}

async fn negative_min_filter_excludes_no_key(kv: &Client) -> CheckResult {
    put_differently_ordered_keys(kv).await?;
    let range = all().min_mod_revision(Revision(-1)).min_create_revision(Revision(-1));
    ensure_eq!(keys_of(kv, range).await?, ["a", "b", "c", "d"]);
    Ok(())
}

async fn limit_counts_keys_that_passed_the_filters(kv: &Client) -> CheckResult {
    let [_, _, c, _] = puts(kv, [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]).await?;
    ensure_eq!(keys_of(kv, all().min_mod_revision(c).limit(1)).await?, ["c"]);
    Ok(())
}

async fn more_counts_only_keys_that_passed_the_filters(kv: &Client) -> CheckResult {
    let [_, _, c, _] = puts(kv, [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]).await?;
    let response = read(kv, all().min_mod_revision(c).limit(2)).await?;
    ensure_eq!((response.kvs.len(), response.count, response.more), (2, 4, false));
    Ok(())
}

async fn filters_of_a_historic_read_apply_to_historic_keys(kv: &Client) -> CheckResult {
    let [a, b, _] = puts(kv, [("a", "1"), ("b", "1"), ("a", "2")]).await?;
    ensure_eq!(keys_of(kv, all().at(b).max_mod_revision(a)).await?, ["a"]);
    ensure_eq!(keys_of(kv, all().max_mod_revision(a)).await?, [""; 0]);
    Ok(())
}
