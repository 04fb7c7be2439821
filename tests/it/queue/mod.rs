//! The waiting line under locks and elections: whoever leaves wakes its successor, and nobody else.

mod handoff;

use coord_mem::MemBackend;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coord_core::queue::{Contender, WaitQueue};
use coord_core::{Client, Session, kv::Put};
use coord_testkit::{Action, Call, Recorder};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::breaking::Breaking;
use crate::support::{Silent, behind, join_as_go, keys, nth, secs, session, session_on, settle};

/// A contender that waits, on a session and with a record of its own.
struct Waiter {
    session: Session,
    record: Recorder,
    waiting: Option<Contender>,
}

/// A line behind a holder: the holder, and those who wait.
async fn line(store: &Client, waiters: usize) -> (Contender, Vec<Waiter>) {
    let holder =
        WaitQueue::new(&session(store).await, "l").enqueue("").await.expect("the store is there");
    let mut line = Vec::new();
    for _ in 0..waiters {
        let record = Recorder::new();
        let session = session_on(behind(store, record.clone())).await;
        let waiting =
            Some(WaitQueue::new(&session, "l").enqueue("").await.expect("the store is there"));
        line.push(Waiter { session, record, waiting });
    }
    (holder, line)
}

/// What each has asked of the store, besides keep-alives, and been told, since the last time.
fn costs(line: &[Waiter]) -> Vec<(String, usize)> {
    let cost = |waiter: &Waiter| {
        let mut calls = waiter.record.take();
        calls.0.retain(|call| call.name() != "lease_keep_alive");
        (calls.names(), waiter.record.take_events())
    };
    line.iter().map(cost).collect()
}

/// How one leaves who does not hold yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    /// Its future and its place are dropped.
    Cancelled,
    /// Its lease ends.
    Expired,
    /// Somebody deletes its key.
    Deleted,
}

/// Lets the one at `at` of a line of so many leave, and says what that cost each of the others.
async fn leave(waiters: usize, at: usize, how: Leaves, nested: bool) -> Vec<(String, usize)> {
    let store = Client::new(MemBackend::new());
    let below = WaitQueue::new(&session(&store).await, "l/below");
    let mut in_the_way = Vec::new();
    if nested {
        in_the_way.push(below.enqueue("").await.expect("the store is there"));
    }
    let (holder, mut line) = line(&store, waiters).await;
    if nested {
        in_the_way.push(below.enqueue("").await.expect("the store is there"));
    }
    let leaver = line[at].waiting.as_ref().expect("it waits").key().clone();
    let mut tasks = JoinSet::new();
    let mut doomed = JoinSet::new();
    for (n, waiter) in line.iter_mut().enumerate() {
        let mut contender = waiter.waiting.take().expect("it waits");
        let tasks = if n == at { &mut doomed } else { &mut tasks };
        tasks.spawn(async move { contender.acquired().await.map(|()| contender) });
    }
    // Long enough for each to watch its own key too.
    sleep(secs(1)).await;
    costs(&line);
    match how {
        Leaves::Cancelled => doomed.shutdown().await,
        Leaves::Expired => {
            store.lease_revoke(line[at].session.lease_id()).await.expect("the store is there");
        }
        Leaves::Deleted => {
            store.delete(&leaver).await.expect("the store is there");
        }
    }
    settle().await;
    let costs = costs(&line);
    assert!(!keys(&store, "l/").await.contains(&leaver.escape_ascii().to_string()));
    assert!(tasks.try_join_next().is_none(), "the others go on waiting");
    // All the others are served, in order: none was lost.
    holder.release().await.expect("the store is there");
    let mut last = None;
    for _ in 0..waiters - 1 {
        let served = timeout(secs(5), tasks.join_next())
            .await
            .expect("served")
            .expect("some are left")
            .expect("no panic");
        let served = served.expect("its turn came");
        assert!(last < Some(served.fencing_token()), "in order");
        last = Some(served.fencing_token());
        served.release().await.expect("the store is there");
    }
    costs
}

