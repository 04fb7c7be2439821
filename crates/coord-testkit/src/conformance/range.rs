//! Range cases: the keys of a range at the current and at historic revisions, counts, and limits.

use coord_core::{
    Client,
    error::ErrorKind,
    kv::{KeyRange, Put, Range, Revision},
};

use super::helpers::{
    CheckResult, all_keys, compact, current_revision, expect_refused, get, get_at, grant_lease,
    key_names, keys_of, puts,
};
use super::table;

table! { Range;
    range_of_an_empty_key_is_refused,
    range_of_an_absent_key_is_empty,
    range_of_one_key_excludes_keys_with_that_prefix,
    interval_includes_its_start_and_excludes_its_end,
    inverted_interval_is_empty,
    interval_that_ends_at_its_start_is_empty,
    unbounded_range_reads_from_its_key_on,
    unbounded_range_from_the_zero_byte_reads_every_key,
    prefix_range_reads_only_keys_with_the_prefix,
    prefix_that_ends_in_ff_reads_only_keys_with_it,
    prefix_of_ff_alone_reads_to_the_last_key,
    keys_are_in_bytewise_order,
    keys_and_values_may_contain_any_bytes,
    empty_value_is_a_value,
    historic_read_shows_the_value_at_its_revision,
    historic_read_shows_keys_deleted_since,
    historic_read_shows_a_key_before_its_recreation,
    historic_read_omits_keys_created_since,
    historic_read_is_repeatable,
    historic_range_read_shows_historic_keys_in_order,
    read_at_the_revision_of_a_delete_omits_the_key,
    read_at_the_current_revision_shows_current_keys,
    read_at_a_negative_revision_shows_current_keys,
    read_at_a_future_revision_is_refused,
    read_below_the_compact_revision_is_refused,
    read_at_the_compact_revision_is_accepted,
    limit_truncates_and_sets_more,
    limit_equal_to_the_count_does_not_set_more,
    zero_limit_is_no_limit,
    count_ignores_the_limit,
    count_of_a_historic_read_counts_historic_keys,
    count_ignores_the_revision_filters,
    count_only_returns_no_keys_and_never_sets_more,
    count_only_ignores_limit_and_filters,
    keys_only_omits_values_and_keeps_other_fields,
    serializable_read_on_a_single_member_is_current,
}

/// Puts `a`, `b`, `c` and `d`, and returns the revision of each put.
async fn put_four_keys(kv: &Client) -> CheckResult<[Revision; 4]> {
    puts(kv, [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]).await
}

async fn range_of_an_empty_key_is_refused(kv: &Client) -> CheckResult {
    expect_refused(kv.range(Range::new("")).await, ErrorKind::EmptyKey)?;
    expect_refused(kv.range(Range::new(KeyRange::from_wire("", "z"))).await, ErrorKind::EmptyKey)?;
    Ok(())
}

async fn range_of_an_absent_key_is_empty(kv: &Client) -> CheckResult {
    let response = kv.range(Range::new("a")).await?;
    ensure_eq!((response.kvs.len(), response.count, response.more), (0, 0, false));
    Ok(())
}

async fn range_of_one_key_excludes_keys_with_that_prefix(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("a\0", "2"), ("aa", "3")]).await?;
    let response = kv.range(Range::new("a")).await?;
    ensure_eq!(response.kvs.len(), 1);
    ensure_eq!(response.kvs[0].value, "1");
    ensure_eq!(response.count, 1);
    Ok(())
}

async fn interval_includes_its_start_and_excludes_its_end(kv: &Client) -> CheckResult {
    put_four_keys(kv).await?;
    ensure_eq!(keys_of(kv, Range::new(KeyRange::between("b", "d"))).await?, ["b", "c"]);
    Ok(())
}

async fn inverted_interval_is_empty(kv: &Client) -> CheckResult {
    put_four_keys(kv).await?;
    let response = kv.range(Range::new(KeyRange::from_wire("d", "a"))).await?;
    ensure_eq!((response.kvs.len(), response.count), (0, 0));
    Ok(())
}

async fn interval_that_ends_at_its_start_is_empty(kv: &Client) -> CheckResult {
    put_four_keys(kv).await?;
    let response = kv.range(Range::new(KeyRange::from_wire("b", "b"))).await?;
    ensure_eq!((response.kvs.len(), response.count), (0, 0));
    Ok(())
}

async fn unbounded_range_reads_from_its_key_on(kv: &Client) -> CheckResult {
    put_four_keys(kv).await?;
    ensure_eq!(keys_of(kv, Range::new(KeyRange::starting_at("c"))).await?, ["c", "d"]);
    Ok(())
}

async fn unbounded_range_from_the_zero_byte_reads_every_key(kv: &Client) -> CheckResult {
    puts(kv, [("\0", "1"), ("a", "1"), ("\u{7f}", "1")]).await?;
    kv.put(b"\xff\xff", "1").await?;
    let keys = all_keys(kv).await?;
    ensure_eq!(keys, [&b"\0"[..], b"a", b"\x7f", b"\xff\xff"]);
    Ok(())
}

