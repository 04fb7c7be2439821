//! Cases of request limits: the number of operations in a transaction, and the size in bytes.
//!
//! The limits are those that the backend returns from [`limits`](KvBackend::limits), so that the
//! suite also runs on stores with other limits than etcd's.

use coord_core::{
    Client, Error,
    error::ErrorKind,
    kv::{Compare, Op, Put, Range, Txn},
};

use super::helpers::{Checked, all_keys, current_revision, refused, run_steps};
use super::table;

table! { Limits;
    txn_with_as_many_steps_as_allowed_is_accepted,
    txn_with_one_step_too_many_is_refused,
    failure_steps_are_limited_too,
    compares_are_limited_too,
    compares_and_branches_are_counted_separately,
    too_many_ops_error_reports_the_count_and_the_limit,
    nested_txn_without_steps_fits_on_a_full_level,
    nested_step_does_not_fit_on_a_full_level,
    nested_limit_is_what_the_outer_level_leaves,
    sibling_nested_txns_do_not_share_their_limit,
    too_many_ops_is_refused_before_an_empty_key,
    too_many_ops_on_the_branch_not_taken_is_refused,
    txn_with_too_many_ops_changes_nothing,
    large_value_is_read_back_whole,
    value_above_the_request_limit_is_refused,
    value_far_above_the_request_limit_is_refused,
    sizes_of_a_txns_steps_add_up,
    key_far_above_the_request_limit_is_refused_in_a_read,
    request_of_exactly_the_limit_is_accepted: ExactRequestSize,
    request_of_one_byte_above_the_limit_is_refused: ExactRequestSize,
    read_above_the_write_size_limit_is_answered: ExactRequestSize,
}

fn reads(n: usize) -> impl Iterator<Item = Op> {
    (0..n).map(|_| Range::new("a").into())
}

fn distinct_puts(n: usize) -> impl Iterator<Item = Op> {
    (0..n).map(|i| Put::new(format!("k{i}"), "1").into())
}

fn compares(n: usize) -> impl Iterator<Item = Compare> {
    (0..n).map(|_| Compare::absent("x"))
}

async fn too_many(kv: &Client, txn: Txn) -> Checked<Error> {
    refused(kv.txn(txn).await, ErrorKind::TooManyOps)
}

async fn txn_with_as_many_steps_as_allowed_is_accepted(kv: &Client) -> Checked {
    let max = kv.limits().max_txn_ops;
    kv.txn(Txn::new().and_then(distinct_puts(max))).await?;
    ensure_eq!(all_keys(kv).await?.len(), max);
    Ok(())
}

async fn txn_with_one_step_too_many_is_refused(kv: &Client) -> Checked {
    let max = kv.limits().max_txn_ops;
    too_many(kv, Txn::new().and_then(distinct_puts(max + 1))).await?;
    Ok(())
}

async fn failure_steps_are_limited_too(kv: &Client) -> Checked {
    let max = kv.limits().max_txn_ops;
    too_many(kv, Txn::new().or_else(reads(max + 1))).await?;
    Ok(())
}

async fn compares_are_limited_too(kv: &Client) -> Checked {
    let max = kv.limits().max_txn_ops;
    kv.txn(Txn::new().when(compares(max))).await?;
    too_many(kv, Txn::new().when(compares(max + 1))).await?;
    Ok(())
}

async fn compares_and_branches_are_counted_separately(kv: &Client) -> Checked {
    let max = kv.limits().max_txn_ops;
    let txn = Txn::new().when(compares(max)).and_then(reads(max)).or_else(reads(max));
    ensure_eq!(kv.txn(txn).await?.responses.len(), max);
    Ok(())
}

async fn too_many_ops_error_reports_the_count_and_the_limit(kv: &Client) -> Checked {
    let max = kv.limits().max_txn_ops;
    let error = too_many(kv, Txn::new().and_then(reads(max + 2))).await?;
    let reported =
        matches!(error, Error::TooManyOps { count, limit } if count == max + 2 && limit == max);
    ensure!(reported, "{error:?} does not report count {} and limit {max}", max + 2);
    Ok(())
}

async fn nested_txn_without_steps_fits_on_a_full_level(kv: &Client) -> Checked {
    let max = kv.limits().max_txn_ops;
    let full = distinct_puts(max - 1).chain([Txn::new().into()]);
    ensure_eq!(kv.txn(Txn::new().and_then(full)).await?.responses.len(), max);
    Ok(())
}

async fn nested_step_does_not_fit_on_a_full_level(kv: &Client) -> Checked {
    let max = kv.limits().max_txn_ops;
    let nested = Txn::new().and_then(reads(1));
    let full = distinct_puts(max - 1).chain([nested.into()]);
    too_many(kv, Txn::new().and_then(full)).await?;
    Ok(())
}

