//! The double barrier: rounds, late and surplus participants, losses, and requests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coord_core::error::LossReason;
use coord_core::kv::{
    Compact, LeaseStatus, LeaseTimeToLive, LeaseTimeToLiveResponse, Put, Revision, Txn,
};
use coord_core::layer::Layer;
use coord_core::recipes::{
    DoubleBarrier, DoubleBarrierError, DoubleBarrierGuard, OnParticipantLoss,
};
use coord_core::{Client, KvBackend as _, Session};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule as _};
use futures_util::future::{join_all, try_join_all};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    SilentWatches, intercepted, is_keep_alive, keys, newest_revision, nth, secs, session,
    session_on, settle,
};
use crate::while_waiting::while_waiting;

fn store() -> Client {
    Client::new(MemBackend::new())
}

fn barrier(session: &Session, parties: usize) -> DoubleBarrier {
    DoubleBarrier::new(session, "b", parties).unwrap()
}

/// A barrier for each of `parties` sessions.
async fn barriers(store: &Client, parties: usize) -> Vec<DoubleBarrier> {
    join_all((0..parties).map(async |_| barrier(&session(store).await, parties))).await
}

/// All of the barriers enter the round.
async fn enter_all(barriers: &[DoubleBarrier], round: u64) -> Vec<DoubleBarrierGuard> {
    try_join_all(barriers.iter().map(|barrier| barrier.enter(round))).await.unwrap()
}

fn shrinking(barrier: DoubleBarrier) -> DoubleBarrier {
    barrier.on_loss(OnParticipantLoss::Shrink)
}

/// The first participant is dropped, and all others leave.
async fn leave_without_first(mut guards: Vec<DoubleBarrierGuard>) {
    drop(guards.remove(0));
    settle().await;
    let left = join_all(guards.into_iter().map(|guard| guard.leave())).await;
    assert!(left.iter().all(Result::is_ok), "{left:?}");
}

/// The key of a lost participant that an error names.
fn lost_key<T: std::fmt::Debug>(result: Result<T, DoubleBarrierError>) -> bytes::Bytes {
    match result {
        Err(DoubleBarrierError::ParticipantLost { key, .. }) => key,
        other => panic!("no participant was lost: {other:?}"),
    }
}

/// Go's `TestDoubleBarrier`: ten enter together and leave together, none early.
#[tokio::test(start_paused = true)]
async fn ten_parties_enter_and_leave_together() {
    let store = store();
    let mut tasks = JoinSet::new();
    for n in 0..10_u64 {
        let barrier = barrier(&session(&store).await, 10);
        tasks.spawn(async move {
            let mut times = Vec::new();
            for round in 1..=3 {
                sleep(secs(n)).await;
                let inside = barrier.enter(round).await.unwrap();
                assert_eq!((inside.round(), inside.participants().count()), (round, 10));
                times.push(Instant::now());
                sleep(secs(10 - n)).await;
                inside.leave().await.unwrap();
                times.push(Instant::now());
            }
            times
        });
    }
    let start = Instant::now();
    for times in tasks.join_all().await {
        let secs: Vec<_> = times.iter().map(|time| (*time - start).as_secs()).collect();
        assert_eq!(secs, [9, 19, 28, 38, 47, 57], "with the last one, each time");
    }
    assert_eq!(keys(&store, "").await, ["b/state"], "one persistent key");
}

/// Go's `TestDoubleBarrierTooManyClients`.
#[tokio::test(start_paused = true)]
async fn surplus_participant_is_refused_and_leaves_no_key() {
    let store = store();
    let barriers = barriers(&store, 10).await;
    let guards = enter_all(&barriers, 1).await;
    let eleventh = barrier(&session(&store).await, 10);
    let error = eleventh.enter(1).await.unwrap_err();
    assert!(matches!(error, DoubleBarrierError::TooManyParties { round: 1, parties: 10 }));
    assert_eq!(keys(&store, "b/").await.len(), 10 + 1, "the participants and the state");
    try_join_all(guards.into_iter().map(DoubleBarrierGuard::leave)).await.unwrap();
}

