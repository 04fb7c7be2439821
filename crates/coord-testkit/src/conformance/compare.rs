//! Compare cases: each target with each operator, on present keys, absent keys and ranges, and
//! several compares in one transaction.

use bytes::Bytes;
use coord_core::{
    Client,
    error::ErrorKind,
    kv::{Compare, CompareOp, CompareOperand, KeyRange, LeaseId, Put, Revision, Txn},
};

use super::helpers::{CheckResult, expect_refused, get, grant_lease, put_on, puts};
use super::table;

table! { Compare;
    txn_without_compares_succeeds,
    version_of_a_present_key_compares_by_every_operator,
    create_revision_of_a_present_key_compares_by_every_operator,
    mod_revision_of_a_present_key_compares_by_every_operator,
    value_of_a_present_key_compares_by_every_operator,
    lease_of_a_present_key_compares_by_every_operator,
    version_of_an_absent_key_compares_as_zero,
    create_revision_of_an_absent_key_compares_as_zero,
    mod_revision_of_an_absent_key_compares_as_zero,
    lease_of_an_absent_key_compares_as_zero,
    value_compare_on_absent_key_is_false_for_every_operator,
    empty_value_compare_on_absent_key_is_false,
    empty_value_compares_as_the_smallest,
    values_compare_bytewise,
    lease_of_a_key_without_one_compares_as_zero,
    leases_compare_as_signed_numbers,
    deleted_key_compares_as_absent,
    recreated_key_compares_by_its_new_revisions,
    txn_succeeds_only_if_every_compare_holds,
    range_compare_holds_if_every_key_meets_it,
    range_compare_fails_if_one_key_does_not_meet_it,
    range_compare_ignores_keys_outside_the_range,
    prefix_compare_covers_keys_with_the_prefix,
    unbounded_compare_covers_all_later_keys,
    compare_on_an_empty_range_acts_like_one_absent_key,
    compare_on_an_inverted_range_acts_like_one_absent_key,
    value_compare_on_an_empty_range_is_false,
    range_value_compare_checks_every_key,
    compare_on_an_empty_key_is_refused,
    mod_revision_compare_prevents_a_lost_update,
    two_compares_of_one_key_must_both_hold,
}

use CompareOp::{Equal, Greater, Less, NotEqual};

/// Whether a transaction with these compares takes its success branch.
async fn holds<const N: usize>(kv: &Client, compares: [Compare; N]) -> CheckResult<bool> {
    Ok(kv.txn(Txn::new().when(compares)).await?.succeeded)
}

/// Checks every operator: `key` must be greater than the first operand, equal to the second and
/// less than the third.
async fn check_every_operator(
    kv: &Client,
    key: &str,
    operands: [CompareOperand; 3],
) -> CheckResult {
    let [low, same, high] = operands;
    for (op, operand, expected) in [
        (Equal, &low, false),
        (Greater, &low, true),
        (Less, &low, false),
        (NotEqual, &low, true),
        (Equal, &same, true),
        (Greater, &same, false),
        (Less, &same, false),
        (NotEqual, &same, false),
        (Equal, &high, false),
        (Greater, &high, false),
        (Less, &high, true),
        (NotEqual, &high, true),
    ] {
        let compare = Compare { keys: KeyRange::key(key), op, operand: operand.clone() };
        ensure_eq!(holds(kv, [compare]).await?, expected, "{key} {op:?} {operand:?}");
    }
    Ok(())
}

fn value(value: &'static [u8]) -> CompareOperand {
    CompareOperand::Value(Bytes::from_static(value))
}

fn lease_operand(id: i64) -> CompareOperand {
    CompareOperand::Lease(LeaseId::new(id))
}

async fn txn_without_compares_succeeds(kv: &Client) -> CheckResult {
    ensure!(holds(kv, []).await?, "a transaction without compares took its failure branch");
    Ok(())
}

async fn version_of_a_present_key_compares_by_every_operator(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("a", "2")]).await?;
    check_every_operator(kv, "a", [1, 2, 3].map(CompareOperand::Version)).await
}

async fn create_revision_of_a_present_key_compares_by_every_operator(kv: &Client) -> CheckResult {
    let [created, _] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    let around = [created.previous(), created, created.next()];
    check_every_operator(kv, "a", around.map(CompareOperand::CreateRevision)).await
}

async fn mod_revision_of_a_present_key_compares_by_every_operator(kv: &Client) -> CheckResult {
    let [_, changed] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    let around = [changed.previous(), changed, changed.next()];
    check_every_operator(kv, "a", around.map(CompareOperand::ModRevision)).await
}

