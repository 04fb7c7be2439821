//! Duplicate key cases: which keys one transaction may change twice.
//!
//! The source file of [`Txn::check`] states the rule that these cases check.

use coord_core::{
    Client,
    error::ErrorKind,
    kv::{Compare, Delete, KeyRange, Op, Put, Txn},
};

use super::helpers::{CheckResult, all_keys, current_revision, expect_refused, puts, run_ops};
use super::table;

table! { Duplicates;
    two_puts_of_a_key_are_refused,
    put_then_delete_of_a_key_is_refused,
    delete_then_put_of_a_key_is_refused,
    delete_of_a_range_that_contains_a_put_key_is_refused,
    delete_of_a_range_beside_a_put_key_is_accepted,
    delete_of_an_inverted_range_touches_no_key,
    overlapping_deletes_are_accepted,
    both_branches_may_put_the_same_key,
    duplicate_on_the_branch_not_taken_is_refused,
    put_and_nested_put_of_a_key_are_refused,
    delete_and_nested_put_of_a_key_are_refused,
    put_and_nested_delete_of_a_key_are_refused,
    delete_and_nested_delete_of_a_key_are_accepted,
    sibling_nested_puts_of_a_key_are_refused,
    sibling_nested_put_then_delete_is_accepted,
    sibling_nested_delete_then_put_is_refused,
    both_branches_of_a_nested_txn_may_put_the_same_key,
    nested_else_put_counts_against_later_siblings,
    nested_then_put_and_else_delete_of_a_key_are_accepted,
    nested_else_delete_counts_against_later_puts,
    grandchild_put_counts_against_the_outermost_level,
    refused_duplicate_changes_nothing,
}

fn put(key: &str) -> Op {
    Put::new(key, "new").into()
}

fn delete(keys: impl Into<KeyRange>) -> Op {
    Delete::new(keys).into()
}

/// A nested transaction of these operations, without compares.
fn nested<const N: usize>(ops: [Op; N]) -> Op {
    Txn::new().and_then(ops).into()
}

/// Passes if a transaction of these operations is refused because of a duplicate key.
async fn expect_duplicate<const N: usize>(kv: &Client, ops: [Op; N]) -> CheckResult {
    expect_refused(kv.txn(Txn::new().and_then(ops)).await, ErrorKind::DuplicateKey)?;
    Ok(())
}

async fn two_puts_of_a_key_are_refused(kv: &Client) -> CheckResult {
    expect_duplicate(kv, [put("a"), put("b"), put("a")]).await
}

async fn put_then_delete_of_a_key_is_refused(kv: &Client) -> CheckResult {
    expect_duplicate(kv, [put("a"), delete("a")]).await
}

async fn delete_then_put_of_a_key_is_refused(kv: &Client) -> CheckResult {
    expect_duplicate(kv, [delete("a"), put("a")]).await
}

async fn delete_of_a_range_that_contains_a_put_key_is_refused(kv: &Client) -> CheckResult {
    expect_duplicate(kv, [delete(KeyRange::between("a", "c")), put("a")]).await?;
    expect_duplicate(kv, [put("b"), delete(KeyRange::between("a", "c"))]).await?;
    expect_duplicate(kv, [put("p/x"), delete(KeyRange::prefix("p/"))]).await
}

async fn delete_of_a_range_beside_a_put_key_is_accepted(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("b", "1"), ("c", "1")]).await?;
    run_ops(kv, [delete(KeyRange::between("a", "c")), put("c"), put("0")]).await?;
    ensure_eq!(all_keys(kv).await?, ["0", "c"]);
    Ok(())
}

async fn delete_of_an_inverted_range_touches_no_key(kv: &Client) -> CheckResult {
    let inverted = delete(KeyRange::from_wire("c", "a"));
    run_ops(kv, [inverted, put("a"), put("b"), put("c")]).await?;
    ensure_eq!(all_keys(kv).await?, ["a", "b", "c"]);
    Ok(())
}

async fn overlapping_deletes_are_accepted(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("b", "1")]).await?;
    run_ops(kv, [delete("a"), delete("a"), delete(KeyRange::between("a", "c"))]).await?;
    ensure_eq!(all_keys(kv).await?, [""; 0]);
    Ok(())
}

