//! Revision cases: which requests create a revision, and which headers contain it.
//!
//! The store may have history, so a case first reads the current revision, and asserts revisions
//! relative to it.

use coord_core::{
    Client,
    error::ErrorKind,
    kv::{
        Compare, Delete, Header, KeyRange, LeaseGrant, LeaseTimeToLive, Op, Put, Range, Revision,
        Txn, Watch,
    },
};
use futures_util::future::join_all;

use super::helpers::{
    CheckResult, LEASE_TTL, all_keys, compact, current_revision, expect_refused, get, grant_lease,
    op_revision, puts, run_ops, txn_response, unused_lease_id,
};
use super::table;

table! { Revisions;
    fresh_store_is_at_revision_one: FreshStore,
    first_write_makes_revision_two: FreshStore,
    put_makes_exactly_one_revision,
    put_of_the_same_value_makes_a_revision,
    delete_of_many_keys_makes_exactly_one_revision,
    delete_of_nothing_makes_no_revision,
    read_makes_no_revision,
    txn_of_several_changes_makes_exactly_one_revision,
    all_changes_of_a_txn_share_its_revision,
    txn_without_ops_makes_no_revision,
    txn_that_only_reads_makes_no_revision,
    txn_that_deletes_nothing_makes_no_revision,
    refused_put_makes_no_revision,
    refused_txn_makes_no_revision,
    compaction_makes_no_revision,
    watch_makes_no_revision,
    lease_without_keys_makes_no_revision,
    concurrent_changes_get_a_revision_each,
    header_of_a_put_is_its_revision,
    header_of_a_delete_is_its_revision,
    header_of_a_delete_of_nothing_is_the_current_revision,
    header_of_a_historic_read_is_the_current_revision,
    header_of_a_txn_that_changes_is_its_revision,
    header_of_a_txn_that_changes_nothing_is_the_current_revision,
    op_headers_before_the_first_change_show_old_revision,
    op_headers_from_the_first_change_show_txn_revision,
    op_headers_carry_only_the_revision,
    header_of_a_nested_txn_is_empty,
    op_headers_inside_a_nested_txn_show_the_revision,
    headers_carry_one_cluster_and_member,
    first_put_sets_create_and_mod_revision_and_version_one,
    later_put_keeps_create_revision_and_raises_version,
    put_after_delete_starts_version_at_one,
    put_leaves_metadata_of_other_keys_unchanged,
}

async fn fresh_store_is_at_revision_one(kv: &Client) -> CheckResult {
    ensure_eq!(current_revision(kv).await?, Revision(1));
    Ok(())
}

async fn first_write_makes_revision_two(kv: &Client) -> CheckResult {
    ensure_eq!(kv.put("a", "1").await?.header.revision, Revision(2));
    Ok(())
}

async fn put_makes_exactly_one_revision(kv: &Client) -> CheckResult {
    let before = current_revision(kv).await?;
    kv.put("a", "1").await?;
    ensure_eq!(current_revision(kv).await?, before.next());
    Ok(())
}

async fn put_of_the_same_value_makes_a_revision(kv: &Client) -> CheckResult {
    let [first, second] = puts(kv, [("a", "1"), ("a", "1")]).await?;
    ensure_eq!(second, first.next());
    ensure_eq!(get(kv, "a").await?.mod_revision, second);
    Ok(())
}

async fn delete_of_many_keys_makes_exactly_one_revision(kv: &Client) -> CheckResult {
    let [_, _, before] = puts(kv, [("a", "1"), ("b", "1"), ("c", "1")]).await?;
    kv.delete(KeyRange::between("a", "d")).await?;
    ensure_eq!(current_revision(kv).await?, before.next());
    Ok(())
}

async fn delete_of_nothing_makes_no_revision(kv: &Client) -> CheckResult {
    let before = current_revision(kv).await?;
    kv.delete("a").await?;
    kv.delete(KeyRange::prefix("a")).await?;
    ensure_eq!(current_revision(kv).await?, before);
    Ok(())
}

async fn read_makes_no_revision(kv: &Client) -> CheckResult {
    let [before] = puts(kv, [("a", "1")]).await?;
    all_keys(kv).await?;
    get(kv, "a").await?;
    ensure_eq!(current_revision(kv).await?, before);
    Ok(())
}

async fn txn_of_several_changes_makes_exactly_one_revision(kv: &Client) -> CheckResult {
    let [before] = puts(kv, [("c", "1")]).await?;
    let put = |key| Op::from(Put::new(key, "1"));
    let nested = Txn::new().and_then([put("d"), put("e")]).into();
    run_ops(kv, [put("a"), put("b"), Delete::new("c").into(), nested]).await?;
    ensure_eq!(current_revision(kv).await?, before.next());
    Ok(())
}