async fn value_of_a_present_key_compares_by_every_operator(kv: &Client) -> CheckResult {
    puts(kv, [("a", "m")]).await?;
    check_every_operator(kv, "a", [value(b"l"), value(b"m"), value(b"n")]).await
}

async fn lease_of_a_present_key_compares_by_every_operator(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    let around = [id.get() - 1, id.get(), id.get() + 1];
    check_every_operator(kv, "a", around.map(lease_operand)).await
}

async fn version_of_an_absent_key_compares_as_zero(kv: &Client) -> CheckResult {
    check_every_operator(kv, "a", [-1, 0, 1].map(CompareOperand::Version)).await
}

async fn create_revision_of_an_absent_key_compares_as_zero(kv: &Client) -> CheckResult {
    check_every_operator(kv, "a", [-1, 0, 1].map(Revision).map(CompareOperand::CreateRevision))
        .await
}

async fn mod_revision_of_an_absent_key_compares_as_zero(kv: &Client) -> CheckResult {
    check_every_operator(kv, "a", [-1, 0, 1].map(Revision).map(CompareOperand::ModRevision)).await
}

async fn lease_of_an_absent_key_compares_as_zero(kv: &Client) -> CheckResult {
    check_every_operator(kv, "a", [-1, 0, 1].map(lease_operand)).await
}

async fn value_compare_on_absent_key_is_false_for_every_operator(kv: &Client) -> CheckResult {
    for op in [Equal, NotEqual, Greater, Less] {
        ensure!(!holds(kv, [Compare::value("a", op, "x")]).await?, "{op:?} held");
    }
    Ok(())
}

async fn empty_value_compare_on_absent_key_is_false(kv: &Client) -> CheckResult {
    for op in [Equal, NotEqual, Greater, Less] {
        ensure!(!holds(kv, [Compare::value("a", op, "")]).await?, "{op:?} held");
    }
    Ok(())
}

async fn empty_value_compares_as_the_smallest(kv: &Client) -> CheckResult {
    kv.put("a", "").await?;
    ensure!(
        holds(kv, [Compare::value("a", Equal, "")]).await?,
        "an empty value does not equal the empty value"
    );
    ensure!(
        holds(kv, [Compare::value("a", Less, b"\0")]).await?,
        "an empty value is not below every other value"
    );
    Ok(())
}

async fn values_compare_bytewise(kv: &Client) -> CheckResult {
    kv.put("a", b"ab\xff").await?;
    check_every_operator(kv, "a", [value(b"ab"), value(b"ab\xff"), value(b"ac")]).await?;
    check_every_operator(kv, "a", [value(b"ab\x7f\x7f"), value(b"ab\xff"), value(b"ab\xff\0")])
        .await
}

async fn lease_of_a_key_without_one_compares_as_zero(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    check_every_operator(kv, "a", [-1, 0, 1].map(lease_operand)).await
}

async fn leases_compare_as_signed_numbers(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    check_every_operator(kv, "a", [i64::MIN, id.get(), i64::MAX].map(lease_operand)).await
}

async fn deleted_key_compares_as_absent(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    kv.delete("a").await?;
    ensure!(holds(kv, [Compare::absent("a")]).await?, "a deleted key has a version");
    let created = Compare::create_revision("a", Equal, Revision::ZERO);
    ensure!(holds(kv, [created]).await?, "a deleted key has a create revision");
    Ok(())
}

async fn recreated_key_compares_by_its_new_revisions(kv: &Client) -> CheckResult {
    let [first] = puts(kv, [("a", "1")]).await?;
    kv.delete("a").await?;
    puts(kv, [("a", "1")]).await?;
    let same = Compare::create_revision("a", Equal, first);
    ensure!(!holds(kv, [same]).await?, "the old create revision still holds");
    ensure!(holds(kv, [Compare::version("a", Equal, 1)]).await?, "the version is not 1");
    Ok(())
}

async fn txn_succeeds_only_if_every_compare_holds(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("b", "1")]).await?;
    let (a, b) = (Compare::exists("a"), Compare::exists("b"));
    ensure!(holds(kv, [a.clone(), b.clone()]).await?, "two compares that hold failed");
    ensure!(!holds(kv, [a, b, Compare::exists("c")]).await?, "a compare on an absent key held");
    Ok(())
}

async fn range_compare_holds_if_every_key_meets_it(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("b", "1"), ("c", "1")]).await?;
    let each_once = Compare::version(KeyRange::between("a", "d"), Equal, 1);
    ensure!(holds(kv, [each_once]).await?, "the compare failed, but holds for every key");
    Ok(())
}

