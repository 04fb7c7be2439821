//! Tests of the check of single responses: the correct one is accepted, and each wrong one is
//! rejected with the reason.

use coord_core::Client;
use coord_core::error::ErrorKind;
use coord_core::kv::{CompareOp, Header, Txn};

use super::*;

/// A store with `a` = 1 at revision 2 and `b` = 1 at revision 3.
async fn store() -> (MemBackend, Client) {
    let mem = MemBackend::new();
    let client = Client::new(mem.clone());
    client.put("a", "1").await.unwrap();
    client.put("b", "1").await.unwrap();
    (mem, client)
}

const fn observed(before: i64, after: i64) -> Observed {
    Observed { before: Revision(before), after: Revision(after), at_once: true }
}

/// Asserts that a verdict has a reason that starts with `text`.
#[track_caller]
fn assert_wrong(verdict: CheckResult, text: &str) {
    let reason = verdict.expect_err(text);
    assert!(reason.starts_with(text), "{reason}");
}

#[tokio::test]
async fn range_is_compared_at_its_revision() {
    let (mem, client) = store().await;
    let range = Range::prefix("");
    let response = client.range(range.clone()).await.unwrap();
    let call = Call::Range(range.clone());
    let check = |response: &RangeResponse, observed| check_range(&mem, &call, response, observed);
    assert_eq!(check(&response, observed(3, 3)), Ok(()));

    let mut stale = client.range(range.at(Revision(2))).await.unwrap();
    assert_wrong(check(&stale, observed(3, 3)), "keys of");
    stale.header.revision = Revision(2);
    let older = "has revision 2, but the store was at 3 before the request";
    assert_wrong(check(&stale, observed(3, 3)), older);
    let future = RangeResponse { header: Header::at(Revision(4)), ..response.clone() };
    assert_wrong(check(&future, observed(3, 3)), "has revision 4, but the store is at 3");
    let miscounted = RangeResponse { count: 1, ..response.clone() };
    assert_wrong(check(&miscounted, observed(3, 3)), "count, and whether there are more");
    assert_wrong(check(&response, observed(2, 3)), "added 1 revisions to the store, not 0");

    let serializable = Call::Range(Range::prefix("").serializable());
    assert_eq!(check_range(&mem, &serializable, &stale, observed(3, 3)), Ok(()), "may be stale");
}

#[tokio::test]
async fn put_is_compared_with_the_key_after_it() {
    let (mem, client) = store().await;
    let put = Put::new("a", "2").with_prev_kv();
    let response = client.put_with(put.clone()).await.unwrap();
    let check = |put: &Put, response: &PutResponse, observed| {
        check_put(&mem, &Call::Put(put.clone()), response, observed)
    };
    assert_eq!(check(&put, &response, observed(3, 4)), Ok(()));
    let twice = "added 2 revisions to the store, not 1";
    assert_wrong(check(&put, &response, observed(2, 4)), twice);
    let pending = Observed { at_once: false, ..observed(2, 4) };
    assert_eq!(check(&put, &response, pending), Ok(()), "another change may be in between");
    let other = Put::new("a", "3").with_prev_kv();
    assert_wrong(check(&other, &response, observed(3, 4)), "the key after the put: found");
    let without = PutResponse { prev_kv: None, ..response };
    assert_wrong(check(&put, &without, observed(3, 4)), "the previous key: found None");

    let kept = Put::new("a", "").ignore_value();
    let response = client.put_with(kept.clone()).await.unwrap();
    assert_eq!(check(&kept, &response, observed(4, 5)), Ok(()));
    assert_wrong(check(&Put::new("a", ""), &response, observed(4, 5)), "the key after the put");
}

#[tokio::test]
async fn delete_is_compared_with_the_keys_before_it() {
    let (mem, client) = store().await;
    let delete = Delete::prefix("a").with_prev_kv();
    let response = client.delete(delete.clone()).await.unwrap();
    let check = |delete: &Delete, response: &DeleteResponse, observed| {
        check_delete(&mem, &Call::Delete(delete.clone()), response, observed)
    };
    assert_eq!(check(&delete, &response, observed(3, 4)), Ok(()));
    let other = Delete::prefix("").with_prev_kv();
    assert_wrong(check(&other, &response, observed(3, 4)), "the number of deleted keys");
    let without = DeleteResponse { prev_kvs: Vec::new(), ..response.clone() };
    assert_wrong(check(&delete, &without, observed(3, 4)), "the deleted keys");
    let (left, none) = (Delete::new("b"), DeleteResponse { deleted: 0, ..without });
    assert_wrong(check(&left, &none, observed(4, 4)), "the number of deleted keys");
    // Nothing is deleted, and the revision stays the same.
    let again = client.delete(delete.clone()).await.unwrap();
    assert_eq!(check(&delete, &again, observed(4, 4)), Ok(()));
}