async fn all_changes_of_a_txn_share_its_revision(kv: &Client) -> CheckResult {
    let nested = Txn::new().and_then([Put::new("b", "1")]);
    let response = run_ops(kv, [Put::new("a", "1").into(), nested.into()]).await?;
    let revision = response.header.revision;
    ensure_eq!(get(kv, "a").await?.mod_revision, revision);
    ensure_eq!(get(kv, "b").await?.mod_revision, revision);
    Ok(())
}

async fn txn_without_ops_makes_no_revision(kv: &Client) -> CheckResult {
    let before = current_revision(kv).await?;
    kv.txn(Txn::new()).await?;
    kv.txn(Txn::new().when([Compare::absent("a")])).await?;
    kv.txn(Txn::new().when([Compare::exists("a")]).and_then([Put::new("a", "1")])).await?;
    ensure_eq!(current_revision(kv).await?, before);
    Ok(())
}

async fn txn_that_only_reads_makes_no_revision(kv: &Client) -> CheckResult {
    let [before] = puts(kv, [("a", "1")]).await?;
    let nested = Txn::new().and_then([Range::new("a")]);
    run_ops(kv, [Range::new("a").into(), nested.into()]).await?;
    ensure_eq!(current_revision(kv).await?, before);
    Ok(())
}

async fn txn_that_deletes_nothing_makes_no_revision(kv: &Client) -> CheckResult {
    let before = current_revision(kv).await?;
    let nested = Txn::new().and_then([Delete::new("b")]);
    run_ops(kv, [Delete::new("a").into(), nested.into()]).await?;
    ensure_eq!(current_revision(kv).await?, before);
    Ok(())
}

async fn refused_put_makes_no_revision(kv: &Client) -> CheckResult {
    let missing = unused_lease_id(kv).await?;
    let before = current_revision(kv).await?;
    let put = Put::new("a", "1").lease(missing);
    expect_refused(kv.put_with(put).await, ErrorKind::LeaseNotFound)?;
    ensure_eq!(current_revision(kv).await?, before);
    Ok(())
}

async fn refused_txn_makes_no_revision(kv: &Client) -> CheckResult {
    let before = current_revision(kv).await?;
    let ops = [Put::new("a", "1"), Put::new("b", "").ignore_value()];
    expect_refused(kv.txn(Txn::new().and_then(ops)).await, ErrorKind::KeyNotFound)?;
    ensure_eq!(current_revision(kv).await?, before);
    Ok(())
}

async fn compaction_makes_no_revision(kv: &Client) -> CheckResult {
    let [_, before] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    compact(kv, before).await?;
    ensure_eq!(current_revision(kv).await?, before);
    Ok(())
}

async fn watch_makes_no_revision(kv: &Client) -> CheckResult {
    let before = current_revision(kv).await?;
    let mut watch = kv.watch(Watch::new("a")).await?;
    watch.request_progress();
    drop(watch);
    ensure_eq!(current_revision(kv).await?, before);
    Ok(())
}

async fn lease_without_keys_makes_no_revision(kv: &Client) -> CheckResult {
    let before = current_revision(kv).await?;
    let id = grant_lease(kv).await?;
    kv.lease_keep_alive(id).await?;
    kv.lease_time_to_live(LeaseTimeToLive::new(id)).await?;
    kv.leases().await?;
    kv.lease_revoke(id).await?;
    ensure_eq!(current_revision(kv).await?, before);
    Ok(())
}

async fn concurrent_changes_get_a_revision_each(kv: &Client) -> CheckResult {
    let before = current_revision(kv).await?;
    let responses = join_all((0..10).map(|i| kv.put(format!("k{i}"), "1"))).await;
    let mut revisions = Vec::new();
    for response in responses {
        revisions.push(response?.header.revision.0);
    }
    revisions.sort_unstable();
    let expected: Vec<_> = (before.0 + 1..=before.0 + 10).collect();
    ensure_eq!(revisions, expected);
    Ok(())
}

async fn header_of_a_put_is_its_revision(kv: &Client) -> CheckResult {
    let revision = kv.put("a", "1").await?.header.revision;
    ensure_eq!(get(kv, "a").await?.mod_revision, revision);
    Ok(())
}

async fn header_of_a_delete_is_its_revision(kv: &Client) -> CheckResult {
    let [put] = puts(kv, [("a", "1")]).await?;
    ensure_eq!(kv.delete("a").await?.header.revision, put.next());
    Ok(())
}

async fn header_of_a_delete_of_nothing_is_the_current_revision(kv: &Client) -> CheckResult {
    let [put] = puts(kv, [("a", "1")]).await?;
    ensure_eq!(kv.delete("b").await?.header.revision, put);
    Ok(())
}

async fn header_of_a_historic_read_is_the_current_revision(kv: &Client) -> CheckResult {
    let [first, second] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    let response = kv.range(Range::new("a").at(first)).await?;
    ensure_eq!(response.header.revision, second);
    Ok(())
}

