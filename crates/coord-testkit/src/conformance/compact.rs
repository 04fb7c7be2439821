//! Compaction cases: which history is removed, which is kept, and which compactions are refused.

use coord_core::{
    Client,
    error::ErrorKind,
    kv::{Compact, Delete, KeyRange, Op, Put, Range, Revision, Txn},
};

use super::helpers::{
    CheckResult, all_keys, compact, current_revision, expect_refused, get, get_at, grant_lease,
    keys_of, lease_keys, put_on, puts, run_ops,
};
use super::table;

table! { Compact;
    compaction_makes_earlier_revisions_unreadable,
    compaction_at_the_current_revision_is_accepted,
    compaction_keeps_reads_at_its_revision_unchanged,
    compaction_keeps_every_later_revision,
    compaction_leaves_current_keys_unchanged,
    compaction_keeps_create_revision_and_version_of_survivors,
    key_put_at_the_compact_revision_is_readable_there,
    key_deleted_before_the_compact_revision_is_absent_there,
    key_deleted_at_the_compact_revision_is_absent_there,
    key_deleted_after_the_compact_revision_is_readable_there,
    key_put_after_compacted_tombstone_starts_at_version_one,
    compaction_keeps_keys_attached_to_leases,
    compaction_at_the_same_revision_twice_is_refused,
    compaction_below_an_earlier_one_is_refused,
    compaction_above_an_earlier_one_is_accepted,
    compaction_at_a_future_revision_is_refused,
    compaction_at_a_negative_revision_is_refused,
    compaction_at_zero_is_accepted_once: FreshStore,
    physical_compaction_gives_the_same_responses,
    refused_compaction_keeps_history,
    compaction_at_delete_and_put_of_one_key_is_refused: UnboundedDeletes RefusesHazards,
    compaction_above_a_refused_one_is_accepted: UnboundedDeletes RefusesHazards,
}

async fn compaction_makes_earlier_revisions_unreadable(kv: &Client) -> CheckResult {
    let [first, second, third] = puts(kv, [("a", "1"), ("a", "2"), ("a", "3")]).await?;
    compact(kv, third).await?;
    for past in [first, second] {
        expect_refused(kv.range(Range::new("a").at(past)).await, ErrorKind::Compacted)?;
        expect_refused(kv.range(Range::new("absent").at(past)).await, ErrorKind::Compacted)?;
    }
    Ok(())
}

async fn compaction_at_the_current_revision_is_accepted(kv: &Client) -> CheckResult {
    let [current] = puts(kv, [("a", "1")]).await?;
    compact(kv, current).await?;
    ensure_eq!(get(kv, "a").await?.value, "1");
    ensure_eq!(get_at(kv, "a", current).await?.value, "1");
    Ok(())
}

async fn compaction_keeps_reads_at_its_revision_unchanged(kv: &Client) -> CheckResult {
    let [.., at, _, _] =
        puts(kv, [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("a", "3"), ("d", "1")]).await?;
    let read = || kv.range(Range::new(KeyRange::all()).at(at));
    let before = read().await?.kvs;
    compact(kv, at).await?;
    ensure_eq!(read().await?.kvs, before);
    Ok(())
}

async fn compaction_keeps_every_later_revision(kv: &Client) -> CheckResult {
    let [_, two, three, four] = puts(kv, [("a", "1"), ("a", "2"), ("a", "3"), ("a", "4")]).await?;
    compact(kv, two).await?;
    ensure_eq!(get_at(kv, "a", three).await?.value, "3");
    ensure_eq!(get_at(kv, "a", four).await?.value, "4");
    Ok(())
}

async fn compaction_leaves_current_keys_unchanged(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1")]).await?;
    let deleted = kv.delete("b").await?.header.revision;
    let before = kv.range(Range::new(KeyRange::all())).await?.kvs;
    compact(kv, deleted).await?;
    ensure_eq!(kv.range(Range::new(KeyRange::all())).await?.kvs, before);
    Ok(())
}

async fn compaction_keeps_create_revision_and_version_of_survivors(kv: &Client) -> CheckResult {
    let [first, _, third] = puts(kv, [("a", "1"), ("a", "2"), ("a", "3")]).await?;
    compact(kv, third).await?;
    let fourth = kv.put("a", "4").await?.header.revision;
    let a = get(kv, "a").await?;
    ensure_eq!((a.create_revision, a.mod_revision, a.version), (first, fourth, 4));
    Ok(())
}

async fn key_put_at_the_compact_revision_is_readable_there(kv: &Client) -> CheckResult {
    let [_, second, _] = puts(kv, [("a", "1"), ("a", "2"), ("a", "3")]).await?;
    compact(kv, second).await?;
    ensure_eq!(get_at(kv, "a", second).await?.value, "2");
    Ok(())
}

async fn key_deleted_before_the_compact_revision_is_absent_there(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    kv.delete("a").await?;
    let [after] = puts(kv, [("b", "1")]).await?;
    compact(kv, after).await?;
    ensure_eq!(keys_of(kv, Range::new(KeyRange::all()).at(after)).await?, ["b"]);
    Ok(())
}