/// Go's `TestDoubleBarrierFailover`: a participant's session ends inside. The rest is not stranded:
/// the errors of all of them name its key.
#[tokio::test(start_paused = true)]
async fn participant_lost_inside_is_named_to_all_that_leave() {
    let store = store();
    let barriers = barriers(&store, 5).await;
    let mut guards = enter_all(&barriers, 1).await;
    let lost = guards.remove(2);
    let key = lost.key().clone();
    let late = guards.pop().unwrap();
    let leaving = join_all(guards.into_iter().map(DoubleBarrierGuard::leave));
    let ((left, at), ()) = while_waiting(async { (leaving.await, Instant::now()) }, async {
        lost.session().close().await.unwrap()
    })
    .await;
    assert!(at.elapsed() < secs(10));
    assert!(left.into_iter().map(lost_key).all(|named| named == key));
    sleep(secs(30)).await;
    assert_eq!(lost_key(late.leave().await), key, "also to one that leaves later");
    assert!(matches!(
        barriers[0].enter(1).await.unwrap_err(),
        DoubleBarrierError::PastRound { round: 1, last: 1 }
    ));
    settle().await;
    assert_eq!(keys(&store, "b/").await, ["b/state"]);
}

#[tokio::test(start_paused = true)]
async fn participant_lost_while_others_wait_is_named() {
    let store = store();
    let barriers = barriers(&store, 4).await;
    let doomed = session(&store).await;
    let crashing = barrier(&doomed, 4);
    let waiting = join_all(barriers[..2].iter().map(|barrier| barrier.enter(1)));
    let crash = async {
        let entering = crashing.enter(1);
        assert!(timeout(secs(1), entering).await.is_err());
        let (failed, key) = while_waiting(crashing.enter(1), async {
            let key = store.get_prefix("b/").await.unwrap().pop().unwrap().key;
            doomed.close().await.unwrap();
            key
        })
        .await;
        assert_eq!(failed.unwrap_err().loss(), Some(LossReason::Closed));
        key
    };
    let (waited, key) = tokio::join!(waiting, crash);
    let leases: Vec<_> = waited.into_iter().map(lost_key).collect();
    let lease = doomed.lease_id().to_string();
    assert!(
        leases.iter().all(|named| named.escape_ascii().to_string().contains(&lease)),
        "{key:?}"
    );
    settle().await;
    assert_eq!(keys(&store, "b/").await, [""; 0]);
    for guard in enter_all(&barriers, 1).await {
        drop(guard);
    }
}

/// A store in which the first `behind` queries of a lease go to a server that has not applied the
/// end of the lease, and perhaps nothing that was written before.
#[derive(Debug)]
struct StaleLeases {
    inner: MemBackend,
    behind: AtomicUsize,
    is_behind_all_writes: bool,
}

#[async_trait]
impl Layer for StaleLeases {
    type Inner = MemBackend;

    fn inner(&self) -> &MemBackend {
        &self.inner
    }

    async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLive,
    ) -> coord_core::Result<LeaseTimeToLiveResponse> {
        let mut response = self.inner.lease_time_to_live(request).await?;
        let left = self.behind.load(Ordering::Relaxed);
        if left > 0 {
            self.behind.store(left - 1, Ordering::Relaxed);
            let (granted, remaining) = (secs(10), secs(5));
            response.lease = Some(LeaseStatus { granted, remaining, keys: Vec::new() });
            if self.is_behind_all_writes {
                response.header.revision = Revision(1);
            }
        }
        Ok(response)
    }
}

/// Regression: a participant counted as withdrawn if its lease was queried on a server that was
/// behind, and the others waited without end.
#[tokio::test(start_paused = true)]
async fn stale_server_delays_the_loss_of_a_participant() {
    for (behind, is_behind_all_writes, within) in [(0, false, 1), (1, false, 2), (5, true, 6)] {
        let inner = MemBackend::new();
        let store = Client::new(inner.clone());
        let behind = AtomicUsize::new(behind);
        let stale = StaleLeases { inner, behind, is_behind_all_writes };
        let waits = barrier(&session_on(Client::new(stale)).await, 2 + 1);
        let doomed = session(&store).await;
        let crashing = barrier(&doomed, 2 + 1);
        let waiting = async { (timeout(secs(100), waits.enter(1)).await, Instant::now()) };
        let ((waited, at), closed) = while_waiting(waiting, async {
            let (failed, closed) = while_waiting(crashing.enter(1), async {
                doomed.close().await.unwrap();
                Instant::now()
            })
            .await;
            failed.unwrap_err();
            closed
        })
        .await;
        lost_key(waited.expect("the others do not wait without end"));
        assert!(at - closed < secs(within), "{:?}", at - closed);
    }
}

