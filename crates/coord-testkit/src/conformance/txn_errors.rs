//! What a transaction refuses, in which order, and that it then changed nothing.

use coord_core::{
    Client, Error, KvBackend,
    error::ErrorKind,
    kv::{Compare, Delete, Op, Put, Range, Revision, Txn},
};

use super::steps::{
    Checked, all_keys, compact, free_lease, get, lease, lease_keys, now, puts, refused, steps,
};
use super::table;

table! { Txn;
    txn_with_a_missing_key_changed_nothing,
    txn_with_a_missing_lease_changed_nothing,
    txn_with_a_future_range_changed_nothing,
    txn_with_a_compacted_range_changed_nothing,
    error_of_a_nested_txn_undoes_the_outer_steps,
    refused_txn_moves_no_key_between_leases,
    error_on_the_branch_not_taken_does_not_matter,
    error_on_the_nested_branch_not_taken_does_not_matter,
    keeping_put_needs_the_key_before_the_txn,
    missing_key_is_refused_before_a_missing_lease_in_a_txn,
    put_before_a_range_is_refused_first,
    put_after_a_range_is_refused_first: PutsCheckedFirst,
    nested_put_after_a_range_is_refused_first: PutsCheckedFirst,
    first_of_two_refused_ranges_is_told,
    read_only_txn_of_a_future_revision_is_refused,
    read_only_txn_of_a_compacted_revision_is_refused,
    range_step_at_the_compact_revision_is_answered,
    range_step_at_minus_one_is_answered_before_any_compaction: FreshStore,
    range_step_at_minus_one_is_refused_once_compacted,
    range_step_below_minus_one_is_refused,
    invalid_put_on_the_branch_not_taken_is_refused,
    empty_key_of_a_range_step_is_refused,
    empty_key_of_a_delete_step_is_refused,
    empty_key_of_a_put_step_is_refused,
    empty_key_of_a_nested_compare_is_refused,
    empty_compare_key_is_refused_before_invalid_steps,
    success_steps_are_judged_before_failure_steps,
    invalid_steps_are_refused_before_duplicate_keys,
    duplicate_keys_are_refused_before_missing_leases,
}

fn put(key: &str) -> Op {
    Put::new(key, "new").into()
}

/// A put that the store can only refuse: it keeps the value of a key that does not exist.
fn missing_key() -> Op {
    Put::new("absent", "").ignore_value().into()
}

async fn fails<const N: usize>(kv: &Client, ops: [Op; N], kind: ErrorKind) -> Checked<Error> {
    refused(kv.txn(Txn::new().and_then(ops)).await, kind)
}

async fn txn_with_a_missing_key_changed_nothing(kv: &Client) -> Checked {
    puts(kv, [("a", "1"), ("b", "1")]).await?;
    let ops = [put("a"), Delete::new("b").into(), put("c"), missing_key()];
    fails(kv, ops, ErrorKind::KeyNotFound).await?;
    ensure_eq!(all_keys(kv).await?, ["a", "b"]);
    ensure_eq!(get(kv, "a").await?.version, 1);
    Ok(())
}

async fn txn_with_a_missing_lease_changed_nothing(kv: &Client) -> Checked {
    let gone = free_lease(kv).await?;
    puts(kv, [("a", "1")]).await?;
    let ops = [Delete::new("a").into(), Put::new("b", "1").lease(gone).into()];
    fails(kv, ops, ErrorKind::LeaseNotFound).await?;
    ensure_eq!(all_keys(kv).await?, ["a"]);
    Ok(())
}

async fn txn_with_a_future_range_changed_nothing(kv: &Client) -> Checked {
    let future = Revision(now(kv).await?.0 + 2);
    let ops = [put("a"), Range::new("a").at(future).into()];
    fails(kv, ops, ErrorKind::FutureRevision).await?;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn txn_with_a_compacted_range_changed_nothing(kv: &Client) -> Checked {
    let [first, second] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, second).await?;
    fails(kv, [put("a"), Range::new("a").at(first).into()], ErrorKind::Compacted).await?;
    ensure_eq!(get(kv, "a").await?.version, 2);
    Ok(())
}

async fn error_of_a_nested_txn_undoes_the_outer_steps(kv: &Client) -> Checked {
    let inner = Txn::new().and_then([put("b"), missing_key()]);
    fails(kv, [put("a"), inner.into(), put("c")], ErrorKind::KeyNotFound).await?;
    ensure_eq!(all_keys(kv).await?, [""; 0]);
    Ok(())
}

