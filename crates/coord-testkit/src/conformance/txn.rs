//! Transaction cases: which branch runs, the order of the operations, and what each operation
//! reads.

use coord_core::{
    Client,
    error::ErrorKind,
    kv::{
        Compare, CompareOp, Delete, EventKind, KeyRange, Op, OpResponse, Put, Range, SortOrder,
        SortTarget, Txn,
    },
};
use futures_util::future::join_all;

use super::helpers::{
    CaseFailure, CheckResult, all_keys, current_revision, expect_refused, get, grant_lease,
    key_names, lease_keys, next_batch, puts, range_response, run_ops, txn_response, watch_all,
};
use super::table;

table! { Txn;
    txn_runs_its_success_ops_when_its_compares_hold,
    txn_runs_its_failure_ops_when_a_compare_fails,
    txn_without_ops_reports_whether_its_compares_hold,
    txn_returns_op_responses_in_order,
    put_op_returns_the_previous_key_on_request,
    delete_op_counts_and_returns_keys_on_request,
    put_op_attaches_and_detaches_leases,
    range_op_sees_earlier_puts,
    range_op_sees_earlier_deletes,
    range_op_does_not_see_later_puts,
    range_op_supports_every_option,
    count_op_counts_earlier_changes,
    historic_range_op_ignores_the_txns_own_changes,
    range_op_at_the_current_revision_shows_the_state_before,
    range_op_at_the_txns_own_revision_is_refused_as_future,
    second_delete_op_deletes_the_remaining_keys,
    nested_txn_takes_the_branch_of_its_own_compares,
    nested_compare_does_not_see_earlier_writes_of_the_same_txn,
    nested_compare_does_not_see_earlier_deletes_of_the_same_txn,
    nested_range_sees_earlier_writes_of_the_same_txn,
    range_after_a_nested_txn_sees_its_writes,
    deeply_nested_compares_are_evaluated_before_any_op,
    nested_branch_that_is_not_taken_changes_nothing,
    nested_delete_sees_the_put_of_an_earlier_sibling,
    nested_txn_without_ops_is_accepted,
    concurrent_creations_of_a_key_succeed_once,
    concurrent_guarded_increments_lose_no_update,
    reads_of_a_txn_all_see_one_revision,
    unbounded_delete_then_put_recreates_the_key: UnboundedDeletes,
    unbounded_delete_then_put_delivers_both_in_one_batch: UnboundedDeletes,
    put_then_unbounded_delete_deletes_the_key: UnboundedDeletes,
    put_that_keeps_fields_after_unbounded_delete_is_refused: UnboundedDeletes RefusesHazards,
}

fn put(key: &str, value: &str) -> Op {
    Put::new(key, value).into()
}

fn read(key: &str) -> Op {
    Range::new(key).into()
}

async fn txn_runs_its_success_ops_when_its_compares_hold(kv: &Client) -> CheckResult {
    let txn = Txn::new().when([Compare::absent("a")]);
    let response = kv.txn(txn.and_then([put("a", "1")]).or_else([put("b", "1")])).await?;
    ensure!(response.succeeded, "a compare that holds failed");
    ensure_eq!(all_keys(kv).await?, ["a"]);
    Ok(())
}

async fn txn_runs_its_failure_ops_when_a_compare_fails(kv: &Client) -> CheckResult {
    let txn = Txn::new().when([Compare::exists("a")]);
    let response = kv.txn(txn.and_then([put("a", "1")]).or_else([put("b", "1")])).await?;
    ensure!(!response.succeeded, "a compare that does not hold succeeded");
    ensure_eq!(all_keys(kv).await?, ["b"]);
    Ok(())
}

async fn txn_without_ops_reports_whether_its_compares_hold(kv: &Client) -> CheckResult {
    let response = kv.txn(Txn::new().when([Compare::absent("a")])).await?;
    ensure_eq!((response.succeeded, response.responses.len()), (true, 0));
    let response = kv.txn(Txn::new().when([Compare::exists("a")])).await?;
    ensure_eq!((response.succeeded, response.responses.len()), (false, 0));
    Ok(())
}