/// Regression: the watch of deletions began after the view, so a participant that came and was lost
/// in between was not seen.
#[tokio::test(start_paused = true)]
async fn participant_lost_before_the_watch_is_registered_is_named() {
    let store = store();
    let slow = intercepted(&store, nth("watch", 1, 2, Action::Delay(secs(2))));
    let waits = barrier(&session_on(slow).await, 3);
    let waiting = timeout(secs(100), waits.enter(1));
    let (waited, ()) = while_waiting(waiting, async {
        let doomed = session(&store).await;
        let crashing = barrier(&doomed, 3);
        let (failed, closed) = while_waiting(crashing.enter(1), doomed.close()).await;
        closed.unwrap();
        failed.unwrap_err();
    })
    .await;
    lost_key(waited.expect("it does not wait without end"));
}

/// Regression: the loss of a party that was listed as lost in the last round was not noticed in the
/// next round, so the others waited without end.
#[tokio::test(start_paused = true)]
async fn party_lost_in_two_rounds_is_named_in_both() {
    let store = store();
    let doomed = session(&store).await;
    let parties = barriers(&store, 3).await;
    let crashing = barrier(&doomed, 3);
    let entered = tokio::join!(crashing.enter(7), enter_all(&parties[..2], 7));
    let (first, others) = (entered.0.unwrap(), entered.1);
    let first_key = first.key().clone();
    drop(first);
    settle().await;
    for left in join_all(others.into_iter().map(DoubleBarrierGuard::leave)).await {
        assert_eq!(lost_key(left), first_key);
    }

    let waiting = timeout(secs(100), parties[0].enter(8));
    let (waited, ()) = while_waiting(waiting, async {
        let (failed, closed) = while_waiting(crashing.enter(8), doomed.close()).await;
        closed.unwrap();
        failed.unwrap_err();
    })
    .await;
    let second_key = lost_key(waited.expect("it does not wait without end"));
    assert_ne!(second_key, first_key);
}

/// Regression: each loss of one party was listed in the state of a barrier that shrinks.
#[tokio::test(start_paused = true)]
async fn lost_party_is_listed_once_in_the_state() {
    let store = store();
    let barriers: Vec<_> = barriers(&store, 3).await.into_iter().map(shrinking).collect();
    let [lost, a, _] = &barriers[..] else { unreachable!() };
    leave_without_first(enter_all(&barriers, 1).await).await;
    for round in 2..20 {
        // `lost` enters in place of one of the others, and is lost again.
        let (first, second) = tokio::join!(lost.enter(round), a.enter(round));
        leave_without_first(vec![first.unwrap(), second.unwrap()]).await;
    }
    let state = store.get("b/state").await.unwrap().unwrap().value;
    let listed = state.rsplit(|byte| *byte == b' ').next().unwrap().escape_ascii().to_string();
    assert_eq!(listed.split(',').count(), 1, "{listed}");
}

/// A future that is dropped withdraws: its session lives, so it may come again, and is not lost.
#[tokio::test(start_paused = true)]
async fn withdrawn_participant_is_awaited_again() {
    for on_loss in [OnParticipantLoss::Fail, OnParticipantLoss::Shrink] {
        let store = store();
        let barriers: Vec<_> =
            barriers(&store, 3).await.into_iter().map(|b| b.on_loss(on_loss)).collect();
        let (entered, others) = tokio::join!(barriers[0].enter(1), async {
            assert!(timeout(secs(5), barriers[1].enter(1)).await.is_err());
            assert!(timeout(secs(50), barriers[1].enter(1)).await.is_err());
            enter_all(&barriers[1..], 1).await
        });
        assert_eq!((entered.unwrap().participants().count(), others.len()), (3, 2));
    }
}