async fn refused_txn_moves_no_key_between_leases(kv: &Client) -> Checked {
    let (one, two) = (lease(kv).await?, lease(kv).await?);
    steps(kv, [Put::new("a", "1").lease(one).into()]).await?;
    let ops = [Put::new("a", "2").lease(two).into(), missing_key()];
    fails(kv, ops, ErrorKind::KeyNotFound).await?;
    ensure_eq!(lease_keys(kv, one).await?, ["a"]);
    ensure_eq!(lease_keys(kv, two).await?, [""; 0]);
    Ok(())
}

async fn error_on_the_branch_not_taken_does_not_matter(kv: &Client) -> Checked {
    let gone = free_lease(kv).await?;
    let future = Revision(i64::MAX);
    let untaken = [missing_key(), Put::new("b", "").lease(gone).into()];
    let txn = Txn::new().and_then([put("a")]).or_else(untaken);
    let response = kv.txn(txn.or_else([Range::new("a").at(future)])).await?;
    ensure!(response.succeeded, "there was no condition");
    ensure_eq!(all_keys(kv).await?, ["a"]);
    Ok(())
}

async fn error_on_the_nested_branch_not_taken_does_not_matter(kv: &Client) -> Checked {
    let nested = Txn::new().when([Compare::exists("x")]).and_then([missing_key()]);
    steps(kv, [put("a"), nested.into()]).await?;
    ensure_eq!(all_keys(kv).await?, ["a"]);
    Ok(())
}

async fn keeping_put_needs_the_key_before_the_txn(kv: &Client) -> Checked {
    // Siblings may create a key and delete it again; creating it and then keeping its value is put
    // twice, so only a key that was there before can be kept.
    kv.put("a", "old").await?;
    steps(kv, [Put::new("a", "").ignore_value().into()]).await?;
    ensure_eq!(get(kv, "a").await?.value, "old");
    let created = Txn::new().and_then([put("b")]);
    let kept = Txn::new().and_then([Put::new("b", "").ignore_value()]);
    fails(kv, [created.into(), kept.into()], ErrorKind::DuplicateKey).await?;
    Ok(())
}

async fn missing_key_is_refused_before_a_missing_lease_in_a_txn(kv: &Client) -> Checked {
    let gone = free_lease(kv).await?;
    let both = Put::new("absent", "").ignore_value().lease(gone);
    fails(kv, [both.into()], ErrorKind::KeyNotFound).await?;
    Ok(())
}

async fn put_before_a_range_is_refused_first(kv: &Client) -> Checked {
    let future = Range::new("a").at(Revision(i64::MAX));
    fails(kv, [missing_key(), future.into()], ErrorKind::KeyNotFound).await?;
    Ok(())
}

async fn put_after_a_range_is_refused_first(kv: &Client) -> Checked {
    let future = Range::new("a").at(Revision(i64::MAX));
    fails(kv, [future.into(), missing_key()], ErrorKind::KeyNotFound).await?;
    Ok(())
}

async fn nested_put_after_a_range_is_refused_first(kv: &Client) -> Checked {
    let future = Range::new("a").at(Revision(i64::MAX));
    let nested = Txn::new().and_then([missing_key()]);
    fails(kv, [future.into(), nested.into()], ErrorKind::KeyNotFound).await?;
    Ok(())
}

async fn first_of_two_refused_ranges_is_told(kv: &Client) -> Checked {
    let [first, second] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, second).await?;
    let past = || Op::from(Range::new("a").at(first));
    let future = || Op::from(Range::new("a").at(Revision(i64::MAX)));
    fails(kv, [past(), future()], ErrorKind::Compacted).await?;
    fails(kv, [future(), past()], ErrorKind::FutureRevision).await?;
    Ok(())
}

async fn read_only_txn_of_a_future_revision_is_refused(kv: &Client) -> Checked {
    let future = Range::new("a").at(now(kv).await?.next());
    fails(kv, [future.into()], ErrorKind::FutureRevision).await?;
    Ok(())
}

async fn read_only_txn_of_a_compacted_revision_is_refused(kv: &Client) -> Checked {
    let [first, second] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, second).await?;
    fails(kv, [Range::new("a").at(first).into()], ErrorKind::Compacted).await?;
    Ok(())
}