#[tokio::test(start_paused = true)]
async fn leaving_contender_wakes_only_its_successor() {
    for how in [Leaves::Cancelled, Leaves::Expired, Leaves::Deleted] {
        for nested in [false, true] {
            for waiters in [2, 9, 199] {
                for at in [0, waiters / 2, waiters - 1] {
                    let costs = leave(waiters, at, how, nested).await;
                    for (n, (asked, events)) in costs.into_iter().enumerate() {
                        let about = format!("{n}, when {at} of {waiters} {how:?}, {nested}");
                        if n == at + 1 {
                            // It reads the queue, and watches its new predecessor.
                            assert_eq!((asked.as_str(), events), ("range watch", 1), "{about}");
                        } else if n != at {
                            assert_eq!((asked.as_str(), events), ("", 0), "{about}");
                        }
                    }
                }
            }
        }
    }
}

/// With five before it, it remembers the nearest only; with four, all of them. Both wait for all.
#[tokio::test(start_paused = true)]
async fn contender_waits_for_all_predecessors() {
    for before in 1..=8 {
        let store = Client::new(MemBackend::new());
        let (holder, mut line) = line(&store, before).await;
        let mut last = line.pop().unwrap().waiting.unwrap();
        // Those before it leave in the order that is worst for it: the nearest first.
        let mut others: Vec<_> = line.into_iter().filter_map(|waiter| waiter.waiting).collect();
        let mut waiting = JoinSet::new();
        waiting.spawn(async move {
            last.acquired().await.unwrap();
            last
        });
        settle().await;
        while let Some(other) = others.pop() {
            other.release().await.unwrap();
            settle().await;
            assert!(waiting.try_join_next().is_none(), "{} are before it", others.len() + 1);
        }
        holder.release().await.unwrap();
        settle().await;
        assert!(waiting.try_join_next().is_some());
    }
}

/// Those before it all leave at once, in one revision, while it sleeps.
#[tokio::test(start_paused = true)]
async fn contender_reads_once_when_all_predecessors_leave() {
    for before in [1, 4, 5, 30] {
        let store = Client::new(MemBackend::new());
        let others = session(&store).await;
        let line = WaitQueue::new(&others, "l");
        let crowd = join_all((0..before).map(|_| line.enqueue(""))).await;
        let record = Recorder::new();
        let mine = session_on(behind(&store, record.clone())).await;
        let mut contender = WaitQueue::new(&mine, "l").enqueue("").await.unwrap();
        record.take();
        let (served, ()) = tokio::join!(timeout(secs(2), contender.acquired()), async {
            settle().await;
            others.close().await.unwrap();
        });
        served.expect("at once").unwrap();
        assert_eq!(record.take().names(), "watch range", "behind {before}");
        drop(crowd);
    }
}

/// etcd issues 14641 and 8980: the member that serves a watch is paused, and says nothing. Whoever
/// waits looks once each time to live, at every depth of the line.
#[tokio::test(start_paused = true)]
async fn contender_with_silent_watch_acquires_within_ttl() {
    for before in [1, 3, 7] {
        let store = Client::new(MemBackend::new());
        let (holder, others) = line(&store, before - 1).await;
        let record = Recorder::new();
        let silent = session_on(behind(&store, Silent(record.clone()))).await;
        let mut contender = WaitQueue::new(&silent, "l").enqueue("").await.unwrap();
        record.take();
        let (served, ()) = tokio::join!(timeout(secs(100), contender.acquired()), async {
            sleep(secs(25)).await;
            let calls = record.take();
            assert_eq!(calls.count("txn") + calls.count("range"), 2, "one look each 10 s");
            holder.release().await.unwrap();
            for other in others {
                other.waiting.unwrap().release().await.unwrap();
            }
            sleep(secs(11)).await;
        });
        served.expect("a look told it").unwrap();
        let calls = record.take();
        assert!(calls.count("txn") + calls.count("range") <= 2, "{calls}");
    }
}

