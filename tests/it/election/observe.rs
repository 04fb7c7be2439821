//! Observers: the stream of leaders, in order, and its errors.

use coord_core::{
    Client, Election, Error,
    error::ErrorKind,
    kv::{Compact, Delete, KeyRange, Op, Put, Revision, Txn},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Recorder};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{election, observe, some, take_yielded};
use crate::support::{intercepted, nth, only, secs, settle};
use crate::watch_faults::WatchFaults;

/// Go's `TestElectionWait`: all observers yield the same leaders, from the leader at their first
/// poll on.
#[tokio::test(start_paused = true)]
async fn late_observer_starts_with_the_current_leader() {
    let store = Client::new(MemBackend::new());
    let (mut polled, mut unpolled) = (observe(&store), observe(&store));
    assert_eq!(take_yielded(&mut polled).await, [None]);
    let first = election(&store).await.campaign("a").await.unwrap();
    let mut late = observe(&store);
    assert_eq!(take_yielded(&mut late).await, [some("a")]);
    let next = election(&store).await.enter("b").await.unwrap();
    first.resign().await.unwrap();
    assert_eq!(take_yielded(&mut polled).await, [some("a"), some("b")]);
    assert_eq!(take_yielded(&mut late).await, [some("b")]);
    assert_eq!(take_yielded(&mut unpolled).await, [some("b")], "it starts at its first poll");
    next.withdraw().await.unwrap();
    for leaders in [&mut polled, &mut unpolled, &mut late] {
        assert_eq!(take_yielded(leaders).await, [None]);
    }
}

/// trillian issue 1387: Go's `Observe` does not report that there is no leader.
#[tokio::test(start_paused = true)]
async fn observer_yields_none_only_without_a_leader() {
    let store = Client::new(MemBackend::new());
    let mut leaders = observe(&store);
    let election = election(&store).await;
    for round in 0..3 {
        assert_eq!(take_yielded(&mut leaders).await, [None], "round {round}");
        let first = election.campaign("a").await.unwrap();
        let next = election.enter("b").await.unwrap();
        first.resign().await.unwrap();
        assert_eq!(
            take_yielded(&mut leaders).await,
            [some("a"), some("b")],
            "no `None` in between"
        );
        next.withdraw().await.unwrap();
    }
    let leadership = election.campaign("a").await.unwrap();
    election.session().close().await.unwrap();
    drop(leadership);
    assert_eq!(take_yielded(&mut leaders).await, [None, some("a"), None]);
}

/// Go's `TestElectionObserveFreshResponsesOnProclaim`: a proclamation of the same value is yielded
/// too.
#[tokio::test(start_paused = true)]
async fn observer_yields_each_proclamation_with_its_version() {
    let store = Client::new(MemBackend::new());
    let mut leaders = observe(&store);
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    let leadership = election(&store).await.campaign("same").await.unwrap();
    for _ in 0..2 {
        leadership.proclaim("same").await.unwrap();
    }
    let mut last = Revision::ZERO;
    for version in 1..=3 {
        let leader = leaders.next().await.unwrap().unwrap().unwrap();
        assert_eq!((leader.key_value().version, &leader.value()[..]), (version, &b"same"[..]));
        assert!(leader.key_value().mod_revision > last);
        assert_eq!(leader.fencing_token(), leadership.fencing_token());
        last = leader.key_value().mod_revision;
    }
}

/// Go's `TestElectionObserveCompacted`.
#[tokio::test(start_paused = true)]
async fn observer_yields_leader_older_than_the_compaction() {
    let store = Client::new(MemBackend::new());
    let _leadership = election(&store).await.campaign("a").await.unwrap();
    store.put("other", "1").await.unwrap();
    let revision = store.put("other", "2").await.unwrap().header.revision;
    store.compact(Compact::new(revision)).await.unwrap();
    assert_eq!(take_yielded(&mut observe(&store)).await, [some("a")]);
}

#[tokio::test(start_paused = true)]
async fn observer_waits_while_store_is_unavailable() {
    for kind in ["range", "watch"] {
        let store = Client::new(MemBackend::new());
        let faulty = intercepted(&store, nth(kind, 1, 6, Action::DropRequest));
        let mut leaders = Election::observer(&faulty, "e").observe();
        let first = timeout(secs(60), leaders.next()).await.expect("the store recovers");
        assert_eq!(first.unwrap().unwrap(), None, "{kind}");
        let _leadership = election(&store).await.campaign("a").await.unwrap();
        let next = timeout(secs(60), leaders.next()).await.expect("the store recovers");
        assert_eq!(next.unwrap().unwrap().unwrap().value(), "a", "{kind}");
    }
}