/// Regression: the key of an attempt that was dropped counted beside the key of the next attempt,
/// so that two of three parties entered.
#[tokio::test(start_paused = true)]
async fn party_that_enters_again_at_once_counts_once() {
    let store = store();
    let barriers = barriers(&store, 3).await;
    // The request of the dropped attempt creates its key late.
    for delay in [0, 1, 15] {
        let client = intercepted(&store, nth("txn", 1, 1, Action::Delay(secs(delay))));
        let again = barrier(&session_on(client).await, 3);
        let early = timeout(secs(40), barriers[0].enter(1));
        let (early, ()) = while_waiting(early, async {
            assert!(timeout(secs(1) / 2, again.enter(1)).await.is_err());
            assert!(timeout(secs(35), again.enter(1)).await.is_err(), "two of three parties");
        })
        .await;
        assert!(early.is_err(), "two of three parties");
        settle().await;
        assert_eq!(keys(&store, "b/").await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn late_participant_of_a_past_round_gets_its_number() {
    let store = store();
    let barriers = barriers(&store, 2).await;
    for round in [1, 2, 7] {
        for guard in
            join_all(enter_all(&barriers, round).await.into_iter().map(|g| g.leave())).await
        {
            guard.unwrap();
        }
    }
    for round in [1, 2, 6, 7] {
        let error = timeout(secs(1), barriers[0].enter(round)).await.unwrap().unwrap_err();
        let text = format!("round {round} is over: the last round is 7, so enter round 8");
        assert_eq!(error.to_string(), text);
    }
    assert_eq!(keys(&store, "b/").await, ["b/state"]);
    let state = store.get("b/state").await.unwrap().unwrap().value;
    assert!(state.starts_with(b"7 finished 2 "), "{state:?}");
}

/// Regression: the message overflowed after the last possible round.
#[tokio::test(start_paused = true)]
async fn error_after_the_last_possible_round_prints() {
    let barriers = barriers(&store(), 1).await;
    barriers[0].enter(u64::MAX).await.unwrap().leave().await.unwrap();
    let error = barriers[0].enter(5).await.unwrap_err();
    assert!(error.to_string().contains("round 5 is over"), "{error}");
}

/// Regression: a party that was lost in two rounds counted as two, so the barrier shrank to one.
#[tokio::test(start_paused = true)]
async fn party_that_is_lost_twice_shrinks_the_barrier_once() {
    let store = store();
    let barriers: Vec<_> = barriers(&store, 3).await.into_iter().map(shrinking).collect();
    let [lost, a, b] = &barriers[..] else { unreachable!() };
    let guards = enter_all(&barriers, 1).await;
    leave_without_first(guards).await;
    // `lost` enters in place of one of the others, and is lost again.
    let (first, second) = tokio::join!(lost.enter(2), a.enter(2));
    leave_without_first(vec![first.unwrap(), second.unwrap()]).await;
    let alone = timeout(secs(5), a.enter(3)).await;
    assert!(alone.is_err(), "one party has entered alone: {alone:?}");
    let (first, second) = tokio::join!(a.enter(3), b.enter(3));
    drop((first.unwrap(), second.unwrap()));
}

/// Regression: a participant whose key was deleted received the error that another one was lost, or
/// left without an error.
#[tokio::test(start_paused = true)]
async fn evicted_participant_of_a_finished_round_is_lost() {
    for is_shrinking in [false, true] {
        let store = store();
        let barriers = barriers(&store, 2).await;
        let barriers: Vec<_> = match is_shrinking {
            true => barriers.into_iter().map(shrinking).collect(),
            false => barriers,
        };
        let [evicted, other] = <[_; 2]>::try_from(enter_all(&barriers, 1).await).unwrap();
        store.delete(evicted.key()).await.unwrap();
        let _ = timeout(secs(5), other.leave()).await.unwrap();
        let error = timeout(secs(5), evicted.leave()).await.unwrap().unwrap_err();
        assert_eq!(error.loss(), Some(LossReason::KeyDeleted), "{error}");
    }
}

/// Rounds of disjoint participants: the later round ends the earlier one.
#[tokio::test(start_paused = true)]
async fn later_round_ends_the_earlier_one() {
    let store = store();
    let barriers = barriers(&store, 2).await;
    let (others, mut earlier) =
        (self::barriers(&store, 2).await, enter_all(&barriers, 1).await.into_iter());
    let (failed, guards) =
        while_waiting(earlier.next().unwrap().leave(), async { enter_all(&others, 2).await }).await;
    assert!(matches!(failed, Err(DoubleBarrierError::PastRound { round: 1, last: 2 })));
    try_join_all(guards.into_iter().map(DoubleBarrierGuard::leave)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn invalid_parties_and_rounds_are_typed_errors() {
    let (store, recorder) = (store(), Recorder::new());
    let session = session_on(intercepted(&store, recorder.clone())).await;
    recorder.take();
    let none = DoubleBarrier::new(&session, "b", 0).unwrap_err();
    assert!(matches!(none, DoubleBarrierError::NoParties));
    let zero = barrier(&session, 1).enter(0).await.unwrap_err();
    assert!(matches!(zero, DoubleBarrierError::RoundZero));
    assert_eq!(recorder.take().names(), "", "nothing was sent");

    barrier(&session, 1).enter(1).await.unwrap().leave().await.unwrap();
    let disagree = barrier(&session, 2).enter(2).await.unwrap_err();
    assert!(matches!(disagree, DoubleBarrierError::PartiesDisagree { given: 2, stored: 1 }));
    store.put("b/state", "other data").await.unwrap();
    let error = barrier(&session, 1).enter(2).await.unwrap_err();
    assert!(error.to_string().contains("\"other data\" is no state"), "{error}");
    settle().await;
    assert_eq!(keys(&store, "b/").await, ["b/state"]);
}

/// Go's Nth participant writes the key that the others wait for, and they wait forever if it
/// crashes before. Here its request hangs, and then its session is lost.
#[tokio::test(start_paused = true)]
async fn last_participant_lost_at_once_strands_no_other() {
    for on_loss in [OnParticipantLoss::Fail, OnParticipantLoss::Shrink] {
        let store = store();
        let barriers: Vec<_> =
            barriers(&store, 3).await.into_iter().map(|b| b.on_loss(on_loss)).collect();
        // Its first transaction creates its key; the second, which completes the round, hangs.
        let client = intercepted(&store, nth("txn", 2, 99, Action::Hang));
        let doomed = session_on(client).await;
        let last = barrier(&doomed, 3).on_loss(on_loss);
        let waiting = join_all(barriers[..2].iter().map(|barrier| barrier.enter(1)));
        let crash = async {
            settle().await;
            tokio::select! {
                biased;
                _ = last.enter(1) => panic!("it cannot enter"),
                () = sleep(secs(1)) => {}
            }
            doomed.close().await.unwrap();
        };
        let (waited, ()) = timeout(secs(30), async { tokio::join!(waiting, crash) }).await.unwrap();
        for entered in waited {
            match (on_loss, entered) {
                (OnParticipantLoss::Shrink, Ok(guard)) => assert_eq!(guard.round(), 1),
                (_, failed) => assert!(lost_key(failed).starts_with(b"b/")),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn shrinking_barrier_continues_with_one_party_less() {
    let store = store();
    let shrink = |barrier: DoubleBarrier| barrier.on_loss(OnParticipantLoss::Shrink);
    let barriers: Vec<_> = barriers(&store, 4).await.into_iter().map(shrink).collect();
    // One is lost while the others wait.
    let doomed = session(&store).await;
    let lost_early = shrink(barrier(&doomed, 4));
    let entering = try_join_all(barriers[..3].iter().map(|barrier| barrier.enter(1)));
    let crash = async {
        sleep(secs(1)).await;
        // The session ends with its key in the round.
        let (failed, closed) = while_waiting(lost_early.enter(1), doomed.close()).await;
        closed.unwrap();
        failed.map(drop)
    };
    // With its key, all four are present, so that it may have entered.
    let (guards, _) = tokio::join!(entering, crash);
    let guards = guards.unwrap();
    try_join_all(guards.into_iter().map(DoubleBarrierGuard::leave)).await.unwrap();

    // In the next round three are enough. One of them is lost inside.
    let mut guards = enter_all(&barriers[..3], 2).await;
    let lost = guards.pop().unwrap();
    let leaving = try_join_all(guards.into_iter().map(DoubleBarrierGuard::leave));
    let (left, closed) = while_waiting(leaving, lost.session().close()).await;
    left.unwrap();
    closed.unwrap();
    let guards = enter_all(&barriers[..2], 3).await;
    let third = barriers[3].enter(3).await.unwrap_err();
    assert!(matches!(third, DoubleBarrierError::TooManyParties { round: 3, parties: 2 }));
    try_join_all(guards.into_iter().map(DoubleBarrierGuard::leave)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn guard_reports_its_own_loss() {
    let store = store();
    let barriers = barriers(&store, 2).await;
    let mut guards = enter_all(&barriers, 1).await;
    let (evicted, other) = (guards.pop().unwrap(), guards.pop().unwrap());
    evicted.txn(Txn::new().and_then([Put::new("n", "1")])).await.unwrap();
    assert_eq!(evicted.run_while_held(async { 1 }).await, Ok(1));
    let (reason, deleted) = while_waiting(evicted.lost(), store.delete(evicted.key())).await;
    deleted.unwrap();
    assert_eq!(reason, LossReason::KeyDeleted);
    let late = evicted.txn(Txn::new().and_then([Put::new("n", "2")])).await;
    assert_eq!(late.unwrap_err().loss(), Some(LossReason::KeyDeleted));
    let key = evicted.key().clone();
    assert_eq!(evicted.leave().await.unwrap_err().loss(), Some(LossReason::KeyDeleted));
    assert_eq!(lost_key(other.leave().await), key);
}

/// Go's participants enter or hang when a watch ends.
#[tokio::test(start_paused = true)]
async fn compaction_while_waiting_lets_no_party_enter_early() {
    let store = store();
    let barriers = barriers(&store, 2).await;
    let (entered, other) = tokio::join!(barriers[0].enter(1), async {
        sleep(secs(1)).await;
        let revision = store.put("other", "1").await.unwrap().header.revision;
        store.compact(Compact::new(revision)).await.unwrap();
        sleep(secs(1)).await;
        barriers[1].enter(1).await
    });
    let (first, second) = (entered.unwrap(), other.unwrap());
    let (left, other) = tokio::join!(first.leave(), async {
        sleep(secs(1)).await;
        let revision = newest_revision(&store).await;
        store.compact(Compact::new(revision)).await.unwrap();
        second.leave().await
    });
    left.unwrap();
    other.unwrap();
}

#[tokio::test(start_paused = true)]
async fn silent_watches_delay_a_party_by_a_ttl_at_most() {
    let store = store();
    let client = intercepted(&store, SilentWatches(Recorder::new()));
    let (one, two) = (session_on(client).await, session(&store).await);
    let (one, two) = (barrier(&one, 2), barrier(&two, 2));
    let start = Instant::now();
    let (entered, other) = tokio::join!(one.enter(1), async {
        sleep(secs(1)).await;
        two.enter(1).await
    });
    assert!(start.elapsed() <= secs(11));
    let (left, other) = tokio::join!(entered.unwrap().leave(), other.unwrap().leave());
    left.unwrap();
    other.unwrap();
    assert!(start.elapsed() <= secs(22));
}

#[tokio::test(start_paused = true)]
async fn enter_and_leave_cost_as_documented() {
    let (store, first, last) = (store(), Recorder::new(), Recorder::new());
    let requests = |recorder: &Recorder| {
        let recording = recorder.clone();
        move |call: &Call| if is_keep_alive(call) { Action::Pass } else { recording.action(call) }
    };
    let waits = barrier(&session_on(intercepted(&store, requests(&first))).await, 2);
    let comes = barrier(&session_on(intercepted(&store, requests(&last))).await, 2);
    first.take();
    last.take();
    let (entered, other) = while_waiting(waits.enter(1), comes.enter(1)).await;
    assert_eq!(first.take().names(), "txn watch watch");
    assert_eq!(last.take().names(), "txn txn", "the last one completes the round");
    let (entered, other) = (entered.unwrap(), other.unwrap());
    let (left, other) = while_waiting(entered.leave(), other.leave()).await;
    left.unwrap();
    other.unwrap();
    assert_eq!(first.take().names(), "txn watch watch");
    assert_eq!(last.take().names(), "txn txn", "the last one finishes the round");
    sleep(Duration::from_millis(500)).await;
    assert_eq!(first.take().names() + &last.take().names(), "", "its keys are deleted by then");
}
