//! Which keys a range holds, now and in the past; what is counted, and what is shown.

use coord_core::{
    Client, KvBackend,
    error::ErrorKind,
    kv::{KeyRange, Put, Range, Revision},
};

use super::steps::{
    Checked, all_keys, compact, get, get_at, keys_of, lease, names, now, puts, refused,
};
use super::table;

table! { Range;
    range_of_an_empty_key_is_refused,
    range_of_an_absent_key_is_empty_and_no_error,
    range_of_one_key_leaves_its_extensions_out,
    interval_has_its_start_and_not_its_end,
    interval_with_its_end_below_its_start_is_empty_and_no_error,
    interval_with_its_end_at_its_start_is_empty_and_no_error,
    range_without_end_reads_from_its_key_on,
    range_from_zero_byte_without_end_reads_every_key,
    prefix_reads_its_key_and_its_extensions_only,
    prefix_that_ends_in_ff_reads_its_extensions_only,
    prefix_of_ff_alone_reads_to_the_last_key,
    keys_lie_in_bytewise_order,
    keys_and_values_may_hold_any_bytes,
    empty_value_is_a_value,
    past_read_shows_the_value_of_then,
    past_read_shows_keys_that_were_deleted_since,
    past_read_shows_an_earlier_life_of_a_recreated_key,
    past_read_leaves_out_keys_that_were_created_since,
    past_read_gives_the_same_answer_again,
    past_read_of_a_range_shows_the_keys_of_then_in_order,
    read_at_a_deletes_revision_no_longer_shows_the_key,
    read_at_the_current_revision_shows_what_is_now,
    read_at_a_negative_revision_shows_what_is_now,
    read_of_a_future_revision_is_refused,
    read_below_the_compact_revision_is_refused,
    read_of_the_compact_revision_is_answered,
    limit_cuts_and_says_that_there_is_more,
    limit_that_fits_exactly_has_no_more,
    zero_or_negative_limit_is_no_limit,
    count_ignores_the_limit,
    count_of_a_past_read_counts_the_past,
    count_ignores_the_revision_filters,
    count_only_gives_no_keys_and_never_more,
    count_only_ignores_limit_and_filters,
    keys_only_leaves_values_out_and_keeps_all_else,
    serializable_read_on_a_single_member_is_current,
}

/// Puts a, b, c and d.
async fn four_keys(kv: &Client) -> Checked<[Revision; 4]> {
    puts(kv, [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]).await
}

async fn range_of_an_empty_key_is_refused(kv: &Client) -> Checked {
    refused(kv.range(Range::new("")).await, ErrorKind::EmptyKey)?;
    refused(kv.range(Range::new(KeyRange::from_wire("", "z"))).await, ErrorKind::EmptyKey)?;
    Ok(())
}

async fn range_of_an_absent_key_is_empty_and_no_error(kv: &Client) -> Checked {
    let response = kv.range(Range::new("a")).await?;
    ensure_eq!((response.kvs.len(), response.count, response.more), (0, 0, false));
    Ok(())
}

async fn range_of_one_key_leaves_its_extensions_out(kv: &Client) -> Checked {
    puts(kv, [("a", "1"), ("a\0", "2"), ("aa", "3")]).await?;
    let response = kv.range(Range::new("a")).await?;
    ensure_eq!(response.kvs.len(), 1);
    ensure_eq!(response.kvs[0].value, "1");
    ensure_eq!(response.count, 1);
    Ok(())
}

async fn interval_has_its_start_and_not_its_end(kv: &Client) -> Checked {
    four_keys(kv).await?;
    ensure_eq!(keys_of(kv, Range::new(KeyRange::between("b", "d"))).await?, ["b", "c"]);
    Ok(())
}

async fn interval_with_its_end_below_its_start_is_empty_and_no_error(kv: &Client) -> Checked {
    four_keys(kv).await?;
    let response = kv.range(Range::new(KeyRange::from_wire("d", "a"))).await?;
    ensure_eq!((response.kvs.len(), response.count), (0, 0));
    Ok(())
}

async fn interval_with_its_end_at_its_start_is_empty_and_no_error(kv: &Client) -> Checked {
    four_keys(kv).await?;
    let response = kv.range(Range::new(KeyRange::from_wire("b", "b"))).await?;
    ensure_eq!((response.kvs.len(), response.count), (0, 0));
    Ok(())
}

async fn range_without_end_reads_from_its_key_on(kv: &Client) -> Checked {
    four_keys(kv).await?;
    ensure_eq!(keys_of(kv, Range::new(KeyRange::starting_at("c"))).await?, ["c", "d"]);
    Ok(())
}

async fn range_from_zero_byte_without_end_reads_every_key(kv: &Client) -> Checked {
    puts(kv, [("\0", "1"), ("a", "1"), ("\u{7f}", "1")]).await?;
    kv.put(b"\xff\xff", "1").await?;
    let keys = all_keys(kv).await?;
    ensure_eq!(keys, [&b"\0"[..], b"a", b"\x7f", b"\xff\xff"]);
    Ok(())
}