async fn range_compare_fails_if_one_key_does_not_meet_it(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("b", "1"), ("b", "1"), ("c", "1")]).await?;
    for op in [Equal, NotEqual] {
        let compare = Compare::version(KeyRange::between("a", "d"), op, 1);
        ensure!(!holds(kv, [compare]).await?, "{op:?} held, but does not hold for every key");
    }
    Ok(())
}

async fn range_compare_ignores_keys_outside_the_range(kv: &Client) -> CheckResult {
    puts(kv, [("a", "2"), ("b", "1"), ("bb", "1"), ("c", "2")]).await?;
    let inside = Compare::value(KeyRange::between("b", "c"), Equal, "1");
    ensure!(holds(kv, [inside]).await?, "a key outside the range was compared");
    Ok(())
}

async fn prefix_compare_covers_keys_with_the_prefix(kv: &Client) -> CheckResult {
    puts(kv, [("p/1", "1"), ("p0", "1")]).await?;
    ensure!(
        holds(kv, [Compare::exists(KeyRange::prefix("p/"))]).await?,
        "a key with the prefix was not compared"
    );
    kv.delete("p/1").await?;
    ensure!(
        holds(kv, [Compare::absent(KeyRange::prefix("p/"))]).await?,
        "a key without the prefix was compared"
    );
    Ok(())
}

async fn unbounded_compare_covers_all_later_keys(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("z", "1"), ("z", "2")]).await?;
    let once = |from| Compare::version(KeyRange::starting_at(from), Equal, 1);
    ensure!(!holds(kv, [once("a")]).await?, "a later key was not compared");
    ensure!(
        holds(kv, [Compare::absent(KeyRange::starting_at("zz"))]).await?,
        "a range after the last key is not empty"
    );
    Ok(())
}

async fn compare_on_an_empty_range_acts_like_one_absent_key(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("c", "1")]).await?;
    let empty = KeyRange::between("b", "c");
    ensure!(holds(kv, [Compare::absent(&empty)]).await?, "version = 0 failed");
    ensure!(!holds(kv, [Compare::exists(&empty)]).await?, "version > 0 held");
    ensure!(!holds(kv, [Compare::version(&empty, NotEqual, 0)]).await?, "version != 0 held");
    Ok(())
}

async fn compare_on_an_inverted_range_acts_like_one_absent_key(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("b", "1")]).await?;
    let inverted = KeyRange::from_wire("c", "a");
    ensure!(holds(kv, [Compare::absent(&inverted)]).await?, "version = 0 failed");
    ensure!(!holds(kv, [Compare::exists(&inverted)]).await?, "version > 0 held");
    Ok(())
}

async fn value_compare_on_an_empty_range_is_false(kv: &Client) -> CheckResult {
    for op in [Equal, NotEqual, Greater, Less] {
        let compare = Compare::value(KeyRange::prefix("a"), op, "");
        ensure!(!holds(kv, [compare]).await?, "{op:?} held");
    }
    Ok(())
}

async fn range_value_compare_checks_every_key(kv: &Client) -> CheckResult {
    puts(kv, [("a", "x"), ("b", "y")]).await?;
    let all = KeyRange::between("a", "c");
    ensure!(
        holds(kv, [Compare::value(&all, NotEqual, "z")]).await?,
        "the compare failed, but holds for every key"
    );
    ensure!(
        !holds(kv, [Compare::value(&all, NotEqual, "y")]).await?,
        "the compare held, but does not hold for b"
    );
    Ok(())
}

async fn compare_on_an_empty_key_is_refused(kv: &Client) -> CheckResult {
    let txn = Txn::new().when([Compare::absent("")]).and_then([Put::new("a", "1")]);
    expect_refused(kv.txn(txn).await, ErrorKind::EmptyKey)?;
    Ok(())
}

async fn mod_revision_compare_prevents_a_lost_update(kv: &Client) -> CheckResult {
    let [read] = puts(kv, [("a", "1")]).await?;
    puts(kv, [("a", "other")]).await?;
    let unchanged = Compare::mod_revision("a", Equal, read);
    let txn = Txn::new().when([unchanged]).and_then([Put::new("a", "mine")]);
    ensure!(
        !kv.txn(txn).await?.succeeded,
        "the transaction overwrote a change that it had not read"
    );
    ensure_eq!(get(kv, "a").await?.value, "other");
    Ok(())
}

async fn two_compares_of_one_key_must_both_hold(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("a", "1")]).await?;
    let above = |version| Compare::version("a", Greater, version);
    let below = |version| Compare::version("a", Less, version);
    ensure!(holds(kv, [above(1), below(3)]).await?, "two compares that hold failed");
    ensure!(!holds(kv, [above(2), below(4)]).await?, "a compare that does not hold was ignored");
    Ok(())
}