/// The member that serves the watch lags, and tells that a key of Go's package was deleted: in its
/// life before the one that is waited for. Nobody may be served for that.
#[tokio::test(start_paused = true)]
async fn stale_deletion_of_predecessor_key_is_ignored() {
    for lag in 0..=4 {
        let store = Client::new(MemBackend::new());
        let (lease, go) = join_as_go(&store, "l", "").await;
        store.delete(&go).await.unwrap();
        store.put_with(Put::new(&go, "").lease(lease)).await.unwrap();
        let lives = || (secs(1_000_000), None);
        let lagging =
            session_on(Client::new(Breaking { inner: store.clone(), lives, lag: lag.into() }))
                .await;
        let mut contender = WaitQueue::new(&lagging, "l").enqueue("").await.unwrap();
        let waited = timeout(secs(30), contender.acquired()).await;
        assert!(waited.is_err(), "served behind another, with a lag of {lag}");
        store.delete(&go).await.unwrap();
        timeout(secs(1), contender.acquired()).await.expect("at once").unwrap();
    }
}

/// Its watch has fallen silent and only the nearest of many left: those before that one, whom the
/// contender never knew by name, are still there.
#[tokio::test(start_paused = true)]
async fn contender_without_predecessor_waits_for_earlier_ones() {
    for before in [2, 4, 5, 6, 20] {
        let store = Client::new(MemBackend::new());
        let (holder, mut others) = line(&store, before - 1).await;
        let silent = session_on(behind(&store, Silent(Recorder::new()))).await;
        let mut contender = WaitQueue::new(&silent, "l").enqueue("").await.unwrap();
        let nearest = others.pop().unwrap().waiting.unwrap();
        let (waited, ()) = tokio::join!(timeout(secs(30), contender.acquired()), async {
            sleep(secs(5)).await;
            nearest.release().await.unwrap();
        });
        assert!(waited.is_err(), "served though {} are before it", before - 1);
        holder.release().await.unwrap();
        drop(others);
        timeout(secs(30), contender.acquired()).await.expect("nobody is before it").unwrap();
    }
}

/// Between a contender and the holder stand so many keys of lines below that the usual read shows
/// nothing else: that nobody was seen does not say that nobody is there.
#[tokio::test(start_paused = true)]
async fn contender_behind_child_name_keys_waits_for_holder() {
    for below in [3, 4, 5, 20] {
        let store = Client::new(MemBackend::new());
        let all = session(&store).await;
        let (line, inner) = (WaitQueue::new(&all, "l"), WaitQueue::new(&all, "l/below"));
        let holder = line.enqueue("").await.unwrap();
        let crowd = join_all((0..below).map(|_| inner.enqueue(""))).await;
        let mut contender = line.enqueue("").await.unwrap();
        let waited = timeout(secs(30), contender.acquired()).await;
        assert!(waited.is_err(), "served behind {below} of the line below");
        holder.release().await.unwrap();
        timeout(secs(1), contender.acquired()).await.expect("at once").unwrap();
        drop(crowd);
    }
}

/// Between the request that saw only a line below and the one that joins, somebody else has joined.
#[tokio::test(start_paused = true)]
async fn try_enqueue_after_child_names_sees_new_contender() {
    let store = Client::new(MemBackend::new());
    store.put("l/below/key", "").await.unwrap();
    let (other, asked) = (store.clone(), AtomicUsize::new(0));
    let rule = move |call: &Call| {
        if matches!(call, Call::Txn(_)) && asked.fetch_add(1, Ordering::Relaxed) == 1 {
            let put = other.put("l/other", "").now_or_never();
            put.expect("it never waits").expect("the store is there");
        }
        Action::Pass
    };
    let session = session_on(behind(&store, rule)).await;
    assert!(WaitQueue::new(&session, "l").try_enqueue("").await.unwrap().is_none());
}

