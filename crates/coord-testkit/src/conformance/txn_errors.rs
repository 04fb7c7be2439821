//! Refused transaction cases: the errors, their precedence, and that the store is unchanged.

use coord_core::{
    Client, Error,
    error::ErrorKind,
    kv::{Compare, Delete, Op, Put, Range, Revision, Txn},
};

use super::helpers::{
    CheckResult, all_keys, compact, current_revision, expect_refused, get, grant_lease, lease_keys,
    puts, range_response, run_ops, unused_lease_id,
};
use super::table;

table! { Txn;
    txn_with_a_missing_key_changes_nothing,
    txn_with_a_missing_lease_changes_nothing,
    txn_with_a_future_range_changes_nothing,
    txn_with_a_compacted_range_changes_nothing,
    error_of_a_nested_txn_undoes_the_outer_ops,
    refused_txn_moves_no_key_between_leases,
    error_on_the_branch_not_taken_is_ignored,
    error_on_the_nested_branch_not_taken_is_ignored,
    put_that_keeps_fields_needs_the_key_before_the_txn,
    missing_key_is_refused_before_a_missing_lease_in_a_txn,
    put_before_a_range_is_refused_first,
    put_after_a_range_is_refused_first: PutsCheckedFirst,
    nested_put_after_a_range_is_refused_first: PutsCheckedFirst,
    first_of_two_refused_ranges_is_reported,
    read_only_txn_at_a_future_revision_is_refused,
    read_only_txn_at_a_compacted_revision_is_refused,
    range_op_at_the_compact_revision_is_accepted,
    range_op_at_minus_one_is_accepted_before_any_compaction: FreshStore,
    range_op_at_minus_one_is_refused_once_compacted,
    range_op_below_minus_one_is_refused,
    invalid_put_on_the_branch_not_taken_is_refused,
    empty_key_of_a_range_op_is_refused,
    empty_key_of_a_delete_op_is_refused,
    empty_key_of_a_put_op_is_refused,
    empty_key_of_a_nested_compare_is_refused,
    empty_compare_key_is_refused_before_invalid_ops,
    success_ops_are_checked_before_failure_ops,
    invalid_ops_are_refused_before_duplicate_keys,
    duplicate_keys_are_refused_before_missing_leases,
}

fn put(key: &str) -> Op {
    Put::new(key, "new").into()
}

/// A put that only the store can refuse: it keeps the value of an absent key.
fn missing_key() -> Op {
    Put::new("absent", "").ignore_value().into()
}

/// Passes if a transaction of these operations is refused with `kind`. Returns the error.
async fn expect_error<const N: usize>(
    kv: &Client,
    ops: [Op; N],
    kind: ErrorKind,
) -> CheckResult<Error> {
    expect_refused(kv.txn(Txn::new().and_then(ops)).await, kind)
}

async fn txn_with_a_missing_key_changes_nothing(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("b", "1")]).await?;
    let ops = [put("a"), Delete::new("b").into(), put("c"), missing_key()];
    expect_error(kv, ops, ErrorKind::KeyNotFound).await?;
    ensure_eq!(all_keys(kv).await?, ["a", "b"]);
    ensure_eq!(get(kv, "a").await?.version, 1);
    Ok(())
}

async fn txn_with_a_missing_lease_changes_nothing(kv: &Client) -> CheckResult {
    let missing = unused_lease_id(kv).await?;
    puts(kv, [("a", "1")]).await?;
    let ops = [Delete::new("a").into(), Put::new("b", "1").lease(missing).into()];
    expect_error(kv, ops, ErrorKind::LeaseNotFound).await?;
    ensure_eq!(all_keys(kv).await?, ["a"]);
    Ok(())
}

async fn txn_with_a_future_range_changes_nothing(kv: &Client) -> CheckResult {
    let future = Revision(current_revision(kv).await?.0 + 2);
    let ops = [put("a"), Range::new("a").at(future).into()];
    expect_error(kv, ops, ErrorKind::FutureRevision).await?;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn txn_with_a_compacted_range_changes_nothing(kv: &Client) -> CheckResult {
    let [first, second] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, second).await?;
    expect_error(kv, [put("a"), Range::new("a").at(first).into()], ErrorKind::Compacted).await?;
    ensure_eq!(get(kv, "a").await?.version, 2);
    Ok(())
}