async fn nested_limit_is_what_the_outer_level_leaves(kv: &Client) -> Checked {
    let max = kv.limits().max_txn_ops;
    // A level uses the largest of its counts, here three compares rather than one step.
    let outer = |n| Txn::new().when(compares(3)).and_then([Txn::new().and_then(reads(n))]);
    kv.txn(outer(max - 3)).await?;
    too_many(kv, outer(max - 2)).await?;
    Ok(())
}

async fn sibling_nested_txns_do_not_share_their_limit(kv: &Client) -> Checked {
    let half = kv.limits().max_txn_ops / 2;
    let siblings = (0..half).map(|_| Op::from(Txn::new().and_then(reads(half))));
    ensure_eq!(kv.txn(Txn::new().and_then(siblings)).await?.responses.len(), half);
    Ok(())
}

async fn too_many_ops_is_refused_before_an_empty_key(kv: &Client) -> Checked {
    let max = kv.limits().max_txn_ops;
    let txn = Txn::new().when([Compare::absent("")]).and_then([Put::new("", "1")]);
    too_many(kv, txn.and_then(reads(max))).await?;
    Ok(())
}

async fn too_many_ops_on_the_branch_not_taken_is_refused(kv: &Client) -> Checked {
    let max = kv.limits().max_txn_ops;
    let nested = Txn::new().and_then(reads(max));
    too_many(kv, Txn::new().or_else([nested])).await?;
    Ok(())
}

async fn txn_with_too_many_ops_changes_nothing(kv: &Client) -> Checked {
    let (max, before) = (kv.limits().max_txn_ops, current_revision(kv).await?);
    too_many(kv, Txn::new().and_then(distinct_puts(max + 1))).await?;
    ensure_eq!(all_keys(kv).await?.len(), 0);
    ensure_eq!(current_revision(kv).await?, before);
    Ok(())
}

async fn large_value_is_read_back_whole(kv: &Client) -> Checked {
    let value: Vec<u8> = (0..=255).cycle().take(kv.limits().max_request_bytes / 2).collect();
    kv.put("a", &value[..]).await?;
    let found = kv.get("a").await?.map(|kv| kv.value);
    ensure!(found.is_some_and(|found| found == value), "the value read back differs");
    Ok(())
}

async fn value_above_the_request_limit_is_refused(kv: &Client) -> Checked {
    let value = vec![b'x'; kv.limits().max_request_bytes];
    refused(kv.put("a", value).await, ErrorKind::RequestTooLarge)?;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn value_far_above_the_request_limit_is_refused(kv: &Client) -> Checked {
    let value = vec![b'x'; kv.limits().max_request_bytes + (1 << 20)];
    refused(kv.put("a", value).await, ErrorKind::RequestTooLarge)?;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn sizes_of_a_txns_steps_add_up(kv: &Client) -> Checked {
    let value = vec![b'x'; kv.limits().max_request_bytes / 2];
    let (a, b) = (Put::new("a", &value[..]), Put::new("b", &value[..]));
    refused(kv.txn(Txn::new().and_then([a.clone(), b])).await, ErrorKind::RequestTooLarge)?;
    run_steps(kv, [a.into()]).await?;
    ensure_eq!(all_keys(kv).await?, ["a"]);
    Ok(())
}

async fn key_far_above_the_request_limit_is_refused_in_a_read(kv: &Client) -> Checked {
    let key = vec![b'k'; kv.limits().max_request_bytes + (1 << 20)];
    refused(kv.range(Range::new(key)).await, ErrorKind::RequestTooLarge)?;
    Ok(())
}

/// The largest value, in bytes, that a put of a three-byte key can carry.
///
/// The rest of the request takes 26 bytes: 5 for the key field, 4 for tag and length of the value
/// field, 4 for the message around them, and 13 for the header of the envelope.
fn largest_value(kv: &Client) -> usize {
    kv.limits().max_request_bytes - 26
}

async fn request_of_exactly_the_limit_is_accepted(kv: &Client) -> Checked {
    kv.put("abc", vec![b'x'; largest_value(kv)]).await?;
    ensure_eq!(all_keys(kv).await?, ["abc"]);
    Ok(())
}

async fn request_of_one_byte_above_the_limit_is_refused(kv: &Client) -> Checked {
    let value = vec![b'x'; largest_value(kv) + 1];
    refused(kv.put("abc", value).await, ErrorKind::RequestTooLarge)?;
    Ok(())
}

async fn read_above_the_write_size_limit_is_answered(kv: &Client) -> Checked {
    let key = vec![b'k'; kv.limits().max_request_bytes + 1];
    ensure_eq!(kv.range(Range::new(key)).await?.count, 0);
    Ok(())
}