async fn prefix_range_reads_only_keys_with_the_prefix(kv: &Client) -> CheckResult {
    puts(kv, [("ab", "1"), ("ab/", "1"), ("ab/x", "1"), ("ab0", "1"), ("ac", "1")]).await?;
    ensure_eq!(keys_of(kv, Range::prefix("ab/")).await?, ["ab/", "ab/x"]);
    ensure_eq!(keys_of(kv, Range::prefix("ab")).await?, ["ab", "ab/", "ab/x", "ab0"]);
    Ok(())
}

async fn prefix_that_ends_in_ff_reads_only_keys_with_it(kv: &Client) -> CheckResult {
    for key in [&b"a\xfe"[..], b"a\xff", b"a\xff\xff", b"b"] {
        kv.put(key, "1").await?;
    }
    ensure_eq!(keys_of(kv, Range::prefix(b"a\xff")).await?, [&b"a\xff"[..], b"a\xff\xff"]);
    Ok(())
}

async fn prefix_of_ff_alone_reads_to_the_last_key(kv: &Client) -> CheckResult {
    for key in [&b"\xfe"[..], b"\xff", b"\xff\xff\x01"] {
        kv.put(key, "1").await?;
    }
    ensure_eq!(keys_of(kv, Range::prefix(b"\xff")).await?, [&b"\xff"[..], b"\xff\xff\x01"]);
    Ok(())
}

async fn keys_are_in_bytewise_order(kv: &Client) -> CheckResult {
    for key in [&b"b"[..], b"\xc3\xa4", b"B", b"ab", b"a", b"a\0", b"10", b"9"] {
        kv.put(key, "1").await?;
    }
    let sorted = [&b"10"[..], b"9", b"B", b"a", b"a\0", b"ab", b"b", b"\xc3\xa4"];
    ensure_eq!(all_keys(kv).await?, sorted);
    Ok(())
}

async fn keys_and_values_may_contain_any_bytes(kv: &Client) -> CheckResult {
    let bytes: Vec<u8> = (0..=255).collect();
    kv.put(&bytes[..], &bytes[..]).await?;
    let found = kv.get(&bytes[..]).await?;
    ensure_eq!(found.map(|kv| (kv.key, kv.value)), Some((bytes.clone().into(), bytes.into())));
    Ok(())
}

async fn empty_value_is_a_value(kv: &Client) -> CheckResult {
    kv.put("a", "").await?;
    let a = get(kv, "a").await?;
    ensure_eq!((a.value.len(), a.version), (0, 1));
    Ok(())
}

async fn historic_read_shows_the_value_at_its_revision(kv: &Client) -> CheckResult {
    let [first, _] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    let historic = get_at(kv, "a", first).await?;
    ensure_eq!(historic.value, "1");
    ensure_eq!((historic.mod_revision, historic.version), (first, 1));
    Ok(())
}

async fn historic_read_shows_keys_deleted_since(kv: &Client) -> CheckResult {
    let [put] = puts(kv, [("a", "1")]).await?;
    kv.delete("a").await?;
    ensure_eq!(get_at(kv, "a", put).await?.value, "1");
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn historic_read_shows_a_key_before_its_recreation(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("a", "2")]).await?;
    let (before, revision) = (get(kv, "a").await?, current_revision(kv).await?);
    kv.delete("a").await?;
    puts(kv, [("a", "3")]).await?;
    ensure_eq!(get_at(kv, "a", revision).await?, before);
    Ok(())
}

async fn historic_read_omits_keys_created_since(kv: &Client) -> CheckResult {
    let [a, _] = puts(kv, [("a", "1"), ("b", "1")]).await?;
    ensure_eq!(keys_of(kv, Range::new(KeyRange::all()).at(a)).await?, ["a"]);
    Ok(())
}

async fn historic_read_is_repeatable(kv: &Client) -> CheckResult {
    let [.., revision] = put_four_keys(kv).await?;
    let read = || kv.range(Range::new(KeyRange::all()).at(revision));
    let before = read().await?.kvs;
    puts(kv, [("a", "9"), ("e", "9")]).await?;
    kv.delete("b").await?;
    ensure_eq!(read().await?.kvs, before);
    Ok(())
}

async fn historic_range_read_shows_historic_keys_in_order(kv: &Client) -> CheckResult {
    let [.., revision] = put_four_keys(kv).await?;
    kv.delete("b").await?;
    puts(kv, [("ba", "1"), ("c", "5")]).await?;
    kv.delete("d").await?;
    let historic = keys_of(kv, Range::new(KeyRange::all()).at(revision)).await?;
    ensure_eq!(historic, ["a", "b", "c", "d"]);
    Ok(())
}