async fn both_branches_may_put_the_same_key(kv: &Client) -> CheckResult {
    let txn = Txn::new().when([Compare::absent("a")]);
    kv.txn(txn.and_then([put("a")]).or_else([put("a")])).await?;
    ensure_eq!(all_keys(kv).await?, ["a"]);
    Ok(())
}

async fn duplicate_on_the_branch_not_taken_is_refused(kv: &Client) -> CheckResult {
    let txn = Txn::new().and_then([put("a")]).or_else([put("b"), put("b")]);
    expect_refused(kv.txn(txn).await, ErrorKind::DuplicateKey)?;
    Ok(())
}

async fn put_and_nested_put_of_a_key_are_refused(kv: &Client) -> CheckResult {
    expect_duplicate(kv, [put("a"), nested([put("a")])]).await?;
    expect_duplicate(kv, [nested([put("a")]), put("a")]).await
}

async fn delete_and_nested_put_of_a_key_are_refused(kv: &Client) -> CheckResult {
    expect_duplicate(kv, [delete("a"), nested([put("a")])]).await?;
    expect_duplicate(kv, [nested([put("a")]), delete("a")]).await
}

async fn put_and_nested_delete_of_a_key_are_refused(kv: &Client) -> CheckResult {
    expect_duplicate(kv, [put("a"), nested([delete("a")])]).await?;
    expect_duplicate(kv, [nested([delete("a")]), put("a")]).await
}

async fn delete_and_nested_delete_of_a_key_are_accepted(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1")]).await?;
    let response = run_ops(kv, [delete("a"), nested([delete("a")])]).await?;
    ensure_eq!(response.responses.len(), 2);
    ensure_eq!(all_keys(kv).await?, [""; 0]);
    Ok(())
}

async fn sibling_nested_puts_of_a_key_are_refused(kv: &Client) -> CheckResult {
    expect_duplicate(kv, [nested([put("a")]), nested([put("a")])]).await
}

async fn sibling_nested_put_then_delete_is_accepted(kv: &Client) -> CheckResult {
    let before = current_revision(kv).await?;
    run_ops(kv, [nested([put("a")]), nested([delete("a")])]).await?;
    ensure_eq!(all_keys(kv).await?, [""; 0]);
    ensure_eq!(current_revision(kv).await?, before.next());
    Ok(())
}

async fn sibling_nested_delete_then_put_is_refused(kv: &Client) -> CheckResult {
    expect_duplicate(kv, [nested([delete("a")]), nested([put("a")])]).await
}

async fn both_branches_of_a_nested_txn_may_put_the_same_key(kv: &Client) -> CheckResult {
    let either = Txn::new().when([Compare::absent("a")]).and_then([put("a")]).or_else([put("a")]);
    run_ops(kv, [either.into()]).await?;
    ensure_eq!(all_keys(kv).await?, ["a"]);
    Ok(())
}

async fn nested_else_put_counts_against_later_siblings(kv: &Client) -> CheckResult {
    let otherwise = Txn::new().or_else([put("a")]);
    expect_duplicate(kv, [otherwise.into(), nested([put("a")])]).await
}

async fn nested_then_put_and_else_delete_of_a_key_are_accepted(kv: &Client) -> CheckResult {
    let either = Txn::new().and_then([put("a")]).or_else([delete("a")]);
    run_ops(kv, [either.into()]).await?;
    ensure_eq!(all_keys(kv).await?, ["a"]);
    Ok(())
}

async fn nested_else_delete_counts_against_later_puts(kv: &Client) -> CheckResult {
    let otherwise = || Txn::new().or_else([delete("a")]).into();
    expect_duplicate(kv, [otherwise(), nested([put("a")])]).await?;
    expect_duplicate(kv, [otherwise(), put("a")]).await
}

async fn grandchild_put_counts_against_the_outermost_level(kv: &Client) -> CheckResult {
    expect_duplicate(kv, [nested([nested([put("a")])]), put("a")]).await?;
    expect_duplicate(kv, [nested([nested([put("a")])]), delete("a")]).await
}

async fn refused_duplicate_changes_nothing(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1")]).await?;
    let before = current_revision(kv).await?;
    expect_duplicate(kv, [put("b"), delete("a"), put("b")]).await?;
    ensure_eq!(all_keys(kv).await?, ["a"]);
    ensure_eq!(current_revision(kv).await?, before);
    Ok(())
}
