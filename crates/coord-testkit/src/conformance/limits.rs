//! How much fits into one request: operations by count, and bytes.
//!
//! The numbers are those that the backend tells by [`limits`](KvBackend::limits), so the suite also
//! fits a store with limits of its own.

use coord_core::{
    Client, Error, KvBackend,
    error::ErrorKind,
    kv::{Compare, Op, Put, Range, Txn},
};

use super::steps::{Checked, all_keys, now, refused, steps};
use super::table;

table! { Limits;
    txn_with_as_many_steps_as_allowed_is_accepted,
    txn_with_one_step_too_many_is_refused,
    failure_steps_are_limited_too,
    compares_are_limited_too,
    compares_and_branches_are_counted_each_alone,
    too_many_ops_tells_the_count_and_the_limit,
    nested_txn_without_steps_fits_on_a_full_level,
    nested_step_does_not_fit_on_a_full_level,
    nested_limit_is_what_the_outer_level_left,
    sibling_nested_txns_do_not_share_their_limit,
    too_many_ops_is_refused_before_an_empty_key,
    too_many_nested_ops_is_refused_though_never_taken,
    txn_with_too_many_ops_changes_nothing,
    large_value_comes_back_whole,
    value_above_the_request_limit_is_refused,
    value_far_above_the_request_limit_is_refused,
    sizes_of_a_txns_steps_add_up,
    key_far_above_the_request_limit_is_refused_in_a_read,
    request_of_exactly_the_limit_is_accepted: ExactRequestSize,
    request_of_one_byte_above_the_limit_is_refused: ExactRequestSize,
    read_larger_than_the_limit_of_changes_is_answered: ExactRequestSize,
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
    let most = kv.limits().max_txn_ops;
    kv.txn(Txn::new().and_then(distinct_puts(most))).await?;
    ensure_eq!(all_keys(kv).await?.len(), most);
    Ok(())
}

async fn txn_with_one_step_too_many_is_refused(kv: &Client) -> Checked {
    let most = kv.limits().max_txn_ops;
    too_many(kv, Txn::new().and_then(distinct_puts(most + 1))).await?;
    Ok(())
}

async fn failure_steps_are_limited_too(kv: &Client) -> Checked {
    let most = kv.limits().max_txn_ops;
    too_many(kv, Txn::new().or_else(reads(most + 1))).await?;
    Ok(())
}

async fn compares_are_limited_too(kv: &Client) -> Checked {
    let most = kv.limits().max_txn_ops;
    kv.txn(Txn::new().when(compares(most))).await?;
    too_many(kv, Txn::new().when(compares(most + 1))).await?;
    Ok(())
}

async fn compares_and_branches_are_counted_each_alone(kv: &Client) -> Checked {
    let most = kv.limits().max_txn_ops;
    let txn = Txn::new().when(compares(most)).and_then(reads(most)).or_else(reads(most));
    ensure_eq!(kv.txn(txn).await?.responses.len(), most);
    Ok(())
}

async fn too_many_ops_tells_the_count_and_the_limit(kv: &Client) -> Checked {
    let most = kv.limits().max_txn_ops;
    let error = too_many(kv, Txn::new().and_then(reads(most + 2))).await?;
    let told =
        matches!(error, Error::TooManyOps { count, limit } if count == most + 2 && limit == most);
    ensure!(told, "{error:?} does not tell {} of {most}", most + 2);
    Ok(())
}

async fn nested_txn_without_steps_fits_on_a_full_level(kv: &Client) -> Checked {
    let most = kv.limits().max_txn_ops;
    let full = distinct_puts(most - 1).chain([Txn::new().into()]);
    ensure_eq!(kv.txn(Txn::new().and_then(full)).await?.responses.len(), most);
    Ok(())
}

async fn nested_step_does_not_fit_on_a_full_level(kv: &Client) -> Checked {
    let most = kv.limits().max_txn_ops;
    let nested = Txn::new().and_then(reads(1));
    let full = distinct_puts(most - 1).chain([nested.into()]);
    too_many(kv, Txn::new().and_then(full)).await?;
    Ok(())
}

async fn nested_limit_is_what_the_outer_level_left(kv: &Client) -> Checked {
    let most = kv.limits().max_txn_ops;
    // Three compares are more than the one step, so they are what the outer level uses.
    let outer = |n| Txn::new().when(compares(3)).and_then([Txn::new().and_then(reads(n))]);
    kv.txn(outer(most - 3)).await?;
    too_many(kv, outer(most - 2)).await?;
    Ok(())
}

async fn sibling_nested_txns_do_not_share_their_limit(kv: &Client) -> Checked {
    let half = kv.limits().max_txn_ops / 2;
    let siblings = (0..half).map(|_| Op::from(Txn::new().and_then(reads(half))));
    ensure_eq!(kv.txn(Txn::new().and_then(siblings)).await?.responses.len(), half);
    Ok(())
}

async fn too_many_ops_is_refused_before_an_empty_key(kv: &Client) -> Checked {
    let most = kv.limits().max_txn_ops;
    let txn = Txn::new().when([Compare::absent("")]).and_then([Put::new("", "1")]);
    too_many(kv, txn.and_then(reads(most))).await?;
    Ok(())
}

async fn too_many_nested_ops_is_refused_though_never_taken(kv: &Client) -> Checked {
    let most = kv.limits().max_txn_ops;
    let nested = Txn::new().and_then(reads(most));
    too_many(kv, Txn::new().or_else([nested])).await?;
    Ok(())
}

async fn txn_with_too_many_ops_changes_nothing(kv: &Client) -> Checked {
    let (most, before) = (kv.limits().max_txn_ops, now(kv).await?);
    too_many(kv, Txn::new().and_then(distinct_puts(most + 1))).await?;
    ensure_eq!(all_keys(kv).await?.len(), 0);
    ensure_eq!(now(kv).await?, before);
    Ok(())
}

async fn large_value_comes_back_whole(kv: &Client) -> Checked {
    let value: Vec<u8> = (0..=255).cycle().take(kv.limits().max_request_bytes / 2).collect();
    kv.put("a", &value[..]).await?;
    let found = kv.get("a").await?.map(|kv| kv.value);
    ensure!(found.is_some_and(|found| found == value), "the value came back changed");
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
    steps(kv, [a.into()]).await?;
    ensure_eq!(all_keys(kv).await?, ["a"]);
    Ok(())
}

async fn key_far_above_the_request_limit_is_refused_in_a_read(kv: &Client) -> Checked {
    let key = vec![b'k'; kv.limits().max_request_bytes + (1 << 20)];
    refused(kv.range(Range::new(key)).await, ErrorKind::RequestTooLarge)?;
    Ok(())
}

/// The largest value that a put of a key of three bytes can carry: key field 5 bytes, value field
/// with a length of three bytes 4 more, the message around them 4, the envelope's header 13.
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

async fn read_larger_than_the_limit_of_changes_is_answered(kv: &Client) -> Checked {
    let key = vec![b'k'; kv.limits().max_request_bytes + 1];
    ensure_eq!(kv.range(Range::new(key)).await?.count, 0);
    Ok(())
}