async fn error_of_a_nested_txn_undoes_the_outer_ops(kv: &Client) -> CheckResult {
    let inner = Txn::new().and_then([put("b"), missing_key()]);
    expect_error(kv, [put("a"), inner.into(), put("c")], ErrorKind::KeyNotFound).await?;
    ensure_eq!(all_keys(kv).await?, [""; 0]);
    Ok(())
}

async fn refused_txn_moves_no_key_between_leases(kv: &Client) -> CheckResult {
    let (one, two) = (grant_lease(kv).await?, grant_lease(kv).await?);
    run_ops(kv, [Put::new("a", "1").lease(one).into()]).await?;
    let ops = [Put::new("a", "2").lease(two).into(), missing_key()];
    expect_error(kv, ops, ErrorKind::KeyNotFound).await?;
    ensure_eq!(lease_keys(kv, one).await?, ["a"]);
    ensure_eq!(lease_keys(kv, two).await?, [""; 0]);
    Ok(())
}

async fn error_on_the_branch_not_taken_is_ignored(kv: &Client) -> CheckResult {
    let missing = unused_lease_id(kv).await?;
    let future = Revision(i64::MAX);
    let untaken = [missing_key(), Put::new("b", "").lease(missing).into()];
    let txn = Txn::new().and_then([put("a")]).or_else(untaken);
    let response = kv.txn(txn.or_else([Range::new("a").at(future)])).await?;
    ensure!(response.succeeded, "a transaction without compares failed");
    ensure_eq!(all_keys(kv).await?, ["a"]);
    Ok(())
}

async fn error_on_the_nested_branch_not_taken_is_ignored(kv: &Client) -> CheckResult {
    let nested = Txn::new().when([Compare::exists("x")]).and_then([missing_key()]);
    run_ops(kv, [put("a"), nested.into()]).await?;
    ensure_eq!(all_keys(kv).await?, ["a"]);
    Ok(())
}

async fn put_that_keeps_fields_needs_the_key_before_the_txn(kv: &Client) -> CheckResult {
    // The key must exist before the transaction: if an earlier operation of the transaction creates
    // the key, the put that keeps its value is a duplicate put.
    kv.put("a", "old").await?;
    run_ops(kv, [Put::new("a", "").ignore_value().into()]).await?;
    ensure_eq!(get(kv, "a").await?.value, "old");
    let created = Txn::new().and_then([put("b")]);
    let kept = Txn::new().and_then([Put::new("b", "").ignore_value()]);
    expect_error(kv, [created.into(), kept.into()], ErrorKind::DuplicateKey).await?;
    Ok(())
}

async fn missing_key_is_refused_before_a_missing_lease_in_a_txn(kv: &Client) -> CheckResult {
    let missing = unused_lease_id(kv).await?;
    let both = Put::new("absent", "").ignore_value().lease(missing);
    expect_error(kv, [both.into()], ErrorKind::KeyNotFound).await?;
    Ok(())
}

async fn put_before_a_range_is_refused_first(kv: &Client) -> CheckResult {
    let future = Range::new("a").at(Revision(i64::MAX));
    expect_error(kv, [missing_key(), future.into()], ErrorKind::KeyNotFound).await?;
    Ok(())
}

async fn put_after_a_range_is_refused_first(kv: &Client) -> CheckResult {
    let future = Range::new("a").at(Revision(i64::MAX));
    expect_error(kv, [future.into(), missing_key()], ErrorKind::KeyNotFound).await?;
    Ok(())
}

async fn nested_put_after_a_range_is_refused_first(kv: &Client) -> CheckResult {
    let future = Range::new("a").at(Revision(i64::MAX));
    let nested = Txn::new().and_then([missing_key()]);
    expect_error(kv, [future.into(), nested.into()], ErrorKind::KeyNotFound).await?;
    Ok(())
}

async fn first_of_two_refused_ranges_is_reported(kv: &Client) -> CheckResult {
    let [first, second] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, second).await?;
    let past = || Op::from(Range::new("a").at(first));
    let future = || Op::from(Range::new("a").at(Revision(i64::MAX)));
    expect_error(kv, [past(), future()], ErrorKind::Compacted).await?;
    expect_error(kv, [future(), past()], ErrorKind::FutureRevision).await?;
    Ok(())
}

async fn read_only_txn_at_a_future_revision_is_refused(kv: &Client) -> CheckResult {
    let future = Range::new("a").at(current_revision(kv).await?.next());
    expect_error(kv, [future.into()], ErrorKind::FutureRevision).await?;
    Ok(())
}

