//! Limit cases: the number of operations in a transaction, and the size of a request in bytes.
//!
//! Each case reads the limits of the backend from [`limits`](coord_core::KvBackend::limits), so
//! that the suite also runs on stores whose limits differ from etcd's.

use coord_core::{
    Client, Error,
    error::ErrorKind,
    kv::{Compare, Op, Put, Range, Txn},
};

use super::helpers::{CheckResult, all_keys, current_revision, expect_refused, run_ops};
use super::table;

table! { Limits;
    txn_with_as_many_ops_as_allowed_is_accepted,
    txn_with_one_op_too_many_is_refused,
    failure_ops_are_limited,
    compares_are_limited,
    compares_and_branches_are_counted_separately,
    too_many_ops_error_reports_the_count_and_the_limit,
    nested_txn_without_ops_fits_on_a_full_level,
    nested_op_does_not_fit_on_a_full_level,
    nested_limit_is_what_the_outer_level_leaves,
    sibling_nested_txns_do_not_share_their_limit,
    too_many_ops_is_refused_before_an_empty_key,
    too_many_ops_on_the_branch_not_taken_is_refused,
    txn_with_too_many_ops_changes_nothing,
    large_value_is_read_back_whole,
    value_above_the_request_limit_is_refused,
    value_far_above_the_request_limit_is_refused,
    sizes_of_a_txns_ops_add_up,
    key_far_above_the_request_limit_is_refused_in_a_read,
    request_of_exactly_the_limit_is_accepted: ExactRequestSize,
    request_of_one_byte_above_the_limit_is_refused: ExactRequestSize,
    read_above_the_write_size_limit_is_accepted: ExactRequestSize,
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

async fn expect_too_many_ops(kv: &Client, txn: Txn) -> CheckResult<Error> {
    expect_refused(kv.txn(txn).await, ErrorKind::TooManyOps)
}

async fn txn_with_as_many_ops_as_allowed_is_accepted(kv: &Client) -> CheckResult {
    let max = kv.limits().max_txn_ops;
    kv.txn(Txn::new().and_then(distinct_puts(max))).await?;
    ensure_eq!(all_keys(kv).await?.len(), max);
    Ok(())
}

async fn txn_with_one_op_too_many_is_refused(kv: &Client) -> CheckResult {
    let max = kv.limits().max_txn_ops;
    expect_too_many_ops(kv, Txn::new().and_then(distinct_puts(max + 1))).await?;
    Ok(())
}

async fn failure_ops_are_limited(kv: &Client) -> CheckResult {
    let max = kv.limits().max_txn_ops;
    expect_too_many_ops(kv, Txn::new().or_else(reads(max + 1))).await?;
    Ok(())
}

async fn compares_are_limited(kv: &Client) -> CheckResult {
    let max = kv.limits().max_txn_ops;
    kv.txn(Txn::new().when(compares(max))).await?;
    expect_too_many_ops(kv, Txn::new().when(compares(max + 1))).await?;
    Ok(())
}

async fn compares_and_branches_are_counted_separately(kv: &Client) -> CheckResult {
    let max = kv.limits().max_txn_ops;
    let txn = Txn::new().when(compares(max)).and_then(reads(max)).or_else(reads(max));
    ensure_eq!(kv.txn(txn).await?.responses.len(), max);
    Ok(())
}

async fn too_many_ops_error_reports_the_count_and_the_limit(kv: &Client) -> CheckResult {
    let max = kv.limits().max_txn_ops;
    let error = expect_too_many_ops(kv, Txn::new().and_then(reads(max + 2))).await?;
    let reported =
        matches!(error, Error::TooManyOps { count, limit } if count == max + 2 && limit == max);
    ensure!(reported, "{error:?} does not report count {} and limit {max}", max + 2);
    Ok(())
}

async fn nested_txn_without_ops_fits_on_a_full_level(kv: &Client) -> CheckResult {
    let max = kv.limits().max_txn_ops;
    let full = distinct_puts(max - 1).chain([Txn::new().into()]);
    ensure_eq!(kv.txn(Txn::new().and_then(full)).await?.responses.len(), max);
    Ok(())
}

async fn nested_op_does_not_fit_on_a_full_level(kv: &Client) -> CheckResult {
    let max = kv.limits().max_txn_ops;
    let nested = Txn::new().and_then(reads(1));
    let full = distinct_puts(max - 1).chain([nested.into()]);
    expect_too_many_ops(kv, Txn::new().and_then(full)).await?;
    Ok(())
}

async fn nested_limit_is_what_the_outer_level_leaves(kv: &Client) -> CheckResult {
    let max = kv.limits().max_txn_ops;
    // A level uses the largest of its counts, here three compares rather than one operation.
    let outer = |n| Txn::new().when(compares(3)).and_then([Txn::new().and_then(reads(n))]);
    kv.txn(outer(max - 3)).await?;
    expect_too_many_ops(kv, outer(max - 2)).await?;
    Ok(())
}

async fn sibling_nested_txns_do_not_share_their_limit(kv: &Client) -> CheckResult {
    let half = kv.limits().max_txn_ops / 2;
    let siblings = (0..half).map(|_| Op::from(Txn::new().and_then(reads(half))));
    ensure_eq!(kv.txn(Txn::new().and_then(siblings)).await?.responses.len(), half);
    Ok(())
}

async fn too_many_ops_is_refused_before_an_empty_key(kv: &Client) -> CheckResult {
    let max = kv.limits().max_txn_ops;
    let txn = Txn::new().when([Compare::absent("")]).and_then([Put::new("", "1")]);
    expect_too_many_ops(kv, txn.and_then(reads(max))).await?;
    Ok(())
}

async fn too_many_ops_on_the_branch_not_taken_is_refused(kv: &Client) -> CheckResult {
    let max = kv.limits().max_txn_ops;
    let nested = Txn::new().and_then(reads(max));
    expect_too_many_ops(kv, Txn::new().or_else([nested])).await?;
    Ok(())
}

async fn txn_with_too_many_ops_changes_nothing(kv: &Client) -> CheckResult {
    let (max, before) = (kv.limits().max_txn_ops, current_revision(kv).await?);
    expect_too_many_ops(kv, Txn::new().and_then(distinct_puts(max + 1))).await?;
    ensure_eq!(all_keys(kv).await?.len(), 0);
    ensure_eq!(current_revision(kv).await?, before);
    Ok(())
}

async fn large_value_is_read_back_whole(kv: &Client) -> CheckResult {
    let value: Vec<u8> = (0..=255).cycle().take(kv.limits().max_request_bytes / 2).collect();
    kv.put("a", &value[..]).await?;
    let found = kv.get("a").await?.map(|kv| kv.value);
    ensure!(found.is_some_and(|found| found == value), "the value read back differs");
    Ok(())
}

async fn value_above_the_request_limit_is_refused(kv: &Client) -> CheckResult {
    let value = vec![b'x'; kv.limits().max_request_bytes];
    expect_refused(kv.put("a", value).await, ErrorKind::RequestTooLarge)?;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn value_far_above_the_request_limit_is_refused(kv: &Client) -> CheckResult {
    let value = vec![b'x'; kv.limits().max_request_bytes + (1 << 20)];
    expect_refused(kv.put("a", value).await, ErrorKind::RequestTooLarge)?;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn sizes_of_a_txns_ops_add_up(kv: &Client) -> CheckResult {
    let value = vec![b'x'; kv.limits().max_request_bytes / 2];
    let (a, b) = (Put::new("a", &value[..]), Put::new("b", &value[..]));
    expect_refused(kv.txn(Txn::new().and_then([a.clone(), b])).await, ErrorKind::RequestTooLarge)?;
    run_ops(kv, [a.into()]).await?;
    ensure_eq!(all_keys(kv).await?, ["a"]);
    Ok(())
}

async fn key_far_above_the_request_limit_is_refused_in_a_read(kv: &Client) -> CheckResult {
    let key = vec![b'k'; kv.limits().max_request_bytes + (1 << 20)];
    expect_refused(kv.range(Range::new(key)).await, ErrorKind::RequestTooLarge)?;
    Ok(())
}

/// The size in bytes of the largest value that a put of a three-byte key can contain.
///
/// The rest of the request takes 26 bytes: 5 for the key field, 4 for the tag and the length of the
/// value field, 4 for the message around both fields, and 13 for the header of the envelope.
fn largest_value_bytes(kv: &Client) -> usize {
    kv.limits().max_request_bytes - 26
}

async fn request_of_exactly_the_limit_is_accepted(kv: &Client) -> CheckResult {
    kv.put("abc", vec![b'x'; largest_value_bytes(kv)]).await?;
    ensure_eq!(all_keys(kv).await?, ["abc"]);
    Ok(())
}

async fn request_of_one_byte_above_the_limit_is_refused(kv: &Client) -> CheckResult {
    let value = vec![b'x'; largest_value_bytes(kv) + 1];
    expect_refused(kv.put("abc", value).await, ErrorKind::RequestTooLarge)?;
    Ok(())
}

async fn read_above_the_write_size_limit_is_accepted(kv: &Client) -> CheckResult {
    let key = vec![b'k'; kv.limits().max_request_bytes + 1];
    ensure_eq!(kv.range(Range::new(key)).await?.count, 0);
    Ok(())
}
