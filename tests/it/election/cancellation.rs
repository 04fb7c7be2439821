//! Futures dropped wherever they wait: nobody stays in the line, and the next is elected.

use coord_mem::MemBackend;
use std::sync::atomic::{AtomicBool, Ordering};

use coord_core::{
    Client, Election, Session,
    error::{ErrorKind, PrimitiveError},
};
use coord_testkit::{Action, Call, poll_at_most};
use tokio::time::{sleep, timeout};

use super::{election, leader, some};
use crate::support::{POLLS_MAX, behind, keys, nth, secs, session_on, settle};

/// A session each of whose requests can be dropped before it is sent and before it is answered.
async fn yielding(store: &Client) -> Session {
    session_on(behind(store, |_: &Call| Action::Yield)).await
}

/// Calls `check` with 1, 2, 3, … polls until it says that its future ran through, which must take
/// more than `least` polls.
async fn at_every_await(least: usize, check: impl AsyncFn(usize) -> bool) {
    for polls in 1..POLLS_MAX {
        if check(polls).await {
            assert!(polls > least, "ran through in {polls} polls: never dropped on its way");
            return;
        }
    }
    panic!("it never ran through");
}

#[tokio::test(start_paused = true)]
async fn campaign_dropped_at_any_await_leaves_no_key() {
    for campaign in [false, true] {
        at_every_await(2, async |polls| {
            let store = Client::new(MemBackend::new());
            let election = Election::new(&yielding(&store).await, "e");
            let done = if campaign {
                poll_at_most(polls, election.campaign("a")).await.is_some()
            } else {
                poll_at_most(polls, election.enter("a")).await.is_some()
            };
            settle().await;
            assert_eq!(keys(&store, "e/").await, [""; 0], "dropped after {polls} polls");
            done
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_campaign_dropped_at_any_await_elects_next() {
    for split in [false, true] {
        // Each watch, the look, and entering, are waited for before they are sent and answered.
        at_every_await(if split { 6 } else { 8 }, async |polls| {
            let store = Client::new(MemBackend::new());
            let first = election(&store).await.campaign("first").await.unwrap();
            let doomed = Election::new(&yielding(&store).await, "e");
            let next = election(&store).await;
            let dropped = async {
                if split {
                    let candidate = doomed.enter("doomed").await.unwrap();
                    timeout(secs(3), poll_at_most(polls, candidate.elected())).await
                } else {
                    timeout(secs(3), poll_at_most(polls, doomed.campaign("doomed"))).await
                }
            };
            let (done, next, ()) = tokio::join!(
                async { dropped.await.is_ok_and(|elected| elected.is_some()) },
                async {
                    settle().await;
                    next.campaign("next").await.unwrap()
                },
                async {
                    sleep(secs(1)).await;
                    first.resign().await.unwrap();
                }
            );
            assert_eq!(leader(&store).await, some("next"));
            drop(next);
            settle().await;
            assert_eq!(keys(&store, "e/").await, [""; 0], "dropped after {polls} polls");
            done
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn resign_or_withdraw_dropped_at_any_await_releases() {
    for resign in [false, true] {
        at_every_await(2, async |polls| {
            let store = Client::new(MemBackend::new());
            let candidate = Election::new(&yielding(&store).await, "e").enter("a").await.unwrap();
            let next = election(&store).await.enter("next").await.unwrap();
            let done = if resign {
                let leadership = candidate.elected().await.unwrap();
                poll_at_most(polls, leadership.resign()).await.is_some()
            } else {
                poll_at_most(polls, candidate.withdraw()).await.is_some()
            };
            let next = timeout(secs(1), next.elected()).await.unwrap().unwrap();
            next.resign().await.unwrap();
            assert_eq!(keys(&store, "e/").await, [""; 0], "dropped after {polls} polls");
            done
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn proclaim_dropped_at_any_await_is_atomic() {
    at_every_await(2, async |polls| {
        let store = Client::new(MemBackend::new());
        let leadership = Election::new(&yielding(&store).await, "e").campaign("a").await.unwrap();
        let done = poll_at_most(polls, leadership.proclaim("b")).await.is_some();
        let value = leader(&store).await;
        assert!(value == some("b") || (value == some("a") && !done), "{value:?}");
        leadership.resign().await.unwrap();
        assert_eq!(keys(&store, "e/").await, [""; 0]);
        done
    })
    .await;
}

/// The fault: `resume` armed the cleanup of the key that it had found before it looked at the line,
/// so that a caller who gave up in between, or was answered with an error, took the leadership
/// away from itself.
#[tokio::test(start_paused = true)]
async fn resume_dropped_at_any_await_changes_nothing() {
    at_every_await(4, async |polls| {
        let store = Client::new(MemBackend::new());
        let old = yielding(&store).await;
        let before = Election::new(&old, "e").campaign("a").await.unwrap();
        let lease = old.orphan().await.unwrap();
        let backend = behind(&store, |_: &Call| Action::Yield);
        let new = Session::builder(&backend).lease(lease).open().await.unwrap();
        let election = Election::new(&new, "e");
        let resumed = poll_at_most(polls, election.resume()).await;
        let done = resumed.is_some();
        settle().await;
        assert_eq!(leader(&store).await, some("a"), "dropped after {polls} polls");
        let resumed = match resumed {
            Some(resumed) => resumed,
            None => election.resume().await,
        };
        let candidate = resumed.unwrap().expect("it is still there");
        assert_eq!(candidate.fencing_token(), before.fencing_token());
        candidate.elected().await.unwrap().resign().await.unwrap();
        done
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn next_dropped_at_any_await_loses_no_change() {
    at_every_await(2, async |polls| {
        let store = Client::new(MemBackend::new());
        let session = yielding(&store).await;
        let mut leaders = Election::new(&session, "e").observe();
        let first = poll_at_most(polls, leaders.next()).await;
        let done = first.is_some();
        if !done {
            assert_eq!(leaders.next().await.unwrap().unwrap(), None);
        }
        let leadership = election(&store).await.campaign("a").await.unwrap();
        let dropped = poll_at_most(polls, leaders.next()).await;
        let shown = match dropped {
            Some(shown) => shown,
            None => leaders.next().await,
        };
        assert_eq!(shown.unwrap().unwrap().unwrap().key(), leadership.key());
        done
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn run_while_held_dropped_at_any_await_keeps_leadership() {
    struct Dropped<'a>(&'a AtomicBool);
    impl Drop for Dropped<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let store = Client::new(MemBackend::new());
    let leadership = Election::new(&yielding(&store).await, "e").campaign("a").await.unwrap();
    for polls in 1..5 {
        let dropped = AtomicBool::new(false);
        let alarm = Dropped(&dropped);
        let work = async {
            let _alarm = alarm;
            std::future::pending::<()>().await;
        };
        let led = timeout(secs(1), poll_at_most(polls, leadership.run_while_held(work))).await;
        assert!(led.is_err() || led.is_ok_and(|led| led.is_none()));
        assert!(dropped.into_inner(), "after {polls} polls");
    }
    leadership.proclaim("still here").await.unwrap();
}

/// The request was sent and cannot be taken back: it creates the key after everybody has gone.
#[tokio::test(start_paused = true)]
async fn campaign_applied_after_its_future_dropped_leaves_no_key() {
    for delay in [1, 3, 7] {
        let store = Client::new(MemBackend::new());
        let session =
            session_on(behind(&store, nth("txn", 1, 1, Action::Delay(secs(delay))))).await;
        let election = Election::new(&session, "e");
        assert!(timeout(secs(1) / 2, election.campaign("late")).await.is_err());
        sleep(secs(20)).await;
        assert_eq!(keys(&store, "e/").await, [""; 0], "{delay} s late");
        let revision = store.put("x", "").await.unwrap().header.revision;
        assert_eq!(revision.0, 4, "it did arrive, and was removed: two changes before this one");
    }
}

#[tokio::test(start_paused = true)]
async fn campaign_with_unknown_outcome_fails_and_leaves_no_key() {
    for fate in [Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        let session = session_on(behind(&store, nth("txn", 1, 1, fate))).await;
        let election = Election::new(&session, "e");
        let error = election.campaign("a").await.unwrap_err();
        assert!(matches!(error, PrimitiveError::Backend(e) if e.kind() == ErrorKind::Unavailable));
        settle().await;
        assert_eq!(keys(&store, "e/").await, [""; 0]);
        election.campaign("b").await.unwrap().resign().await.unwrap();
    }
}
