//! Delete cases: which keys are deleted, their count, and the previous key-values.

use coord_core::{
    Client,
    error::ErrorKind,
    kv::{Delete, KeyRange},
};

use super::helpers::{
    CheckResult, all_keys, current_revision, expect_refused, get, get_at, grant_lease, key_names,
    lease_keys, put_on, puts,
};
use super::table;

table! { Delete;
    delete_of_an_empty_key_is_refused,
    deleted_key_is_absent,
    delete_of_an_absent_key_succeeds_and_deletes_zero,
    second_delete_of_a_key_deletes_zero,
    delete_of_one_key_keeps_keys_with_that_prefix,
    delete_of_an_interval_keeps_its_end,
    delete_of_a_prefix_keeps_other_keys,
    unbounded_delete_deletes_from_its_key_on,
    delete_of_all_keys_leaves_no_key,
    delete_of_an_inverted_range_deletes_nothing,
    delete_counts_the_keys_it_deletes,
    delete_returns_no_keys_unless_requested,
    delete_returns_all_its_keys_in_key_order,
    delete_returns_every_field_of_the_previous_key,
    delete_detaches_the_key_from_its_lease,
    deleted_key_stays_readable_in_history,
    delete_leaves_other_keys_unchanged,
}

async fn put_five_keys(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("aa", "1"), ("ab", "1"), ("b", "1"), ("c", "1")]).await?;
    Ok(())
}

async fn delete_of_an_empty_key_is_refused(kv: &Client) -> CheckResult {
    expect_refused(kv.delete("").await, ErrorKind::EmptyKey)?;
    expect_refused(kv.delete(KeyRange::from_wire("", "z")).await, ErrorKind::EmptyKey)?;
    Ok(())
}

async fn deleted_key_is_absent(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    ensure_eq!(kv.delete("a").await?.deleted, 1);
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn delete_of_an_absent_key_succeeds_and_deletes_zero(kv: &Client) -> CheckResult {
    let response = kv.delete(Delete::new("a").with_prev_kv()).await?;
    ensure_eq!((response.deleted, response.prev_kvs.len()), (0, 0));
    Ok(())
}

async fn second_delete_of_a_key_deletes_zero(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    let first = kv.delete("a").await?;
    let second = kv.delete("a").await?;
    ensure_eq!((first.deleted, second.deleted), (1, 0));
    ensure_eq!(second.header.revision, first.header.revision);
    Ok(())
}

async fn delete_of_one_key_keeps_keys_with_that_prefix(kv: &Client) -> CheckResult {
    put_five_keys(kv).await?;
    kv.delete("a").await?;
    ensure_eq!(all_keys(kv).await?, ["aa", "ab", "b", "c"]);
    Ok(())
}

async fn delete_of_an_interval_keeps_its_end(kv: &Client) -> CheckResult {
    put_five_keys(kv).await?;
    kv.delete(KeyRange::between("aa", "b")).await?;
    ensure_eq!(all_keys(kv).await?, ["a", "b", "c"]);
    Ok(())
}

async fn delete_of_a_prefix_keeps_other_keys(kv: &Client) -> CheckResult {
    put_five_keys(kv).await?;
    kv.delete(KeyRange::prefix("a")).await?;
    ensure_eq!(all_keys(kv).await?, ["b", "c"]);
    Ok(())
}

async fn unbounded_delete_deletes_from_its_key_on(kv: &Client) -> CheckResult {
    put_five_keys(kv).await?;
    ensure_eq!(kv.delete(KeyRange::starting_at("ab")).await?.deleted, 3);
    ensure_eq!(all_keys(kv).await?, ["a", "aa"]);
    Ok(())
}

async fn delete_of_all_keys_leaves_no_key(kv: &Client) -> CheckResult {
    put_five_keys(kv).await?;
    ensure_eq!(kv.delete(KeyRange::all()).await?.deleted, 5);
    ensure_eq!(all_keys(kv).await?, [""; 0]);
    Ok(())
}

async fn delete_of_an_inverted_range_deletes_nothing(kv: &Client) -> CheckResult {
    put_five_keys(kv).await?;
    ensure_eq!(kv.delete(KeyRange::from_wire("c", "a")).await?.deleted, 0);
    ensure_eq!(all_keys(kv).await?.len(), 5);
    Ok(())
}

async fn delete_counts_the_keys_it_deletes(kv: &Client) -> CheckResult {
    put_five_keys(kv).await?;
    kv.delete("aa").await?;
    ensure_eq!(kv.delete(KeyRange::between("a", "c")).await?.deleted, 3);
    Ok(())
}

async fn delete_returns_no_keys_unless_requested(kv: &Client) -> CheckResult {
    put_five_keys(kv).await?;
    ensure_eq!(kv.delete(KeyRange::all()).await?.prev_kvs, []);
    Ok(())
}

async fn delete_returns_all_its_keys_in_key_order(kv: &Client) -> CheckResult {
    puts(kv, [("c", "1"), ("a", "1"), ("b", "1")]).await?;
    let response = kv.delete(Delete::new(KeyRange::all()).with_prev_kv()).await?;
    ensure_eq!(key_names(&response.prev_kvs), ["a", "b", "c"]);
    Ok(())
}

async fn delete_returns_every_field_of_the_previous_key(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    kv.put("a", "1").await?;
    put_on(kv, id, "a").await?;
    let before = get(kv, "a").await?;
    let response = kv.delete(Delete::new("a").with_prev_kv()).await?;
    ensure_eq!(response.prev_kvs, [before]);
    Ok(())
}

async fn delete_detaches_the_key_from_its_lease(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    put_on(kv, id, "b").await?;
    kv.delete("a").await?;
    ensure_eq!(lease_keys(kv, id).await?, ["b"]);
    Ok(())
}

async fn deleted_key_stays_readable_in_history(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    let (before, revision) = (get(kv, "a").await?, current_revision(kv).await?);
    kv.delete("a").await?;
    ensure_eq!(get_at(kv, "a", revision).await?, before);
    Ok(())
}

async fn delete_leaves_other_keys_unchanged(kv: &Client) -> CheckResult {
    put_five_keys(kv).await?;
    let before = get(kv, "b").await?;
    kv.delete(KeyRange::prefix("a")).await?;
    ensure_eq!(get(kv, "b").await?, before);
    Ok(())
}