async fn prefix_reads_its_key_and_its_extensions_only(kv: &Client) -> Checked {
    puts(kv, [("ab", "1"), ("ab/", "1"), ("ab/x", "1"), ("ab0", "1"), ("ac", "1")]).await?;
    ensure_eq!(keys_of(kv, Range::prefix("ab/")).await?, ["ab/", "ab/x"]);
    ensure_eq!(keys_of(kv, Range::prefix("ab")).await?, ["ab", "ab/", "ab/x", "ab0"]);
    Ok(())
}

async fn prefix_that_ends_in_ff_reads_its_extensions_only(kv: &Client) -> Checked {
    for key in [&b"a\xfe"[..], b"a\xff", b"a\xff\xff", b"b"] {
        kv.put(key, "1").await?;
    }
    ensure_eq!(keys_of(kv, Range::prefix(b"a\xff")).await?, [&b"a\xff"[..], b"a\xff\xff"]);
    Ok(())
}

async fn prefix_of_ff_alone_reads_to_the_last_key(kv: &Client) -> Checked {
    for key in [&b"\xfe"[..], b"\xff", b"\xff\xff\x01"] {
        kv.put(key, "1").await?;
    }
    ensure_eq!(keys_of(kv, Range::prefix(b"\xff")).await?, [&b"\xff"[..], b"\xff\xff\x01"]);
    Ok(())
}

async fn keys_lie_in_bytewise_order(kv: &Client) -> Checked {
    for key in [&b"b"[..], b"\xc3\xa4", b"B", b"ab", b"a", b"a\0", b"10", b"9"] {
        kv.put(key, "1").await?;
    }
    let sorted = [&b"10"[..], b"9", b"B", b"a", b"a\0", b"ab", b"b", b"\xc3\xa4"];
    ensure_eq!(all_keys(kv).await?, sorted);
    Ok(())
}

async fn keys_and_values_may_hold_any_bytes(kv: &Client) -> Checked {
    let bytes: Vec<u8> = (0..=255).collect();
    kv.put(&bytes[..], &bytes[..]).await?;
    let found = kv.get(&bytes[..]).await?;
    ensure_eq!(found.map(|kv| (kv.key, kv.value)), Some((bytes.clone().into(), bytes.into())));
    Ok(())
}

async fn empty_value_is_a_value(kv: &Client) -> Checked {
    kv.put("a", "").await?;
    let a = get(kv, "a").await?;
    ensure_eq!((a.value.len(), a.version), (0, 1));
    Ok(())
}

async fn past_read_shows_the_value_of_then(kv: &Client) -> Checked {
    let [first, _] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    let then = get_at(kv, "a", first).await?;
    ensure_eq!(then.value, "1");
    ensure_eq!((then.mod_revision, then.version), (first, 1));
    Ok(())
}

async fn past_read_shows_keys_that_were_deleted_since(kv: &Client) -> Checked {
    let [put] = puts(kv, [("a", "1")]).await?;
    kv.delete("a").await?;
    ensure_eq!(get_at(kv, "a", put).await?.value, "1");
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn past_read_shows_an_earlier_life_of_a_recreated_key(kv: &Client) -> Checked {
    puts(kv, [("a", "1"), ("a", "2")]).await?;
    let (before, revision) = (get(kv, "a").await?, now(kv).await?);
    kv.delete("a").await?;
    puts(kv, [("a", "3")]).await?;
    ensure_eq!(get_at(kv, "a", revision).await?, before);
    Ok(())
}

async fn past_read_leaves_out_keys_that_were_created_since(kv: &Client) -> Checked {
    let [a, _] = puts(kv, [("a", "1"), ("b", "1")]).await?;
    ensure_eq!(keys_of(kv, Range::new(KeyRange::all()).at(a)).await?, ["a"]);
    Ok(())
}

async fn past_read_gives_the_same_answer_again(kv: &Client) -> Checked {
    let [.., then] = four_keys(kv).await?;
    let read = || kv.range(Range::new(KeyRange::all()).at(then));
    let before = read().await?.kvs;
    puts(kv, [("a", "9"), ("e", "9")]).await?;
    kv.delete("b").await?;
    ensure_eq!(read().await?.kvs, before);
    Ok(())
}

async fn past_read_of_a_range_shows_the_keys_of_then_in_order(kv: &Client) -> Checked {
    let [.., then] = four_keys(kv).await?;
    kv.delete("b").await?;
    puts(kv, [("ba", "1"), ("c", "5")]).await?;
    kv.delete("d").await?;
    let past = keys_of(kv, Range::new(KeyRange::all()).at(then)).await?;
    ensure_eq!(past, ["a", "b", "c", "d"]);
    Ok(())
}

async fn read_at_a_deletes_revision_no_longer_shows_the_key(kv: &Client) -> Checked {
    kv.put("a", "1").await?;
    let deleted = kv.delete("a").await?.header.revision;
    kv.put("a", "2").await?;
    ensure_eq!(kv.range(Range::new("a").at(deleted)).await?.count, 0);
    Ok(())
}

async fn read_at_the_current_revision_shows_what_is_now(kv: &Client) -> Checked {
    let [revision] = puts(kv, [("a", "1")]).await?;
    ensure_eq!(get_at(kv, "a", revision).await?, get(kv, "a").await?);
    Ok(())
}

async fn read_at_a_negative_revision_shows_what_is_now(kv: &Client) -> Checked {
    puts(kv, [("a", "1"), ("a", "2")]).await?;
    ensure_eq!(get_at(kv, "a", Revision(-1)).await?.value, "2");
    ensure_eq!(get_at(kv, "a", Revision(-7)).await?.value, "2");
    Ok(())
}

async fn read_of_a_future_revision_is_refused(kv: &Client) -> Checked {
    let next = now(kv).await?.next();
    refused(kv.range(Range::new("a").at(next)).await, ErrorKind::FutureRevision)?;
    Ok(())
}

async fn read_below_the_compact_revision_is_refused(kv: &Client) -> Checked {
    let [first, second] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, second).await?;
    refused(kv.range(Range::new("a").at(first)).await, ErrorKind::Compacted)?;
    Ok(())
}

