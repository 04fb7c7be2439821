//! Cancellation of election calls at every await: no key stays behind, and the next candidate is
//! elected.

use std::sync::atomic::{AtomicBool, Ordering};

use coord_core::{
    Client, Election, Session,
    error::{ErrorKind, PrimitiveError},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, poll_at_most};
use tokio::time::{sleep, timeout};

use super::{election, leader, some};
use crate::support::{POLLS_MAX, intercepted, keys, nth, secs, session_on, settle};

/// A session whose requests can be cancelled before they are sent and before the response returns.
async fn yielding_session(store: &Client) -> Session {
    session_on(intercepted(store, |_: &Call| Action::Yield)).await
}

/// Calls `check` with 1, 2, 3, … polls until it returns that its future is complete, which must
/// take more than `min_polls` polls.
async fn at_every_await(min_polls: usize, check: impl AsyncFn(usize) -> bool) {
    for polls in 1..POLLS_MAX {
        if check(polls).await {
            assert!(polls > min_polls, "complete after {polls} polls: never dropped at an await");
            return;
        }
    }
    panic!("not complete after {POLLS_MAX} polls");
}

#[tokio::test(start_paused = true)]
async fn campaign_dropped_at_any_await_leaves_no_key() {
    for enters_only in [true, false] {
        at_every_await(2, async |polls| {
            let store = Client::new(MemBackend::new());
            let election = Election::new(&yielding_session(&store).await, "e");
            let is_complete = if enters_only {
                poll_at_most(polls, election.enter("a")).await.is_some()
            } else {
                poll_at_most(polls, election.campaign("a")).await.is_some()
            };
            settle().await;
            assert_eq!(keys(&store, "e/").await, [""; 0], "dropped after {polls} polls");
            is_complete
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_campaign_dropped_at_any_await_elects_next() {
    for is_entered in [false, true] {
        // Two awaits for each request: two watches, a read and, unless it is entered, the enqueue.
        at_every_await(if is_entered { 6 } else { 8 }, async |polls| {
            let store = Client::new(MemBackend::new());
            let first = election(&store).await.campaign("first").await.unwrap();
            let second = Election::new(&yielding_session(&store).await, "e");
            let next = election(&store).await;
            let dropped = async {
                if is_entered {
                    let candidate = second.enter("dropped").await.unwrap();
                    timeout(secs(3), poll_at_most(polls, candidate.elected())).await
                } else {
                    timeout(secs(3), poll_at_most(polls, second.campaign("dropped"))).await
                }
            };
            let (is_complete, next, ()) = tokio::join!(
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
            is_complete
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn resign_or_withdraw_dropped_at_any_await_releases() {
    for resign in [false, true] {
        at_every_await(2, async |polls| {
            let store = Client::new(MemBackend::new());
            let candidate =
                Election::new(&yielding_session(&store).await, "e").enter("a").await.unwrap();
            let next = election(&store).await.enter("next").await.unwrap();
            let is_complete = if resign {
                let leadership = candidate.elected().await.unwrap();
                poll_at_most(polls, leadership.resign()).await.is_some()
            } else {
                poll_at_most(polls, candidate.withdraw()).await.is_some()
            };
            let next = timeout(secs(1), next.elected()).await.unwrap().unwrap();
            next.resign().await.unwrap();
            assert_eq!(keys(&store, "e/").await, [""; 0], "dropped after {polls} polls");
            is_complete
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn proclaim_dropped_at_any_await_is_atomic() {
    at_every_await(2, async |polls| {
        let store = Client::new(MemBackend::new());
        let leadership =
            Election::new(&yielding_session(&store).await, "e").campaign("a").await.unwrap();
        let is_complete = poll_at_most(polls, leadership.proclaim("b")).await.is_some();
        let value = leader(&store).await;
        assert!(value == some("b") || (value == some("a") && !is_complete), "{value:?}");
        leadership.resign().await.unwrap();
        assert_eq!(keys(&store, "e/").await, [""; 0]);
        is_complete
    })
    .await;
}

/// `resume` armed the cleanup of the key that it had found before it read the queue. If the call
/// was dropped in between, the cleanup deleted the key of the leader.
#[tokio::test(start_paused = true)]
async fn resume_dropped_at_any_await_changes_nothing() {
    at_every_await(4, async |polls| {
        let store = Client::new(MemBackend::new());
        let owner = yielding_session(&store).await;
        let orphaned = Election::new(&owner, "e").campaign("a").await.unwrap();
        let lease = owner.orphan().await.unwrap();
        let client = intercepted(&store, |_: &Call| Action::Yield);
        let adopter = Session::builder(&client).lease(lease).open().await.unwrap();
        let election = Election::new(&adopter, "e");
        let resumed = poll_at_most(polls, election.resume()).await;
        let is_complete = resumed.is_some();
        settle().await;
        assert_eq!(leader(&store).await, some("a"), "dropped after {polls} polls");
        let resumed = match resumed {
            Some(resumed) => resumed,
            None => election.resume().await,
        };
        let candidate = resumed.unwrap().expect("the key exists");
        assert_eq!(candidate.fencing_token(), orphaned.fencing_token());
        candidate.elected().await.unwrap().resign().await.unwrap();
        is_complete
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn next_dropped_at_any_await_loses_no_change() {
    at_every_await(2, async |polls| {
        let store = Client::new(MemBackend::new());
        let session = yielding_session(&store).await;
        let mut leaders = Election::new(&session, "e").observe();
        let first = poll_at_most(polls, leaders.next()).await;
        let is_complete = first.is_some();
        if !is_complete {
            assert_eq!(leaders.next().await.unwrap().unwrap(), None);
        }
        let leadership = election(&store).await.campaign("a").await.unwrap();
        let next = match poll_at_most(polls, leaders.next()).await {
            Some(next) => next,
            None => leaders.next().await,
        };
        assert_eq!(next.unwrap().unwrap().unwrap().key(), leadership.key());
        is_complete
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn run_while_held_dropped_at_any_await_keeps_leadership() {
    struct SetOnDrop<'a>(&'a AtomicBool);
    impl Drop for SetOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let store = Client::new(MemBackend::new());
    let leadership =
        Election::new(&yielding_session(&store).await, "e").campaign("a").await.unwrap();
    for polls in 1..5 {
        let is_dropped = AtomicBool::new(false);
        let set_on_drop = SetOnDrop(&is_dropped);
        let work = async {
            let _set_on_drop = set_on_drop;
            std::future::pending::<()>().await;
        };
        let led = timeout(secs(1), poll_at_most(polls, leadership.run_while_held(work))).await;
        assert!(led.is_err() || led.is_ok_and(|led| led.is_none()));
        assert!(is_dropped.into_inner(), "after {polls} polls");
    }
    leadership.proclaim("still leading").await.unwrap();
}

/// The request was sent, so dropping its future does not stop it: it creates the key later.
#[tokio::test(start_paused = true)]
async fn campaign_applied_after_its_future_dropped_leaves_no_key() {
    for delay in [1, 3, 7] {
        let store = Client::new(MemBackend::new());
        let delayed = intercepted(&store, nth("txn", 1, 1, Action::Delay(secs(delay))));
        let election = Election::new(&session_on(delayed).await, "e");
        assert!(timeout(secs(1) / 2, election.campaign("late")).await.is_err());
        sleep(secs(20)).await;
        assert_eq!(keys(&store, "e/").await, [""; 0], "delayed by {delay} s");
        let revision = store.put("x", "").await.unwrap().header.revision;
        assert_eq!(revision.0, 4, "the key was created and deleted before");
    }
}

#[tokio::test(start_paused = true)]
async fn campaign_with_unknown_outcome_fails_and_leaves_no_key() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        let session = session_on(intercepted(&store, nth("txn", 1, 1, action))).await;
        let election = Election::new(&session, "e");
        let error = election.campaign("a").await.unwrap_err();
        assert!(matches!(error, PrimitiveError::Backend(e) if e.kind() == ErrorKind::Unavailable));
        settle().await;
        assert_eq!(keys(&store, "e/").await, [""; 0]);
        election.campaign("b").await.unwrap().resign().await.unwrap();
    }
}