async fn txn_returns_op_responses_in_order(kv: &Client) -> CheckResult {
    let nested = Txn::new().and_then([read("a")]);
    let response =
        run_ops(kv, [put("a", "1"), nested.into(), Delete::new("b").into(), read("a")]).await?;
    let kinds = response.responses.iter().map(|response| match response {
        OpResponse::Range(_) => "range",
        OpResponse::Put(_) => "put",
        OpResponse::Delete(_) => "delete",
        OpResponse::Txn(_) => "txn",
    });
    ensure_eq!(kinds.collect::<Vec<_>>(), ["put", "txn", "delete", "range"]);
    Ok(())
}

async fn put_op_returns_the_previous_key_on_request(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("b", "1")]).await?;
    let before = get(kv, "a").await?;
    let response = run_ops(kv, [Put::new("a", "2").with_prev_kv().into(), put("b", "2")]).await?;
    let prev_kv = |index: usize| response.responses[index].as_put().map(|put| put.prev_kv.clone());
    ensure_eq!(prev_kv(0), Some(Some(before)));
    ensure_eq!(prev_kv(1), Some(None));
    Ok(())
}

async fn delete_op_counts_and_returns_keys_on_request(kv: &Client) -> CheckResult {
    puts(kv, [("b", "1"), ("a", "1"), ("c", "1")]).await?;
    let delete = Delete::new(KeyRange::between("a", "c")).with_prev_kv();
    let response = run_ops(kv, [delete.into(), Delete::new("c").into()]).await?;
    let deleted = |index: usize| {
        let delete = response.responses[index].as_delete()?;
        Some((delete.deleted, key_names(&delete.prev_kvs)))
    };
    ensure_eq!(deleted(0), Some((2, vec!["a".into(), "b".into()])));
    ensure_eq!(deleted(1), Some((1, vec![])));
    Ok(())
}

async fn put_op_attaches_and_detaches_leases(kv: &Client) -> CheckResult {
    let id = grant_lease(kv).await?;
    run_ops(kv, [Put::new("a", "1").lease(id).into(), Put::new("b", "1").lease(id).into()]).await?;
    ensure_eq!(lease_keys(kv, id).await?, ["a", "b"]);
    run_ops(kv, [put("a", "2"), Delete::new("b").into()]).await?;
    ensure_eq!(lease_keys(kv, id).await?, [""; 0]);
    Ok(())
}

async fn range_op_sees_earlier_puts(kv: &Client) -> CheckResult {
    let response = run_ops(kv, [put("a", "1"), read("a")]).await?;
    let seen = &range_response(&response, 1)?.kvs;
    ensure_eq!(*seen, [get(kv, "a").await?]);
    Ok(())
}

async fn range_op_sees_earlier_deletes(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("b", "1")]).await?;
    let all = Range::new(KeyRange::all());
    let response = run_ops(kv, [Delete::new("a").into(), all.into()]).await?;
    ensure_eq!(key_names(&range_response(&response, 1)?.kvs), ["b"]);
    Ok(())
}

async fn range_op_does_not_see_later_puts(kv: &Client) -> CheckResult {
    let response = run_ops(kv, [read("a"), put("a", "1")]).await?;
    ensure_eq!(range_response(&response, 0)?.count, 0);
    Ok(())
}

async fn range_op_supports_every_option(kv: &Client) -> CheckResult {
    puts(kv, [("a", "3"), ("b", "1"), ("c", "2")]).await?;
    let range = Range::new(KeyRange::all()).limit(2).keys_only();
    let sorted = range.sorted(SortTarget::Value, SortOrder::Descending);
    let response = run_ops(kv, [put("d", "4"), sorted.into()]).await?;
    let range = range_response(&response, 1)?;
    ensure_eq!(key_names(&range.kvs), ["d", "a"]);
    ensure_eq!((range.count, range.more, range.kvs[0].value.len()), (4, true, 0));
    Ok(())
}

