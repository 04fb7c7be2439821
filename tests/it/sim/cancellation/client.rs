//! Cancellation cases of a client: its reads, changes and watches.

use std::sync::Arc;

use bytes::Bytes;
use coord_core::kv::{Compact, Compare, CompareOp, KeyRange, Put, Range, Revision, Txn};
use coord_core::{Client, Result};
use tokio::time::sleep;

use super::trial::Trial;
use super::{Case, drop_all};
use crate::support::{newest_revision, secs};

#[test]
fn dropped_client_calls_apply_at_most_once() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        read(&["Client::get"], |client| async move { client.get("data/k").await.map(drop) }),
        read(&["Client::get_prefix"], |client| async move {
            client.get_prefix("data/").await.map(drop)
        }),
        read(&["Client::range"], |client| async move {
            client.range(Range::new(KeyRange::all())).await.map(drop)
        }),
        read(&["Client::leases"], |client| async move { client.leases().await.map(drop) }),
        read(&["Client::watch"], |client| async move { client.watch("data/k").await.map(drop) }),
        read(&["Client::watch_prefix"], |client| async move {
            client.watch_prefix("data/").await.map(drop)
        }),
        Case::new(&["Client::compact"], "then compacted again", compact),
        Case::new(&["Watcher::next"], "a key is put after half a second", watcher_next),
    ];
    cases.extend(changes());
    cases
}

fn changes() -> [Case; 7] {
    [
        change(&["Client::put"], |client| async move { client.put("data/k", "1").await.map(drop) }),
        change(&["Client::put_with"], |client| async move {
            client.put_with(Put::new("data/k", "1")).await.map(drop)
        }),
        change(&["Client::put_if_absent"], |client| async move {
            client.put_if_absent("data/new", "1").await.map(drop)
        }),
        change(&["Client::compare_and_swap"], |client| async move {
            client.compare_and_swap("data/k", "0", "1").await.map(drop)
        }),
        change(
            &["Client::delete"],
            |client| async move { client.delete("data/k").await.map(drop) },
        ),
        change(&["Client::delete_prefix"], |client| async move {
            client.delete_prefix("data/k").await.map(drop)
        }),
        change(&["Client::txn"], |client| async move {
            let is_unchanged = Compare::value("data/k", CompareOp::Equal, "0");
            let put = Put::new("data/k", "1");
            client.txn(Txn::new().when([is_unchanged]).and_then([put])).await.map(drop)
        }),
    ]
}

/// A call that changes nothing: then the store is unchanged, and both clients can repeat it.
pub(super) fn read<F: Future<Output = Result<()>> + Send + 'static>(
    functions: &'static [&'static str],
    call: impl Fn(Client) -> F + Send + Sync + 'static,
) -> Case {
    let call = Arc::new(call);
    Case::new(functions, "nothing is changed", move |t| {
        let call = Arc::clone(&call);
        async move {
            let other = t.other.client().clone();
            let put = other.put("data/k", "0").await.unwrap().header.revision;
            let read = t.drop_at_await(call(t.client().clone())).await;
            assert!(read.is_none_or(|read| read.is_ok()));
            t.proceeds(call(other.clone())).await.unwrap();
            t.proceeds(call(t.client().clone())).await.unwrap();
            t.messages_arrive().await;
            assert_eq!(newest_revision(&other).await, put, "a read changed the store");
        }
    })
}

/// A call that changes the store: then it was applied once at most, and exactly once if it has
/// completed. Another client can repeat it.
pub(super) fn change<F: Future<Output = Result<()>> + Send + 'static>(
    functions: &'static [&'static str],
    call: impl Fn(Client) -> F + Send + Sync + 'static,
) -> Case {
    let call = Arc::new(call);
    Case::new(functions, "applied at most once", move |t| {
        let call = Arc::clone(&call);
        async move {
            let other = t.other.client().clone();
            let put = other.put("data/k", "0").await.unwrap().header.revision;
            t.drop_at_await(call(t.client().clone())).await.transpose().unwrap();
            t.messages_arrive().await;
            let changes = newest_revision(&other).await.0 - put.0;
            assert!(changes == 1 || (changes == 0 && t.is_dropped()), "applied {changes} times");
            t.proceeds(call(other.clone())).await.unwrap();
            t.proceeds(call(t.client().clone())).await.unwrap();
        }
    })
}

async fn compact(t: Trial) {
    let other = t.other.client();
    let mut last = Revision::ZERO;
    for value in ["0", "1", "2"] {
        last = other.put("data/k", value).await.unwrap().header.revision;
    }
    let compacted = t.drop_at_await(t.client().compact(Compact::new(Revision(last.0 - 1)))).await;
    compacted.transpose().unwrap();
    // Before the late request arrives, which is then rejected: this revision is compacted.
    t.proceeds(other.compact(Compact::new(last))).await.unwrap();
    t.messages_arrive().await;
    let kept = t.proceeds(other.get("data/k")).await.unwrap().unwrap();
    assert_eq!((kept.value, kept.mod_revision), (Bytes::from("2"), last));
    let at_compacted = Range::new("data/k").at(Revision(last.0 - 1));
    assert!(other.range(at_compacted).await.is_err(), "compacted");
}

/// No batch is lost, and none is delivered twice.
async fn watcher_next(t: Trial) {
    let mut watch = t.client().watch("data/k").await.unwrap();
    let other = t.other.client().clone();
    let puts = t.other.spawn(async move {
        sleep(secs(1) / 2).await;
        let mut revisions = Vec::new();
        for value in ["0", "1"] {
            revisions.push(other.put("data/k", value).await.unwrap().header.revision);
        }
        revisions
    });
    let mut batches = Vec::new();
    if let Some(batch) = t.drop_at_await(watch.next()).await {
        batches.push(batch.unwrap().unwrap().revision);
    }
    let revisions = puts.await;
    t.messages_arrive().await;
    while batches.len() < revisions.len() {
        batches.push(t.proceeds(watch.next()).await.unwrap().unwrap().revision);
    }
    assert_eq!(batches, revisions);
}
