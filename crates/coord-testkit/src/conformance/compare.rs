//! The conditions of a transaction: each target by each operator, on keys that exist and on keys
//! that do not, on ranges, and together.

use bytes::Bytes;
use coord_core::{
    Client, KvBackend,
    error::ErrorKind,
    kv::{Compare, CompareOp, CompareOperand, KeyRange, LeaseId, Put, Revision, Txn},
};

use super::steps::{Checked, get, lease, put_on, puts, refused};
use super::table;

table! { Compare;
    no_compare_at_all_holds,
    version_of_a_present_key_compares_by_every_operator,
    create_revision_of_a_present_key_compares_by_every_operator,
    mod_revision_of_a_present_key_compares_by_every_operator,
    value_of_a_present_key_compares_by_every_operator,
    lease_of_a_present_key_compares_by_every_operator,
    version_of_an_absent_key_compares_as_zero,
    create_revision_of_an_absent_key_compares_as_zero,
    mod_revision_of_an_absent_key_compares_as_zero,
    lease_of_an_absent_key_compares_as_zero,
    compare_on_value_of_absent_key_is_false_even_not_equal,
    compare_on_value_of_absent_key_is_false_even_with_an_empty_value,
    empty_value_compares_as_the_smallest,
    values_compare_bytewise,
    lease_of_a_key_without_one_compares_as_zero,
    leases_compare_as_signed_numbers,
    deleted_key_compares_as_absent,
    recreated_key_compares_by_its_new_life,
    compares_hold_only_if_all_do,
    range_compare_holds_if_every_key_meets_it,
    range_compare_fails_if_one_key_does_not_meet_it,
    range_compare_looks_at_no_key_outside,
    prefix_compare_covers_its_extensions,
    compare_without_end_covers_all_later_keys,
    compare_on_an_empty_range_acts_like_one_absent_key,
    compare_on_an_inverted_range_acts_like_one_absent_key,
    compare_on_value_of_an_empty_range_is_false,
    range_compare_on_value_asks_every_key,
    compare_on_an_empty_key_is_refused,
    mod_revision_compare_guards_against_a_lost_update,
    compare_of_the_same_key_twice_bounds_it_from_both_sides,
}

use CompareOp::{Equal, Greater, Less, NotEqual};

/// Whether a transaction with these conditions takes its success branch.
async fn holds<const N: usize>(kv: &Client, compares: [Compare; N]) -> Checked<bool> {
    Ok(kv.txn(Txn::new().when(compares)).await?.succeeded)
}