async fn count_op_counts_earlier_changes(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("b", "1")]).await?;
    let count = || Op::from(Range::new(KeyRange::all()).count_only());
    let ops = [count(), put("c", "1"), put("d", "1"), count(), Delete::new("a").into(), count()];
    let response = run_ops(kv, ops).await?;
    for (index, expected) in [(0, 2), (3, 4), (5, 3)] {
        ensure_eq!(range_response(&response, index)?.count, expected, "the count at {index}");
    }
    Ok(())
}

async fn historic_range_op_ignores_the_txns_own_changes(kv: &Client) -> CheckResult {
    let [first, _] = puts(kv, [("a", "1"), ("a", "2")]).await?;
    let response = run_ops(kv, [put("a", "3"), Range::new("a").at(first).into()]).await?;
    ensure_eq!(range_response(&response, 1)?.kvs[0].value, "1");
    Ok(())
}

async fn range_op_at_the_current_revision_shows_the_state_before(kv: &Client) -> CheckResult {
    let [current] = puts(kv, [("a", "1")]).await?;
    let at = Range::new(KeyRange::all()).at(current);
    let response = run_ops(kv, [put("a", "2"), put("b", "1"), at.into()]).await?;
    let seen = &range_response(&response, 2)?.kvs;
    ensure_eq!((seen.len(), &seen[0].value[..]), (1, &b"1"[..]));
    Ok(())
}