/// Whenever it has looked, somebody has joined a line below, so that it had to look again.
#[tokio::test(start_paused = true)]
async fn try_enqueue_returns_while_child_names_change() {
    for held in [false, true] {
        let store = Client::new(MemBackend::new());
        let busy = store.clone();
        let count = AtomicUsize::new(0);
        let rule = move |call: &Call| {
            if matches!(call, Call::Txn(_)) {
                let nth = count.fetch_add(1, Ordering::Relaxed);
                let put = busy.put(format!("l/below/{nth}"), "").now_or_never();
                put.expect("it never waits").expect("the store is there");
            }
            Action::Delay(Duration::from_millis(1))
        };
        let session = session_on(behind(&store, rule)).await;
        let holder = WaitQueue::new(&self::session(&store).await, "l");
        let holder = if held { Some(holder.enqueue("").await.unwrap()) } else { None };
        let joined = timeout(secs(1), WaitQueue::new(&session, "l").try_enqueue("")).await;
        let joined = joined.expect("it is answered").unwrap();
        assert_eq!(joined.is_none(), held);
        drop((joined, holder));
        settle().await;
        let left = keys(&store, "l/").await;
        assert!(left.iter().all(|key| key.starts_with("l/below/")), "{left:?}");
    }
}

/// As the clients of etcd's Lock service expect it.
#[tokio::test(start_paused = true)]
async fn lease_keyed_enqueue_twice_creates_one_queue_entry() {
    let store = Client::new(MemBackend::new());
    let holder = WaitQueue::new(&session(&store).await, "l").enqueue("").await.unwrap();
    let session = session(&store).await;
    let line = WaitQueue::new(&session, "l");
    let (mut first, found) = line.enqueue_by_lease("first").await.unwrap();
    assert_eq!(first.key(), &format!("l/{}", session.lease_id()));
    assert!(found.is_none());
    let (mut again, found) = line.enqueue_by_lease("again").await.unwrap();
    assert_eq!((again.key(), again.fencing_token()), (first.key(), first.fencing_token()));
    assert_eq!(found.unwrap().value, "first");
    assert!(timeout(secs(1), first.acquired()).await.is_err());
    assert!(timeout(secs(1), again.acquired()).await.is_err());
    assert_eq!(keys(&store, "l/").await.len(), 2);

    holder.release().await.unwrap();
    first.acquired().await.unwrap();
    again.acquired().await.unwrap();
    // Whoever leaves takes the key away for both, and the next to join stands anew.
    first.release().await.unwrap();
    assert!(again.release().await.unwrap_err().loss().is_some());
    let (anew, found) = line.enqueue_by_lease("anew").await.unwrap();
    assert!(found.is_none());
    drop(anew);
    settle().await;
    assert_eq!(keys(&store, "l/").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn lease_keyed_enqueue_resolves_an_unknown_outcome() {
    for fate in [Action::DropResponse, Action::DropRequest] {
        let store = Client::new(MemBackend::new());
        let session = session_on(behind(&store, nth("txn", 1, 2, fate.clone()))).await;
        let line = WaitQueue::new(&session, "l");
        let (mut contender, found) = line.enqueue_by_lease("me").await.unwrap();
        assert_eq!(found.is_some(), matches!(fate, Action::DropResponse), "{fate:?}");
        contender.acquired().await.unwrap();
        assert_eq!(keys(&store, "l/").await, [format!("l/{}", session.lease_id())]);
        drop(contender);
        settle().await;
        assert_eq!(keys(&store, "l/").await, [""; 0]);
    }
}

/// Contenders of one session reuse each other's keys: a contender may get the key of its former
/// predecessor.
#[tokio::test(start_paused = true)]
async fn contender_with_reused_predecessor_key_acquires() {
    let store = Client::new(MemBackend::new());
    let line = WaitQueue::new(&session(&store).await, "l");
    let mut others = Vec::new();
    for _ in 0..6 {
        others.push(line.enqueue("").await.unwrap());
    }
    let former = others[5].key().clone();
    let mut last = line.enqueue("").await.unwrap();
    let (served, ()) = tokio::join!(last.acquired(), async {
        for other in others {
            settle().await;
            other.release().await.unwrap();
        }
    });
    served.unwrap();

    // Suffixes are reused lowest first: the sixth contender has the key of the predecessor.
    let mut back: Vec<_> = Vec::new();
    while back.last().map(|contender: &Contender| contender.key()) != Some(&former) {
        back.push(line.enqueue("").await.unwrap());
    }
    last.release().await.unwrap();
    for mut contender in back {
        timeout(secs(1), contender.acquired()).await.expect("it is first").unwrap();
        contender.release().await.unwrap();
    }
}