async fn header_of_a_txn_that_changes_is_its_revision(kv: &Client) -> CheckResult {
    let before = current_revision(kv).await?;
    let response = run_ops(kv, [Put::new("a", "1").into()]).await?;
    ensure_eq!(response.header.revision, before.next());
    ensure_eq!(get(kv, "a").await?.mod_revision, before.next());
    Ok(())
}

async fn header_of_a_txn_that_changes_nothing_is_the_current_revision(kv: &Client) -> CheckResult {
    let [before] = puts(kv, [("a", "1")]).await?;
    let untaken = Txn::new().when([Compare::absent("a")]).and_then([Put::new("a", "2")]);
    ensure_eq!(kv.txn(untaken).await?.header.revision, before);
    ensure_eq!(run_ops(kv, [Delete::new("b").into()]).await?.header.revision, before);
    Ok(())
}

async fn op_headers_before_the_first_change_show_old_revision(kv: &Client) -> CheckResult {
    let before = current_revision(kv).await?;
    let nothing = Delete::new("b").into();
    let ops = [Range::new("a").into(), nothing, Put::new("a", "1").into()];
    let response = run_ops(kv, ops).await?;
    ensure_eq!(op_revision(&response.responses[0]), before, "the range");
    ensure_eq!(op_revision(&response.responses[1]), before, "the delete of nothing");
    Ok(())
}

async fn op_headers_from_the_first_change_show_txn_revision(kv: &Client) -> CheckResult {
    let after = current_revision(kv).await?.next();
    let nothing = Delete::new("b").into();
    let response =
        run_ops(kv, [Put::new("a", "1").into(), Range::new("a").into(), nothing]).await?;
    let revisions: Vec<_> = response.responses.iter().map(op_revision).collect();
    ensure_eq!(revisions, [after, after, after]);
    Ok(())
}

async fn op_headers_carry_only_the_revision(kv: &Client) -> CheckResult {
    let response = run_ops(kv, [Put::new("a", "1").into()]).await?;
    let header = response.responses[0].as_put().map(|put| put.header);
    ensure_eq!(header, Some(Header::at(response.header.revision)));
    Ok(())
}

async fn header_of_a_nested_txn_is_empty(kv: &Client) -> CheckResult {
    let nested = Txn::new().and_then([Put::new("a", "1")]);
    let response = run_ops(kv, [nested.into()]).await?;
    ensure_eq!(txn_response(&response, 0)?.header, Header::default());
    Ok(())
}

async fn op_headers_inside_a_nested_txn_show_the_revision(kv: &Client) -> CheckResult {
    let before = current_revision(kv).await?;
    let nested = Txn::new().and_then([Op::from(Range::new("a")), Put::new("a", "1").into()]);
    let response = run_ops(kv, [nested.into()]).await?;
    let inner = &txn_response(&response, 0)?.responses;
    let revisions: Vec<_> = inner.iter().map(op_revision).collect();
    ensure_eq!(revisions, [before, before.next()]);
    Ok(())
}

async fn headers_carry_one_cluster_and_member(kv: &Client) -> CheckResult {
    let lease = kv.lease_grant(LeaseGrant::new(LEASE_TTL)).await?;
    let headers = [
        lease.header,
        kv.range(Range::new("a")).await?.header,
        kv.put("a", "1").await?.header,
        kv.delete("a").await?.header,
        kv.txn(Txn::new().and_then([Put::new("a", "1")])).await?.header,
        kv.watch(Watch::new("a")).await?.header(),
        kv.lease_keep_alive(lease.id).await?.header,
        kv.lease_revoke(lease.id).await?.header,
    ];
    for header in headers {
        let ids = (header.cluster_id, header.member_id);
        ensure_eq!(ids, (headers[0].cluster_id, headers[0].member_id));
    }
    Ok(())
}

async fn first_put_sets_create_and_mod_revision_and_version_one(kv: &Client) -> CheckResult {
    let [revision] = puts(kv, [("a", "1")]).await?;
    let a = get(kv, "a").await?;
    ensure_eq!((a.create_revision, a.mod_revision, a.version), (revision, revision, 1));
    Ok(())
}

async fn later_put_keeps_create_revision_and_raises_version(kv: &Client) -> CheckResult {
    let [first, _, third] = puts(kv, [("a", "1"), ("a", "2"), ("a", "3")]).await?;
    let a = get(kv, "a").await?;
    ensure_eq!((a.create_revision, a.mod_revision, a.version), (first, third, 3));
    Ok(())
}

async fn put_after_delete_starts_version_at_one(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("a", "2")]).await?;
    kv.delete("a").await?;
    let [again] = puts(kv, [("a", "3")]).await?;
    let a = get(kv, "a").await?;
    ensure_eq!((a.create_revision, a.mod_revision, a.version), (again, again, 1));
    Ok(())
}

async fn put_leaves_metadata_of_other_keys_unchanged(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1")]).await?;
    let before = get(kv, "a").await?;
    puts(kv, [("aa", "1"), ("b", "1")]).await?;
    ensure_eq!(get(kv, "a").await?, before);
    Ok(())
}