async fn range_step_at_the_compact_revision_is_answered(kv: &Client) -> Checked {
    let [_, second, _] = puts(kv, [("a", "1"), ("a", "2"), ("a", "3")]).await?;
    compact(kv, second).await?;
    let response = steps(kv, [put("a"), Range::new("a").at(second).into()]).await?;
    ensure_eq!(super::steps::range_answer(&response, 1)?.kvs[0].value, "2");
    Ok(())
}

async fn range_step_at_minus_one_is_answered_before_any_compaction(kv: &Client) -> Checked {
    kv.put("a", "1").await?;
    let response = steps(kv, [Range::new("a").at(Revision(-1)).into()]).await?;
    ensure_eq!(super::steps::range_answer(&response, 0)?.count, 1);
    Ok(())
}

async fn range_step_at_minus_one_is_refused_once_compacted(kv: &Client) -> Checked {
    let [revision] = puts(kv, [("a", "1")]).await?;
    compact(kv, revision).await?;
    let minus_one = || Op::from(Range::new("a").at(Revision(-1)));
    fails(kv, [minus_one()], ErrorKind::Compacted).await?;
    fails(kv, [put("a"), minus_one()], ErrorKind::Compacted).await?;
    Ok(())
}

async fn range_step_below_minus_one_is_refused(kv: &Client) -> Checked {
    kv.put("a", "1").await?;
    fails(kv, [Range::new("a").at(Revision(-2)).into()], ErrorKind::Compacted).await?;
    Ok(())
}

async fn invalid_put_on_the_branch_not_taken_is_refused(kv: &Client) -> Checked {
    let invalid = Put::new("b", "1").ignore_value();
    let txn = Txn::new().and_then([put("a")]).or_else([invalid]);
    refused(kv.txn(txn).await, ErrorKind::ValueProvided)?;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn empty_key_of_a_range_step_is_refused(kv: &Client) -> Checked {
    fails(kv, [Range::new("").into()], ErrorKind::EmptyKey).await?;
    fails(kv, [put("a"), Range::new("").into()], ErrorKind::EmptyKey).await?;
    Ok(())
}

async fn empty_key_of_a_delete_step_is_refused(kv: &Client) -> Checked {
    fails(kv, [Delete::new("").into()], ErrorKind::EmptyKey).await?;
    Ok(())
}

async fn empty_key_of_a_put_step_is_refused(kv: &Client) -> Checked {
    fails(kv, [put("a"), put("")], ErrorKind::EmptyKey).await?;
    Ok(())
}

async fn empty_key_of_a_nested_compare_is_refused(kv: &Client) -> Checked {
    let nested = Txn::new().when([Compare::absent("")]);
    fails(kv, [put("a"), nested.into()], ErrorKind::EmptyKey).await?;
    Ok(())
}

async fn empty_compare_key_is_refused_before_invalid_steps(kv: &Client) -> Checked {
    let invalid = Put::new("b", "1").ignore_value();
    let txn = Txn::new().when([Compare::absent("")]).and_then([invalid]);
    refused(kv.txn(txn).await, ErrorKind::EmptyKey)?;
    Ok(())
}

async fn success_steps_are_judged_before_failure_steps(kv: &Client) -> Checked {
    let invalid = || Put::new("b", "1").ignore_value();
    let txn = Txn::new().and_then([invalid()]).or_else([put("")]);
    refused(kv.txn(txn).await, ErrorKind::ValueProvided)?;
    let txn = Txn::new().and_then([put("")]).or_else([invalid()]);
    refused(kv.txn(txn).await, ErrorKind::EmptyKey)?;
    Ok(())
}

async fn invalid_steps_are_refused_before_duplicate_keys(kv: &Client) -> Checked {
    let txn = Txn::new().and_then([put("a"), put("a")]).or_else([put("")]);
    refused(kv.txn(txn).await, ErrorKind::EmptyKey)?;
    Ok(())
}

async fn duplicate_keys_are_refused_before_missing_leases(kv: &Client) -> Checked {
    let gone = free_lease(kv).await?;
    let leased = || Op::from(Put::new("a", "1").lease(gone));
    fails(kv, [leased(), leased()], ErrorKind::DuplicateKey).await?;
    Ok(())
}