async fn read_at_the_revision_of_a_delete_omits_the_key(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    let deleted = kv.delete("a").await?.header.revision;
    kv.put("a", "2").await?;
    ensure_eq!(kv.range(Range::new("a").at(deleted)).await?.count, 0);
    Ok(())
}

async fn read_at_the_current_revision_shows_current_keys(kv: &Client) -> CheckResult {
    let [revision] = puts(kv, [("a", "1")]).await?;
    ensure_eq!(get_at(kv, "a", revision).await?, get(kv, "a").await?);
    Ok(())
}

async fn read_at_a_negative_revision_shows_current_keys(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("a", "2")]).await?;
    ensure_eq!(get_at(kv, "a", Revision(-1)).await?.value, "2");
    ensure_eq!(get_at(kv, "a", Revision(-7)).await?.value, "2");
    Ok(())
}

async fn read_at_a_future_revision_is_refused(kv: &Client) -> CheckResult {
    let next = current_revision(kv).await?.next();
    expect_refused(kv.range(Range::new("a").at(next)).await, ErrorKind::FutureRevision)?;
    Ok(())
}

async fn read_below_the_compact_revision_is_refused(kv: &Client) -> CheckResult {
    let [first, second] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, second).await?;
    expect_refused(kv.range(Range::new("a").at(first)).await, ErrorKind::Compacted)?;
    Ok(())
}

async fn read_at_the_compact_revision_is_accepted(kv: &Client) -> CheckResult {
    let [_, second, _] = puts(kv, [("a", "1"), ("a", "2"), ("a", "3")]).await?;
    compact(kv, second).await?;
    ensure_eq!(get_at(kv, "a", second).await?.value, "2");
    Ok(())
}

async fn limit_truncates_and_sets_more(kv: &Client) -> CheckResult {
    put_four_keys(kv).await?;
    let response = kv.range(Range::new(KeyRange::all()).limit(2)).await?;
    ensure_eq!(key_names(&response.kvs), ["a", "b"]);
    ensure!(response.more, "two of four keys are beyond the limit, but `more` is false");
    Ok(())
}

async fn limit_equal_to_the_count_does_not_set_more(kv: &Client) -> CheckResult {
    put_four_keys(kv).await?;
    let response = kv.range(Range::new(KeyRange::all()).limit(4)).await?;
    ensure_eq!((response.kvs.len(), response.more), (4, false));
    Ok(())
}

async fn zero_limit_is_no_limit(kv: &Client) -> CheckResult {
    put_four_keys(kv).await?;
    let response = kv.range(Range::new(KeyRange::all()).limit(0)).await?;
    ensure_eq!((response.kvs.len(), response.more), (4, false));
    Ok(())
}

async fn count_ignores_the_limit(kv: &Client) -> CheckResult {
    put_four_keys(kv).await?;
    ensure_eq!(kv.range(Range::new(KeyRange::all()).limit(1)).await?.count, 4);
    Ok(())
}

async fn count_of_a_historic_read_counts_historic_keys(kv: &Client) -> CheckResult {
    let [_, b, ..] = put_four_keys(kv).await?;
    kv.delete("a").await?;
    ensure_eq!(kv.range(Range::new(KeyRange::all()).at(b)).await?.count, 2);
    Ok(())
}

async fn count_ignores_the_revision_filters(kv: &Client) -> CheckResult {
    let [.., d] = put_four_keys(kv).await?;
    let response = kv.range(Range::new(KeyRange::all()).min_mod_revision(d)).await?;
    ensure_eq!((response.kvs.len(), response.count), (1, 4));
    Ok(())
}

async fn count_only_returns_no_keys_and_never_sets_more(kv: &Client) -> CheckResult {
    put_four_keys(kv).await?;
    let response = kv.range(Range::new(KeyRange::all()).limit(1).count_only()).await?;
    ensure_eq!((response.kvs.len(), response.more, response.count), (0, false, 4));
    Ok(())
}

async fn count_only_ignores_limit_and_filters(kv: &Client) -> CheckResult {
    let [.., d] = put_four_keys(kv).await?;
    let range = Range::new(KeyRange::all()).limit(2).min_create_revision(d).keys_only();
    let response = kv.range(range.count_only()).await?;
    ensure_eq!((response.kvs.len(), response.more, response.count), (0, false, 4));
    Ok(())
}

async fn keys_only_omits_values_and_keeps_other_fields(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    kv.put_with(Put::new("a", "1").lease(id)).await?;
    let mut expected = get(kv, "a").await?;
    expected.value.clear();
    ensure_eq!(kv.range(Range::new("a").keys_only()).await?.kvs, [expected]);
    Ok(())
}

async fn serializable_read_on_a_single_member_is_current(kv: &Client) -> CheckResult {
    let [revision] = puts(kv, [("a", "1")]).await?;
    let response = kv.range(Range::new("a").serializable()).await?;
    ensure_eq!(response.header.revision, revision);
    ensure_eq!(response.kvs, [get(kv, "a").await?]);
    Ok(())
}