async fn key_deleted_at_the_compact_revision_is_absent_there(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    let deleted = kv.delete("a").await?.header.revision;
    kv.put("a", "2").await?;
    compact(kv, deleted).await?;
    ensure_eq!(kv.range(Range::new("a").at(deleted)).await?.count, 0);
    ensure_eq!(get(kv, "a").await?.version, 1);
    Ok(())
}

async fn key_deleted_after_the_compact_revision_is_readable_there(kv: &Client) -> CheckResult {
    let [put] = puts(kv, [("a", "1")]).await?;
    kv.delete("a").await?;
    compact(kv, put).await?;
    ensure_eq!(get_at(kv, "a", put).await?.value, "1");
    Ok(())
}

async fn key_put_after_compacted_tombstone_starts_at_version_one(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("a", "2")]).await?;
    kv.delete("a").await?;
    let [other] = puts(kv, [("b", "1")]).await?;
    compact(kv, other).await?;
    let [again] = puts(kv, [("a", "3")]).await?;
    let a = get(kv, "a").await?;
    ensure_eq!((a.create_revision, a.version), (again, 1));
    Ok(())
}

async fn compaction_keeps_keys_attached_to_leases(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    put_on(kv, id, "a").await?;
    let again = put_on(kv, id, "a").await?;
    compact(kv, again).await?;
    ensure_eq!(lease_keys(kv, id).await?, ["a"]);
    kv.lease_revoke(id).await?;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn compaction_at_the_same_revision_twice_is_refused(kv: &Client) -> CheckResult {
    let [revision] = puts(kv, [("a", "1")]).await?;
    compact(kv, revision).await?;
    expect_refused(kv.compact(Compact::new(revision)).await, ErrorKind::Compacted)?;
    Ok(())
}

async fn compaction_below_an_earlier_one_is_refused(kv: &Client) -> CheckResult {
    let [first, second] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, second).await?;
    expect_refused(kv.compact(Compact::new(first)).await, ErrorKind::Compacted)?;
    expect_refused(kv.compact(Compact::new(Revision::ZERO)).await, ErrorKind::Compacted)?;
    Ok(())
}

async fn compaction_above_an_earlier_one_is_accepted(kv: &Client) -> CheckResult {
    let [first, second] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, first).await?;
    compact(kv, second).await?;
    expect_refused(kv.range(Range::new("a").at(first)).await, ErrorKind::Compacted)?;
    Ok(())
}

async fn compaction_at_a_future_revision_is_refused(kv: &Client) -> CheckResult {
    let next = current_revision(kv).await?.next();
    expect_refused(kv.compact(Compact::new(next)).await, ErrorKind::FutureRevision)?;
    Ok(())
}

async fn compaction_at_a_negative_revision_is_refused(kv: &Client) -> CheckResult {
    expect_refused(kv.compact(Compact::new(Revision(-1))).await, ErrorKind::Compacted)?;
    Ok(())
}

async fn compaction_at_zero_is_accepted_once(kv: &Client) -> CheckResult {
    let [first] = puts(kv, [("a", "1")]).await?;
    compact(kv, Revision::ZERO).await?;
    expect_refused(kv.compact(Compact::new(Revision::ZERO)).await, ErrorKind::Compacted)?;
    ensure_eq!(get_at(kv, "a", first).await?.value, "1");
    Ok(())
}

async fn physical_compaction_gives_the_same_responses(kv: &Client) -> CheckResult {
    let [first, second, _] = puts(kv, [("a", "1"), ("a", "2"), ("a", "3")]).await?;
    let at = Compact { physical: true, ..Compact::new(second) };
    kv.compact(at).await?;
    expect_refused(kv.range(Range::new("a").at(first)).await, ErrorKind::Compacted)?;
    ensure_eq!(get_at(kv, "a", second).await?.value, "2");
    expect_refused(kv.compact(at).await, ErrorKind::Compacted)?;
    Ok(())
}

async fn refused_compaction_keeps_history(kv: &Client) -> CheckResult {
    let [first, second] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    expect_refused(kv.compact(Compact::new(second.next())).await, ErrorKind::FutureRevision)?;
    ensure_eq!(get_at(kv, "a", first).await?.value, "1");
    Ok(())
}

/// Deletes and puts `b` in one transaction, and returns the transaction's revision.
async fn replace_b(kv: &Client) -> CheckResult<Revision> {
    puts(kv, [("b", "1")]).await?;
    let delete = Delete::new(KeyRange::starting_at("b"));
    let ops = [Op::from(delete), Put::new("b", "2").into()];
    Ok(kv.txn(Txn::new().and_then(ops)).await?.header.revision)
}

/// etcd 3.5.30 loses the key in this compaction, and panics when the key is read.
async fn compaction_at_delete_and_put_of_one_key_is_refused(kv: &Client) -> CheckResult {
    let revision = replace_b(kv).await?;
    expect_refused(kv.compact(Compact::new(revision)).await, ErrorKind::Refused)?;
    ensure_eq!(get_at(kv, "b", revision.previous()).await?.value, "1");
    Ok(())
}

async fn compaction_above_a_refused_one_is_accepted(kv: &Client) -> CheckResult {
    let revision = replace_b(kv).await?;
    run_ops(kv, [Put::new("c", "1").into()]).await?;
    compact(kv, revision.next()).await?;
    ensure_eq!(all_keys(kv).await?, ["b", "c"]);
    Ok(())
}
