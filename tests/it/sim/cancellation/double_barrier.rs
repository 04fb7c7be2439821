//! Cancellation cases of double barriers. A barrier is below `data/`, because its state persists.

use std::time::Duration;

use coord_core::Session;
use coord_core::error::LossReason;
use coord_core::kv::{Put, Txn};
use coord_core::recipes::{DoubleBarrier, DoubleBarrierError, DoubleBarrierGuard};
use tokio::time::sleep;

use super::queue::delete_later;
use super::trial::{Trial, close, session_of};
use super::{Case, drop_all};
use crate::support::{keys, secs};

#[test]
fn dropped_double_barrier_calls_leave_no_participant() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(&["DoubleBarrier::enter"], "before the last party", enter_first),
        Case::new(&["DoubleBarrier::enter"], "as the last party", enter_last),
        Case::new(&["DoubleBarrier::enter"], "the round is over", enter_late),
        Case::new(&["DoubleBarrierGuard::leave"], "before the last party", leave_first),
        Case::new(&["DoubleBarrierGuard::leave"], "as the last party", leave_last),
        Case::new(&["DoubleBarrierGuard::txn"], "then left", guard_txn),
        Case::new(&["DoubleBarrierGuard::lost"], "the key is deleted", guard_lost),
        Case::new(
            &["DoubleBarrierGuard::run_while_held"],
            "the work takes a second",
            run_while_held,
        ),
    ]
}

fn barrier(session: &Session, parties: usize) -> DoubleBarrier {
    DoubleBarrier::new(session, "data/b", parties).unwrap()
}

/// Enters and leaves rounds until a round has ended for all of its parties.
async fn take_part(barrier: DoubleBarrier) -> u64 {
    let mut round = 1;
    loop {
        match barrier.enter(round).await {
            Ok(inside) => match inside.leave().await {
                Ok(()) => return round,
                Err(DoubleBarrierError::ParticipantLost { .. }) => round += 1,
                Err(error) => panic!("{error}"),
            },
            Err(DoubleBarrierError::PastRound { last, .. }) => round = last + 1,
            Err(DoubleBarrierError::TooManyParties { .. }) => {
                sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// No participant is left, although the session still lives.
async fn no_participant_is_left(t: &Trial, session: &Session) {
    t.messages_arrive().await;
    let left = keys(t.other.client(), "data/b/").await;
    assert!(left.iter().all(|key| key == "data/b/state"), "{left:?}");
    close(session).await;
}

/// Another party enters after `delay`. If the future under test is dropped, a third one takes its
/// place.
async fn enter(t: Trial, delay: Duration) {
    let (holder, session) = (session_of(&t.holder).await, t.session().await);
    let party = barrier(&holder, 2);
    let other = t.holder.spawn(async move {
        sleep(delay).await;
        take_part(party).await
    });
    sleep(secs(1) / 2).await;
    match t.drop_at_await(barrier(&session, 2).enter(1)).await {
        Some(entered) => t.proceeds(entered.unwrap().leave()).await.unwrap(),
        None => {
            let next = session_of(&t.other).await;
            sleep(secs(1)).await;
            t.proceeds(take_part(barrier(&next, 2))).await;
            next.close().await.unwrap();
        }
    }
    t.proceeds(other).await;
    holder.close().await.unwrap();
    no_participant_is_left(&t, &session).await;
}

async fn enter_first(t: Trial) {
    enter(t, secs(1)).await;
}

async fn enter_last(t: Trial) {
    enter(t, Duration::ZERO).await;
}

async fn enter_late(t: Trial) {
    let (holder, session) = (session_of(&t.holder).await, t.session().await);
    take_part(barrier(&holder, 1)).await;
    if let Some(entered) = t.drop_at_await(barrier(&session, 1).enter(1)).await {
        assert!(matches!(entered, Err(DoubleBarrierError::PastRound { round: 1, last: 1 })));
    }
    assert_eq!(t.proceeds(take_part(barrier(&holder, 1))).await, 2);
    holder.close().await.unwrap();
    no_participant_is_left(&t, &session).await;
}

/// Both parties have entered; the other one leaves after `delay`.
async fn leave(t: Trial, delay: Duration) {
    let (holder, session) = (session_of(&t.holder).await, t.session().await);
    let (first, second) = (barrier(&holder, 2), barrier(&session, 2));
    let (first, second) = tokio::join!(first.enter(1), second.enter(1));
    let first = first.unwrap();
    let other = t.holder.spawn(async move {
        sleep(delay).await;
        first.leave().await
    });
    sleep(secs(1) / 2).await;
    if let Some(left) = t.drop_at_await(second.unwrap().leave()).await {
        left.unwrap();
    }
    match t.continues(other).await {
        Ok(()) => {}
        Err(DoubleBarrierError::ParticipantLost { .. }) => assert!(t.is_dropped()),
        Err(error) => panic!("{error}"),
    }
    holder.close().await.unwrap();
    no_participant_is_left(&t, &session).await;
}

async fn leave_first(t: Trial) {
    leave(t, secs(1)).await;
}

async fn leave_last(t: Trial) {
    leave(t, Duration::ZERO).await;
}

/// The only party of a round.
async fn alone(session: &Session) -> DoubleBarrierGuard {
    barrier(session, 1).enter(1).await.unwrap()
}

async fn guard_txn(t: Trial) {
    let session = t.session().await;
    let inside = alone(&session).await;
    let put = Txn::new().and_then([Put::new("data/n", "mine")]);
    t.drop_at_await(inside.txn(put)).await.transpose().unwrap();
    t.continues(inside.leave()).await.unwrap();
    no_participant_is_left(&t, &session).await;
    let written = t.other.client().get("data/n").await.unwrap();
    assert!(written.is_none_or(|kv| kv.version == 1), "applied at most once");
}

async fn guard_lost(t: Trial) {
    let session = t.session().await;
    let inside = alone(&session).await;
    let deleted = delete_later(&t, inside.key());
    t.drop_at_await(inside.lost()).await;
    deleted.await;
    assert_eq!(t.proceeds(inside.lost()).await, LossReason::KeyDeleted, "when called again");
    drop(inside);
    no_participant_is_left(&t, &session).await;
}

async fn run_while_held(t: Trial) {
    let session = t.session().await;
    let inside = alone(&session).await;
    t.drop_at_await(inside.run_while_held(sleep(secs(1)))).await.transpose().unwrap();
    t.proceeds(inside.txn(Txn::new())).await.unwrap();
    t.proceeds(inside.leave()).await.unwrap();
    no_participant_is_left(&t, &session).await;
}