#[tokio::test]
async fn txn_is_compared_with_the_state_before_and_after() {
    let (mem, client) = store().await;
    let is_old = Compare::value("a", CompareOp::Equal, "1");
    let txn = Txn::new().when([is_old]).and_then([
        Op::Range(Range::prefix("")),
        Op::Put(Put::new("a", "2").with_prev_kv()),
        Op::Delete(Delete::new("b")),
        Op::Range(Range::prefix("")),
        Op::Txn(Txn::new().and_then([Put::new("c", "1")])),
    ]);
    let response = client.txn(txn.clone()).await.unwrap();
    let check = |txn: &Txn, response: &TxnResponse, observed| {
        check_txn(&mem, &Call::Txn(txn.clone()), response, observed)
    };
    assert_eq!(check(&txn, &response, observed(3, 4)), Ok(()));

    let mut unmet = txn.clone();
    unmet.compares[0].op = CompareOp::NotEqual;
    assert_wrong(check(&unmet, &response, observed(3, 4)), "compares met at 3: found true");
    let all_keys = |op: usize| Compare::value("a".."c", CompareOp::Equal, ["1", "2"][op]);
    unmet.compares = vec![all_keys(0)];
    assert_eq!(check(&unmet, &response, observed(3, 4)), Ok(()), "both keys are 1");
    unmet.compares = vec![all_keys(1)];
    assert_wrong(check(&unmet, &response, observed(3, 4)), "compares met at 3: found true");

    let short = TxnResponse { responses: Vec::new(), ..response.clone() };
    assert_wrong(check(&txn, &short, observed(3, 4)), "added 1 revisions to the store, not 0");
    for (i, reason) in [
        (0, "operation 1: keys of"),
        (1, "operation 2: the previous key"),
        (2, "operation 3: the number of deleted keys"),
    ] {
        let mut wrong = response.clone();
        match &mut wrong.responses[i] {
            OpResponse::Range(range) => range.kvs.clear(),
            OpResponse::Put(put) => put.prev_kv = None,
            OpResponse::Delete(delete) => delete.deleted = 2,
            OpResponse::Txn(_) => unreachable!("no nested transaction is changed"),
        }
        assert_wrong(check(&txn, &wrong, observed(3, 4)), reason);
    }
    let mut swapped = response.clone();
    swapped.responses.swap(0, 1);
    assert_wrong(check(&txn, &swapped, observed(3, 4)), "operation 1: the result");
    let mut fewer = response;
    fewer.responses.pop();
    assert_wrong(check(&txn, &fewer, observed(3, 4)), "the number of results");
}

#[tokio::test]
async fn range_after_all_changes_of_a_txn_is_compared_after_it() {
    let (mem, client) = store().await;
    let read = || Op::Range(Range::new("a"));
    let txn = Txn::new().and_then([Op::Put(Put::new("a", "2")), read()]);
    let mut response = client.txn(txn.clone()).await.unwrap();
    let call = Call::Txn(txn);
    assert_eq!(check_txn(&mem, &call, &response, observed(3, 4)), Ok(()));
    let before = client.range(Range::new("a").at(Revision(3))).await.unwrap();
    response.responses[1] = OpResponse::Range(before);
    assert_wrong(check_txn(&mem, &call, &response, observed(3, 4)), "operation 2: keys of");
}

#[tokio::test]
async fn error_that_states_no_change_must_have_made_none() {
    let error = Error::TooManyRequests;
    assert_eq!(error.outcome(), Outcome::NotApplied);
    assert_eq!(observed(3, 3).check_error(&error), Ok(()));
    let text = "added 1 revisions to the store, not 0, despite";
    assert_wrong(observed(3, 4).check_error(&error), text);
    let unknown = Error::Timeout { after: std::time::Duration::from_secs(1) };
    assert_eq!((unknown.kind(), unknown.outcome()), (ErrorKind::Timeout, Outcome::Unknown));
    assert_eq!(observed(3, 4).check_error(&unknown), Ok(()), "it may have been applied");
}

/// A change may be compacted before its state is read again: then only its revision is compared.
#[tokio::test]
async fn compacted_state_is_not_compared() {
    let (mem, client) = store().await;
    let put = Put::new("a", "2");
    let response = client.put_with(put.clone()).await.unwrap();
    client.put("b", "2").await.unwrap();
    client.compact(coord_core::kv::Compact::new(Revision(5))).await.unwrap();
    let pending = Observed { at_once: false, ..observed(3, 5) };
    assert_eq!(check_put(&mem, &Call::Put(put), &response, pending), Ok(()));
}