async fn read_of_the_compact_revision_is_answered(kv: &Client) -> Checked {
    let [_, second, _] = puts(kv, [("a", "1"), ("a", "2"), ("a", "3")]).await?;
    compact(kv, second).await?;
    ensure_eq!(get_at(kv, "a", second).await?.value, "2");
    Ok(())
}

async fn limit_cuts_and_says_that_there_is_more(kv: &Client) -> Checked {
    four_keys(kv).await?;
    let response = kv.range(Range::new(KeyRange::all()).limit(2)).await?;
    ensure_eq!(names(&response.kvs), ["a", "b"]);
    ensure!(response.more, "two of four keys were cut off, and more is false");
    Ok(())
}

async fn limit_that_fits_exactly_has_no_more(kv: &Client) -> Checked {
    four_keys(kv).await?;
    let response = kv.range(Range::new(KeyRange::all()).limit(4)).await?;
    ensure_eq!((response.kvs.len(), response.more), (4, false));
    Ok(())
}

async fn zero_or_negative_limit_is_no_limit(kv: &Client) -> Checked {
    four_keys(kv).await?;
    for limit in [0, -1] {
        let response = kv.range(Range::new(KeyRange::all()).limit(limit)).await?;
        ensure_eq!((response.kvs.len(), response.more), (4, false), "limit {limit}");
    }
    Ok(())
}

async fn count_ignores_the_limit(kv: &Client) -> Checked {
    four_keys(kv).await?;
    ensure_eq!(kv.range(Range::new(KeyRange::all()).limit(1)).await?.count, 4);
    Ok(())
}

async fn count_of_a_past_read_counts_the_past(kv: &Client) -> Checked {
    let [_, b, ..] = four_keys(kv).await?;
    kv.delete("a").await?;
    ensure_eq!(kv.range(Range::new(KeyRange::all()).at(b)).await?.count, 2);
    Ok(())
}

async fn count_ignores_the_revision_filters(kv: &Client) -> Checked {
    let [.., d] = four_keys(kv).await?;
    let response = kv.range(Range::new(KeyRange::all()).min_mod_revision(d)).await?;
    ensure_eq!((response.kvs.len(), response.count), (1, 4));
    Ok(())
}

async fn count_only_gives_no_keys_and_never_more(kv: &Client) -> Checked {
    four_keys(kv).await?;
    let response = kv.range(Range::new(KeyRange::all()).limit(1).count_only()).await?;
    ensure_eq!((response.kvs.len(), response.more, response.count), (0, false, 4));
    Ok(())
}

async fn count_only_ignores_limit_and_filters(kv: &Client) -> Checked {
    let [.., d] = four_keys(kv).await?;
    let range = Range::new(KeyRange::all()).limit(2).min_create_revision(d).keys_only();
    let response = kv.range(range.count_only()).await?;
    ensure_eq!((response.kvs.len(), response.more, response.count), (0, false, 4));
    Ok(())
}

async fn keys_only_leaves_values_out_and_keeps_all_else(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    kv.put_with(Put::new("a", "1").lease(id)).await?;
    let mut expected = get(kv, "a").await?;
    expected.value.clear();
    ensure_eq!(kv.range(Range::new("a").keys_only()).await?.kvs, [expected]);
    Ok(())
}

async fn serializable_read_on_a_single_member_is_current(kv: &Client) -> Checked {
    let [revision] = puts(kv, [("a", "1")]).await?;
    let response = kv.range(Range::new("a").serializable()).await?;
    ensure_eq!(response.header.revision, revision);
    ensure_eq!(response.kvs, [get(kv, "a").await?]);
    Ok(())
}