async fn range_op_at_the_txns_own_revision_is_refused_as_future(kv: &Client) -> CheckResult {
    let own = current_revision(kv).await?.next();
    let txn = Txn::new().and_then([put("a", "1"), Range::new("a").at(own).into()]);
    expect_refused(kv.txn(txn).await, ErrorKind::FutureRevision)?;
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn second_delete_op_deletes_the_remaining_keys(kv: &Client) -> CheckResult {
    puts(kv, [("a", "1"), ("b", "1"), ("c", "1")]).await?;
    let (one, all) = (Delete::new("b").into(), Delete::new(KeyRange::between("a", "d")).into());
    let response = run_ops(kv, [one, all]).await?;
    let deleted = |index: usize| response.responses[index].as_delete().map(|delete| delete.deleted);
    ensure_eq!((deleted(0), deleted(1)), (Some(1), Some(2)));
    Ok(())
}

async fn nested_txn_takes_the_branch_of_its_own_compares(kv: &Client) -> CheckResult {
    let nested = Txn::new().when([Compare::exists("a")]);
    let nested = nested.and_then([put("b", "then")]).or_else([put("b", "else")]);
    let response = run_ops(kv, [nested.into()]).await?;
    ensure!(response.succeeded && !txn_response(&response, 0)?.succeeded, "{response:?}");
    ensure_eq!(get(kv, "b").await?.value, "else");
    Ok(())
}

async fn nested_compare_does_not_see_earlier_writes_of_the_same_txn(kv: &Client) -> CheckResult {
    let nested = Txn::new().when([Compare::absent("a")]).and_then([put("b", "1")]);
    let response = run_ops(kv, [put("a", "1"), nested.into()]).await?;
    ensure!(txn_response(&response, 1)?.succeeded, "the inner compare saw the outer put");
    ensure_eq!(all_keys(kv).await?, ["a", "b"]);
    Ok(())
}

async fn nested_compare_does_not_see_earlier_deletes_of_the_same_txn(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    let nested = Txn::new().when([Compare::exists("a")]);
    let response = run_ops(kv, [Delete::new("a").into(), nested.into()]).await?;
    ensure!(txn_response(&response, 1)?.succeeded, "the inner compare saw the outer delete");
    Ok(())
}

async fn nested_range_sees_earlier_writes_of_the_same_txn(kv: &Client) -> CheckResult {
    let nested = Txn::new().when([Compare::absent("a")]).and_then([read("a")]);
    let response = run_ops(kv, [put("a", "1"), nested.into()]).await?;
    let seen = &range_response(txn_response(&response, 1)?, 0)?.kvs;
    ensure_eq!(*seen, [get(kv, "a").await?]);
    Ok(())
}

async fn range_after_a_nested_txn_sees_its_writes(kv: &Client) -> CheckResult {
    let nested = Txn::new().and_then([put("a", "1")]);
    let response = run_ops(kv, [nested.into(), read("a")]).await?;
    ensure_eq!(range_response(&response, 1)?.count, 1);
    Ok(())
}

async fn deeply_nested_compares_are_evaluated_before_any_op(kv: &Client) -> CheckResult {
    kv.put("a", "1").await?;
    let inner = Txn::new().when([Compare::exists("a"), Compare::absent("b")]);
    let middle = Txn::new().and_then([put("b", "1"), inner.and_then([put("c", "1")]).into()]);
    let response = run_ops(kv, [Delete::new("a").into(), middle.into()]).await?;
    let middle = txn_response(&response, 1)?;
    ensure!(txn_response(middle, 1)?.succeeded, "the innermost compares saw earlier operations");
    ensure_eq!(all_keys(kv).await?, ["b", "c"]);
    Ok(())
}

async fn nested_branch_that_is_not_taken_changes_nothing(kv: &Client) -> CheckResult {
    let inner = Txn::new().and_then([put("a", "1")]);
    let nested = Txn::new().when([Compare::exists("x")]).and_then([Op::from(inner)]);
    let response = run_ops(kv, [nested.into()]).await?;
    ensure_eq!(txn_response(&response, 0)?.responses, vec![]);
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn nested_delete_sees_the_put_of_an_earlier_sibling(kv: &Client) -> CheckResult {
    let created = Txn::new().and_then([put("a", "1")]);
    let deleted = Txn::new().and_then([Delete::new("a").with_prev_kv()]);
    let response = run_ops(kv, [created.into(), deleted.into()]).await?;
    let delete = txn_response(&response, 1)?.responses[0].as_delete();
    let revision = response.header.revision;
    let seen = delete.and_then(|delete| delete.prev_kvs.first()).map(|kv| kv.mod_revision);
    ensure_eq!(seen, Some(revision));
    ensure_eq!(kv.get("a").await?, None);
    Ok(())
}

async fn nested_txn_without_ops_is_accepted(kv: &Client) -> CheckResult {
    let failing = Txn::new().when([Compare::exists("a")]);
    let response = run_ops(kv, [Txn::new().into(), failing.into()]).await?;
    ensure!(txn_response(&response, 0)?.succeeded, "a transaction without compares failed");
    ensure!(!txn_response(&response, 1)?.succeeded, "a compare on an absent key held");
    Ok(())
}

async fn concurrent_creations_of_a_key_succeed_once(kv: &Client) -> CheckResult {
    let create = |i: usize| {
        let put = put("owner", &i.to_string());
        kv.txn(Txn::new().when([Compare::absent("owner")]).and_then([put]))
    };
    let mut winners = Vec::new();
    for (i, response) in join_all((0..10).map(create)).await.into_iter().enumerate() {
        if response?.succeeded {
            winners.push(i.to_string());
        }
    }
    let owner = get(kv, "owner").await?;
    ensure_eq!(winners, [String::from_utf8_lossy(&owner.value).into_owned()]);
    ensure_eq!(owner.version, 1);
    Ok(())
}

async fn concurrent_guarded_increments_lose_no_update(kv: &Client) -> CheckResult {
    kv.put("n", "").await?;
    let increment = async || -> CheckResult {
        // An attempt fails only if one of the four other tasks has committed, and each commits
        // once.
        for _ in 0..5 {
            let n = get(kv, "n").await?;
            let same = Compare::mod_revision("n", CompareOp::Equal, n.mod_revision);
            let more = [&n.value[..], b"+"].concat();
            let txn = Txn::new().when([same]).and_then([Put::new("n", more)]);
            if kv.txn(txn).await?.succeeded {
                return Ok(());
            }
        }
        Err(CaseFailure::new("five attempts failed, but only four other tasks change the key"))
    };
    for result in join_all((0..5).map(|_| increment())).await {
        result?;
    }
    let n = get(kv, "n").await?;
    ensure_eq!((&n.value[..], n.version), (&b"+++++"[..], 6));
    Ok(())
}

async fn reads_of_a_txn_all_see_one_revision(kv: &Client) -> CheckResult {
    let write = |i: i64| {
        let value = i.to_string();
        kv.txn(Txn::new().and_then([put("a", &value), put("z", &value)]))
    };
    write(0).await?;
    let reads = join_all((0..10).map(|_| kv.txn(Txn::new().and_then([read("a"), read("z")]))));
    let (writes, reads) = futures_util::future::join(join_all((1..10).map(write)), reads).await;
    for response in writes {
        response?;
    }
    for response in reads {
        let response = response?;
        let seen = |index| Ok::<_, CaseFailure>(range_response(&response, index)?.kvs[0].clone());
        let (a, z) = (seen(0)?, seen(1)?);
        ensure_eq!((a.mod_revision, a.value), (z.mod_revision, z.value));
    }
    Ok(())
}

async fn unbounded_delete_then_put_recreates_the_key(kv: &Client) -> CheckResult {
    puts(kv, [("b", "1"), ("b", "2"), ("c", "1")]).await?;
    let delete = Delete::new(KeyRange::starting_at("b"));
    let response = run_ops(kv, [delete.into(), put("b", "3")]).await?;
    let (b, revision) = (get(kv, "b").await?, response.header.revision);
    ensure_eq!((b.create_revision, b.mod_revision, b.version), (revision, revision, 1));
    ensure_eq!(all_keys(kv).await?, ["b"]);
    Ok(())
}

async fn unbounded_delete_then_put_delivers_both_in_one_batch(kv: &Client) -> CheckResult {
    puts(kv, [("b", "1")]).await?;
    let mut watch = watch_all(kv).await?;
    let delete = Delete::new(KeyRange::starting_at("b"));
    run_ops(kv, [delete.into(), put("b", "2")]).await?;
    let batch = next_batch(&mut watch).await?;
    let kinds: Vec<_> = batch.events.iter().map(|event| event.kind).collect();
    ensure_eq!(kinds, [EventKind::Delete, EventKind::Put]);
    Ok(())
}

async fn put_then_unbounded_delete_deletes_the_key(kv: &Client) -> CheckResult {
    let before = current_revision(kv).await?;
    let delete = Delete::new(KeyRange::starting_at("b"));
    let response = run_ops(kv, [put("b", "1"), delete.into()]).await?;
    ensure_eq!(response.responses[1].as_delete().map(|delete| delete.deleted), Some(1));
    ensure_eq!(all_keys(kv).await?, [""; 0]);
    ensure_eq!(current_revision(kv).await?, before.next());
    Ok(())
}

/// A real etcd panics when it applies this transaction, and again each time it replays its log.
async fn put_that_keeps_fields_after_unbounded_delete_is_refused(kv: &Client) -> CheckResult {
    kv.put("b", "1").await?;
    for put in [Put::new("b", "").ignore_value(), Put::new("b", "2").ignore_lease()] {
        let delete = Delete::new(KeyRange::starting_at("a"));
        let txn = Txn::new().and_then([Op::from(delete), put.into()]);
        expect_refused(kv.txn(txn).await, ErrorKind::Refused)?;
    }
    ensure_eq!(get(kv, "b").await?.value, "1");
    Ok(())
}