/// Passes if the key stands to three operands as above the first, at the second, below the third.
async fn ordered(kv: &Client, key: &str, operands: [CompareOperand; 3]) -> Checked {
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

async fn no_compare_at_all_holds(kv: &Client) -> Checked {
    ensure!(holds(kv, []).await?, "a transaction without conditions failed");
    Ok(())
}

async fn version_of_a_present_key_compares_by_every_operator(kv: &Client) -> Checked {
    puts(kv, [("a", "1"), ("a", "2")]).await?;
    ordered(kv, "a", [1, 2, 3].map(CompareOperand::Version)).await
}

async fn create_revision_of_a_present_key_compares_by_every_operator(kv: &Client) -> Checked {
    let [created, _] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    let around = [created.previous(), created, created.next()];
    ordered(kv, "a", around.map(CompareOperand::CreateRevision)).await
}

async fn mod_revision_of_a_present_key_compares_by_every_operator(kv: &Client) -> Checked {
    let [_, changed] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    let around = [changed.previous(), changed, changed.next()];
    ordered(kv, "a", around.map(CompareOperand::ModRevision)).await
}

async fn value_of_a_present_key_compares_by_every_operator(kv: &Client) -> Checked {
    puts(kv, [("a", "m")]).await?;
    ordered(kv, "a", [value(b"l"), value(b"m"), value(b"n")]).await
}

async fn lease_of_a_present_key_compares_by_every_operator(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    put_on(kv, id, "a").await?;
    let around = [id.get() - 1, id.get(), id.get() + 1];
    ordered(kv, "a", around.map(lease_operand)).await
}

async fn version_of_an_absent_key_compares_as_zero(kv: &Client) -> Checked {
    ordered(kv, "a", [-1, 0, 1].map(CompareOperand::Version)).await
}

async fn create_revision_of_an_absent_key_compares_as_zero(kv: &Client) -> Checked {
    ordered(kv, "a", [-1, 0, 1].map(Revision).map(CompareOperand::CreateRevision)).await
}

async fn mod_revision_of_an_absent_key_compares_as_zero(kv: &Client) -> Checked {
    ordered(kv, "a", [-1, 0, 1].map(Revision).map(CompareOperand::ModRevision)).await
}

async fn lease_of_an_absent_key_compares_as_zero(kv: &Client) -> Checked {
    ordered(kv, "a", [-1, 0, 1].map(lease_operand)).await
}

async fn compare_on_value_of_absent_key_is_false_even_not_equal(kv: &Client) -> Checked {
    for op in [Equal, NotEqual, Greater, Less] {
        ensure!(!holds(kv, [Compare::value("a", op, "x")]).await?, "{op:?} held");
    }
    Ok(())
}

async fn compare_on_value_of_absent_key_is_false_even_with_an_empty_value(kv: &Client) -> Checked {
    for op in [Equal, NotEqual, Greater, Less] {
        ensure!(!holds(kv, [Compare::value("a", op, "")]).await?, "{op:?} held");
    }
    Ok(())
}

async fn empty_value_compares_as_the_smallest(kv: &Client) -> Checked {
    kv.put("a", "").await?;
    ensure!(holds(kv, [Compare::value("a", Equal, "")]).await?, "empty is not empty");
    ensure!(holds(kv, [Compare::value("a", Less, b"\0")]).await?, "empty is not the smallest");
    Ok(())
}

async fn values_compare_bytewise(kv: &Client) -> Checked {
    kv.put("a", b"ab\xff").await?;
    ordered(kv, "a", [value(b"ab"), value(b"ab\xff"), value(b"ac")]).await?;
    ordered(kv, "a", [value(b"ab\x7f\x7f"), value(b"ab\xff"), value(b"ab\xff\0")]).await
}

async fn lease_of_a_key_without_one_compares_as_zero(kv: &Client) -> Checked {
    kv.put("a", "1").await?;
    ordered(kv, "a", [-1, 0, 1].map(lease_operand)).await
}

async fn leases_compare_as_signed_numbers(kv: &Client) -> Checked {
    let id = lease(kv).await?;
    put_on(kv, id, "a").await?;
    ordered(kv, "a", [i64::MIN, id.get(), i64::MAX].map(lease_operand)).await
}

async fn deleted_key_compares_as_absent(kv: &Client) -> Checked {
    kv.put("a", "1").await?;
    kv.delete("a").await?;
    ensure!(holds(kv, [Compare::absent("a")]).await?, "a deleted key has a version");
    let created = Compare::create_revision("a", Equal, Revision::ZERO);
    ensure!(holds(kv, [created]).await?, "a deleted key has a create revision");
    Ok(())
}

async fn recreated_key_compares_by_its_new_life(kv: &Client) -> Checked {
    let [first] = puts(kv, [("a", "1")]).await?;
    kv.delete("a").await?;
    puts(kv, [("a", "1")]).await?;
    let same = Compare::create_revision("a", Equal, first);
    ensure!(!holds(kv, [same]).await?, "the old create revision still holds");
    ensure!(holds(kv, [Compare::version("a", Equal, 1)]).await?, "the version is not 1");
    Ok(())
}

async fn compares_hold_only_if_all_do(kv: &Client) -> Checked {
    puts(kv, [("a", "1"), ("b", "1")]).await?;
    let (a, b) = (Compare::exists("a"), Compare::exists("b"));
    ensure!(holds(kv, [a.clone(), b.clone()]).await?, "both keys exist");
    ensure!(!holds(kv, [a, b, Compare::exists("c")]).await?, "the third key is absent");
    Ok(())
}

async fn range_compare_holds_if_every_key_meets_it(kv: &Client) -> Checked {
    puts(kv, [("a", "1"), ("b", "1"), ("c", "1")]).await?;
    let each_once = Compare::version(KeyRange::between("a", "d"), Equal, 1);
    ensure!(holds(kv, [each_once]).await?, "each key was put once");
    Ok(())
}

async fn range_compare_fails_if_one_key_does_not_meet_it(kv: &Client) -> Checked {
    puts(kv, [("a", "1"), ("b", "1"), ("b", "1"), ("c", "1")]).await?;
    for op in [Equal, NotEqual] {
        let compare = Compare::version(KeyRange::between("a", "d"), op, 1);
        ensure!(!holds(kv, [compare]).await?, "{op:?} held, but not for every key");
    }
    Ok(())
}

async fn range_compare_looks_at_no_key_outside(kv: &Client) -> Checked {
    puts(kv, [("a", "2"), ("b", "1"), ("bb", "1"), ("c", "2")]).await?;
    let inside = Compare::value(KeyRange::between("b", "c"), Equal, "1");
    ensure!(holds(kv, [inside]).await?, "the keys with another value are outside");
    Ok(())
}

async fn prefix_compare_covers_its_extensions(kv: &Client) -> Checked {
    puts(kv, [("line/1", "1"), ("line0", "1")]).await?;
    ensure!(holds(kv, [Compare::exists(KeyRange::prefix("line/"))]).await?, "line/1 exists");
    kv.delete("line/1").await?;
    ensure!(holds(kv, [Compare::absent(KeyRange::prefix("line/"))]).await?, "line/ is empty");
    Ok(())
}

async fn compare_without_end_covers_all_later_keys(kv: &Client) -> Checked {
    puts(kv, [("a", "1"), ("z", "1"), ("z", "2")]).await?;
    let once = |from| Compare::version(KeyRange::starting_at(from), Equal, 1);
    ensure!(!holds(kv, [once("a")]).await?, "z was put twice");
    ensure!(holds(kv, [Compare::absent(KeyRange::starting_at("zz"))]).await?, "nothing after z");
    Ok(())
}

async fn compare_on_an_empty_range_acts_like_one_absent_key(kv: &Client) -> Checked {
    puts(kv, [("a", "1"), ("c", "1")]).await?;
    let nobody = KeyRange::between("b", "c");
    ensure!(holds(kv, [Compare::absent(&nobody)]).await?, "version = 0 failed");
    ensure!(!holds(kv, [Compare::exists(&nobody)]).await?, "version > 0 held");
    ensure!(!holds(kv, [Compare::version(&nobody, NotEqual, 0)]).await?, "version != 0 held");
    Ok(())
}

async fn compare_on_an_inverted_range_acts_like_one_absent_key(kv: &Client) -> Checked {
    puts(kv, [("a", "1"), ("b", "1")]).await?;
    let inverted = KeyRange::from_wire("c", "a");
    ensure!(holds(kv, [Compare::absent(&inverted)]).await?, "version = 0 failed");
    ensure!(!holds(kv, [Compare::exists(&inverted)]).await?, "version > 0 held");
    Ok(())
}

async fn compare_on_value_of_an_empty_range_is_false(kv: &Client) -> Checked {
    for op in [Equal, NotEqual, Greater, Less] {
        let compare = Compare::value(KeyRange::prefix("a"), op, "");
        ensure!(!holds(kv, [compare]).await?, "{op:?} held");
    }
    Ok(())
}

async fn range_compare_on_value_asks_every_key(kv: &Client) -> Checked {
    puts(kv, [("a", "x"), ("b", "y")]).await?;
    let all = KeyRange::between("a", "c");
    ensure!(holds(kv, [Compare::value(&all, NotEqual, "z")]).await?, "no value is z");
    ensure!(!holds(kv, [Compare::value(&all, NotEqual, "y")]).await?, "one value is y");
    Ok(())
}

async fn compare_on_an_empty_key_is_refused(kv: &Client) -> Checked {
    let txn = Txn::new().when([Compare::absent("")]).and_then([Put::new("a", "1")]);
    refused(kv.txn(txn).await, ErrorKind::EmptyKey)?;
    Ok(())
}

async fn mod_revision_compare_guards_against_a_lost_update(kv: &Client) -> Checked {
    let [seen] = puts(kv, [("a", "1")]).await?;
    puts(kv, [("a", "other")]).await?;
    let unchanged = Compare::mod_revision("a", Equal, seen);
    let txn = Txn::new().when([unchanged]).and_then([Put::new("a", "mine")]);
    ensure!(!kv.txn(txn).await?.succeeded, "a change was overwritten unseen");
    ensure_eq!(get(kv, "a").await?.value, "other");
    Ok(())
}

async fn compare_of_the_same_key_twice_bounds_it_from_both_sides(kv: &Client) -> Checked {
    puts(kv, [("a", "1"), ("a", "1")]).await?;
    let above = |version| Compare::version("a", Greater, version);
    let below = |version| Compare::version("a", Less, version);
    ensure!(holds(kv, [above(1), below(3)]).await?, "the version is 2");
    ensure!(!holds(kv, [above(2), below(4)]).await?, "the version is not 3");
    Ok(())
}