/// The stream panicked when it was polled after its end, because `unfold` must not be polled then.
#[tokio::test(start_paused = true)]
async fn observer_ends_after_a_permanent_error() {
    for kind in ["range", "watch"] {
        let denied = Error::PermissionDenied { reason: "no reads".to_owned() };
        let client = intercepted(&Client::new(MemBackend::new()), only(kind, Action::Fail(denied)));
        let mut leaders = Election::observer(&client, "e").observe();
        if kind == "watch" {
            assert_eq!(leaders.next().await.unwrap().unwrap(), None);
        }
        let error = leaders.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        for _ in 0..3 {
            assert!(leaders.next().await.is_none(), "it stays at its end");
            assert!(StreamExt::next(&mut leaders).await.is_none(), "also through `Stream`");
        }
    }
}

/// The watch is registered, and ends with the error later.
#[tokio::test(start_paused = true)]
async fn observer_ends_after_a_permanent_watch_error() {
    let store = Client::new(MemBackend::new());
    let denied = Error::PermissionDenied { reason: "no longer permitted".to_owned() };
    let backend = WatchFaults::new(store, move || (secs(1), Some(denied.clone())));
    let mut leaders = Election::observer(&Client::new(backend), "e").observe();
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    let error = leaders.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(leaders.next().await.is_none());
}

/// etcd's check for duplicate keys ignores unbounded deletes (issue 22445), so a transaction can
/// put a key and delete it again. The observer evaluated only the put: it yielded a leader that
/// never led, or kept a leader whose key was deleted.
#[tokio::test(start_paused = true)]
async fn key_put_and_deleted_in_one_revision_never_leads() {
    let store = Client::new(MemBackend::new());
    let put_and_delete = |key: &str| {
        let ops: [Op; 2] =
            [Put::new(key, "phantom").into(), Delete::new(KeyRange::starting_at("e/")).into()];
        Txn::new().and_then(ops)
    };
    let mut leaders = observe(&store);
    assert_eq!(take_yielded(&mut leaders).await, [None]);
    store.txn(put_and_delete("e/phantom")).await.unwrap();
    assert_eq!(take_yielded(&mut leaders).await, [], "there is still no leader");

    let leadership = election(&store).await.campaign("a").await.unwrap();
    let key = leadership.key().escape_ascii().to_string();
    store.txn(put_and_delete(&key)).await.unwrap();
    assert_eq!(take_yielded(&mut leaders).await, [some("a"), None]);
    election(&store).await.campaign("b").await.unwrap().resign().await.unwrap();
    assert_eq!(take_yielded(&mut leaders).await, [some("b"), None], "the stream continues");
}

/// The store keeps history for an observer that is not polled.
#[tokio::test(start_paused = true)]
async fn slow_observer_misses_no_change() {
    let store = Client::new(MemBackend::new());
    let mut leaders = observe(&store);
    assert_eq!(take_yielded(&mut leaders).await, [None]);
    let election = election(&store).await;
    let mut expected = Vec::new();
    for n in 0..30 {
        let leadership = election.campaign(format!("{n} elected")).await.unwrap();
        expected.push(some(&format!("{n} elected")));
        for step in 0..100 {
            leadership.proclaim(format!("{n} {step}")).await.unwrap();
            expected.push(some(&format!("{n} {step}")));
        }
        leadership.resign().await.unwrap();
        expected.push(None);
    }
    assert_eq!(take_yielded(&mut leaders).await, expected);
}

#[tokio::test(start_paused = true)]
async fn unpolled_observer_sends_no_request() {
    let recorder = Recorder::new();
    let client = intercepted(&Client::new(MemBackend::new()), recorder.clone());
    let leaders = Election::observer(&client, "e").observe();
    settle().await;
    drop(leaders);
    assert_eq!(recorder.take().names(), "");
}

/// etcd's Election service returns a header with this revision for the leader.
#[tokio::test(start_paused = true)]
async fn leader_has_the_revision_of_its_response() {
    let store = Client::new(MemBackend::new());
    let election = election(&store).await;
    let first = election.campaign("first").await.unwrap();
    store.put("elsewhere", "").await.unwrap();
    let mut leaders = election.observe();
    let mut next_revisions = async || {
        let leader = leaders.next().await.unwrap().unwrap().expect("there is a leader");
        (leader.header().revision, leader.key_value().mod_revision)
    };
    // The current leader.
    assert_eq!(next_revisions().await, (Revision(3), Revision(2)));
    assert_eq!(election.leader().await.unwrap().unwrap().header().revision, Revision(3));
    // A new value.
    first.proclaim("still first").await.unwrap();
    assert_eq!(next_revisions().await, (Revision(4), Revision(4)));
    // The next candidate, which leads when the first resigns.
    let second = election.enter("second").await.unwrap();
    store.put("elsewhere", "").await.unwrap();
    first.resign().await.unwrap();
    assert_eq!(next_revisions().await, (Revision(7), Revision(5)));
    drop(second);
}
