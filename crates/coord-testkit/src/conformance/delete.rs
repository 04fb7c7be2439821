//! Deleting keys: which, how many, and what they were.

use coord_core::{
    Client, KvBackend,
    error::ErrorKind,
    kv::{Delete, KeyRange},
};

use super::steps::{
    Checked, all_keys, get, get_at, lease, lease_keys, names, now, put_on, puts, refused,
};
use super::table;

table! { Delete;
    delete_of_an_empty_key_is_refused,
    deleted_key_is_gone,
    delete_of_an_absent_key_deletes_zero_and_is_no_error,
    second_delete_of_a_key_deletes_zero,
    delete_of_one_key_leaves_its_extensions,
    delete_of_an_interval_leaves_its_end,
    delete_of_a_prefix_leaves_its_neighbours,
    delete_without_end_deletes_from_its_key_on,
    delete_of_everything_leaves_nothing,
    delete_of_an_inverted_range_deletes_nothing,
    delete_counts_the_keys_it_deletes,
    delete_does_not_return_keys_unasked,
    delete_returns_all_its_keys_in_key_order,
    delete_returns_the_whole_key_as_it_was,
    delete_detaches_the_key_from_its_lease,
    deleted_key_stays_in_the_past,
    delete_leaves_other_keys_as_they_are,
}

async fn five_keys(kv: &Client) -> Checked {
    puts(kv, [("a", "1"), ("aa", "1"), ("ab", "1"), ("b", "1"), ("c", "1")]).await?;
    Ok(())
}

async fn delete_of_an_empty_key_is_refused(kv: &Client) -> Checked {
    refused(kv.delete("").await, ErrorKind::EmptyKey)?;
    refused(kv.delete(KeyRange::from_wire("", "z")).await, ErrorKind::EmptyKey)?;
    Ok(())
}

async fn deleted_key_is_gone(kv: &Client) -> Checked {
    kv.put("a", "1").await?;
    ensure_eq!(kv.delete("a").await?.deleted, 1);
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn delete_of_an_absent_key_deletes_zero_and_is_no_error(kv: &Client) -> Checked {
    let response = kv.delete(Delete::new("a").with_prev_kv()).await?;
    ensure_eq!((response.deleted, response.prev_kvs.len()), (0, 0));
    Ok(())
}

async fn second_delete_of_a_key_deletes_zero(kv: &Client) -> Checked {
    kv.put("a", "1").await?;
    let first = kv.delete("a").await?;
    let second = kv.delete("a").await?;
    ensure_eq!((first.deleted, second.deleted), (1, 0));
    ensure_eq!(second.header.revision, first.header.revision);
    Ok(())
}

async fn delete_of_one_key_leaves_its_extensions(kv: &Client) -> Checked {
    five_keys(kv).await?;
    kv.delete("a").await?;
    ensure_eq!(all_keys(kv).await?, ["aa", "ab", "b", "c"]);
    Ok(())
}

async fn delete_of_an_interval_leaves_its_end(kv: &Client) -> Checked {
    five_keys(kv).await?;
    kv.delete(KeyRange::between("aa", "b")).await?;
    ensure_eq!(all_keys(kv).await?, ["a", "b", "c"]);
    Ok(())
}

async fn delete_of_a_prefix_leaves_its_neighbours(kv: &Client) -> Checked {
    five_keys(kv).await?;
    kv.delete(KeyRange::prefix("a")).await?;
    ensure_eq!(all_keys(kv).await?, ["b", "c"]);
    Ok(())
}

async fn delete_without_end_deletes_from_its_key_on(kv: &Client) -> Checked {
    five_keys(kv).await?;
    ensure_eq!(kv.delete(KeyRange::starting_at("ab")).await?.deleted, 3);
    ensure_eq!(all_keys(kv).await?, ["a", "aa"]);
    Ok(())
}

async fn delete_of_everything_leaves_nothing(kv: &Client) -> Checked {
    five_keys(kv).await?;
    ensure_eq!(kv.delete(KeyRange::all()).await?.deleted, 5);
    ensure_eq!(all_keys(kv).await?, [""; 0]);
    Ok(())
}

async fn delete_of_an_inverted_range_deletes_nothing(kv: &Client) -> Checked {
    five_keys(kv).await?;
    ensure_eq!(kv.delete(KeyRange::from_wire("c", "a")).await?.deleted, 0);
    ensure_eq!(all_keys(kv).await?.len(), 5);
    Ok(())
}

async fn delete_counts_the_keys_it_deletes(kv: &Client) -> Checked {
    five_keys(kv).await?;
    kv.delete("aa").await?;
    ensure_eq!(kv.delete(KeyRange::between("a", "c")).await?.deleted, 3);
    Ok(())
}

async fn delete_does_not_return_keys_unasked(kv: &Client) -> Checked {
    five_keys(kv).await?;
    ensure_eq!(kv.delete(KeyRange::all()).await?.prev_kvs, []);
    Ok(())
}

async fn delete_returns_all_its_keys_in_key_order(kv: &Client) -> Checked {
    puts(kv, [("c", "1"), ("a", "1"), ("b", "1")]).await?;
    let response = kv.delete(Delete::new(KeyRange::all()).with_prev_kv()).await?;
    ensure_eq!(names(&response.prev_kvs), ["a", "b", "c"]);
    Ok(())
}

async fn delete_returns_the_whole_key_as_it_was(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    kv.put("a", "1").await?;
    put_on(kv, id, "a").await?;
    let before = get(kv, "a").await?;
    let response = kv.delete(Delete::new("a").with_prev_kv()).await?;
    ensure_eq!(response.prev_kvs, [before]);
    Ok(())
}

async fn delete_detaches_the_key_from_its_lease(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    put_on(kv, id, "a").await?;
    put_on(kv, id, "b").await?;
    kv.delete("a").await?;
    ensure_eq!(lease_keys(kv, id).await?, ["b"]);
    Ok(())
}

async fn deleted_key_stays_in_the_past(kv: &Client) -> Checked {
    kv.put("a", "1").await?;
    let (before, revision) = (get(kv, "a").await?, now(kv).await?);
    kv.delete("a").await?;
    ensure_eq!(get_at(kv, "a", revision).await?, before);
    Ok(())
}

async fn delete_leaves_other_keys_as_they_are(kv: &Client) -> Checked {
    five_keys(kv).await?;
    let before = get(kv, "b").await?;
    kv.delete(KeyRange::prefix("a")).await?;
    ensure_eq!(get(kv, "b").await?, before);
    Ok(())
}