async fn read_only_txn_at_a_compacted_revision_is_refused(kv: &Client) -> CheckResult {
    let [first, second] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, second).await?;
    expect_error(kv, [Range::new("a").at(first).into()], ErrorKind::Compacted).await?;
    Ok(())
}

async fn range_op_at_the_compact_revision_is_accepted(kv: &Client) -> CheckResult {
    let [_, second, _] = puts(kv, [("a", "1"), ("a", "2"), ("a", "3")]).await?;
    compact(kv, second).await?;
    let response = run_ops(kv, [put("a"), Range::new("a").at(second).into()]).await?;
    ensure_eq!(range_response(&response, 1)?.kvs[0].value, "2");
    Ok(())
}

async fn range_op_at_minus_one_is_accepted_before_any_compaction(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    let response = run_ops(kv, [Range::new("a").at(Revision(-1)).into()]).await?;
    ensure_eq!(range_response(&response, 0)?.count, 1);
    Ok(())
}

async fn range_op_at_minus_one_is_refused_once_compacted(kv: &Client) -> CheckResult {
    let [revision] = puts(kv, [("a", "1")]).await?;
    compact(kv, revision).await?;
    let minus_one = || Op::from(Range::new("a").at(Revision(-1)));
    expect_error(kv, [minus_one()], ErrorKind::Compacted).await?;
    expect_error(kv, [put("a"), minus_one()], ErrorKind::Compacted).await?;
    Ok(())
}

async fn range_op_below_minus_one_is_refused(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    expect_error(kv, [Range::new("a").at(Revision(-2)).into()], ErrorKind::Compacted).await?;
    Ok(())
}

async fn invalid_put_on_the_branch_not_taken_is_refused(kv: &Client) -> CheckResult {
    let invalid = Put::new("b", "1").ignore_value();
    let txn = Txn::new().and_then([put("a")]).or_else([invalid]);
    expect_refused(kv.txn(txn).await, ErrorKind::ValueProvided)?;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn empty_key_of_a_range_op_is_refused(kv: &Client) -> CheckResult {
    expect_error(kv, [Range::new("").into()], ErrorKind::EmptyKey).await?;
    expect_error(kv, [put("a"), Range::new("").into()], ErrorKind::EmptyKey).await?;
    Ok(())
}

async fn empty_key_of_a_delete_op_is_refused(kv: &Client) -> CheckResult {
    expect_error(kv, [Delete::new("").into()], ErrorKind::EmptyKey).await?;
    Ok(())
}

async fn empty_key_of_a_put_op_is_refused(kv: &Client) -> CheckResult {
    expect_error(kv, [put("a"), put("")], ErrorKind::EmptyKey).await?;
    Ok(())
}

async fn empty_key_of_a_nested_compare_is_refused(kv: &Client) -> CheckResult {
    let nested = Txn::new().when([Compare::absent("")]);
    expect_error(kv, [put("a"), nested.into()], ErrorKind::EmptyKey).await?;
    Ok(())
}

async fn empty_compare_key_is_refused_before_invalid_ops(kv: &Client) -> CheckResult {
    let invalid = Put::new("b", "1").ignore_value();
    let txn = Txn::new().when([Compare::absent("")]).and_then([invalid]);
    expect_refused(kv.txn(txn).await, ErrorKind::EmptyKey)?;
    Ok(())
}

async fn success_ops_are_checked_before_failure_ops(kv: &Client) -> CheckResult {
    let invalid = || Put::new("b", "1").ignore_value();
    let txn = Txn::new().and_then([invalid()]).or_else([put("")]);
    expect_refused(kv.txn(txn).await, ErrorKind::ValueProvided)?;
    let txn = Txn::new().and_then([put("")]).or_else([invalid()]);
    expect_refused(kv.txn(txn).await, ErrorKind::EmptyKey)?;
    Ok(())
}

async fn invalid_ops_are_refused_before_duplicate_keys(kv: &Client) -> CheckResult {
    let txn = Txn::new().and_then([put("a"), put("a")]).or_else([put("")]);
    expect_refused(kv.txn(txn).await, ErrorKind::EmptyKey)?;
    Ok(())
}

async fn duplicate_keys_are_refused_before_missing_leases(kv: &Client) -> CheckResult {
    let missing = unused_lease_id(kv).await?;
    let leased = || Op::from(Put::new("a", "1").lease(missing));
    expect_error(kv, [leased(), leased()], ErrorKind::DuplicateKey).await?;
    Ok(())
}
