//! The release of a delivery with a delay.

use std::time::Duration;

use coord_core::Client;
use coord_core::error::{Error, LossReason, Outcome};
use coord_core::kv::Txn;
use coord_core::recipes::{Delivery, MessageQueue};
use coord_testkit::{Action, Recorder, Rule};
use tokio::time::{Instant, sleep, timeout};

use super::cost::recorded;
use super::delay::leases;
use super::{attempts, drain, queue, store, take_now, text};
use crate::support::{intercepted, newest_revision, nth, secs, session, session_on, settle};

const DELAY: Duration = secs(60);

/// The number of the transaction that releases the delivery of [`delivery`]. The put, the read and
/// the claim are before it.
const RELEASE: usize = 4;

/// A taker whose requests have a rule, and a delivery.
async fn delivery(store: &Client, rule: impl Rule) -> (MessageQueue, Delivery) {
    let taker = MessageQueue::new(&session_on(intercepted(store, rule)).await, "q");
    taker.put("a").await.unwrap();
    let delivery = take_now(&taker).await;
    (taker, delivery)
}

/// Whether the message is ready, without a delivery that would count.
async fn is_ready(queue: &MessageQueue) -> bool {
    let counts = queue.counts().await.unwrap();
    assert_eq!(counts.ready + counts.claimed, 1);
    counts.ready == 1
}

#[tokio::test(start_paused = true)]
async fn message_is_delivered_again_after_the_delay() {
    let (store, recorder) = (store(), Recorder::new());
    let taker = recorded(&store, &recorder).await;
    taker.put_all(["a", "b", "c"]).await.unwrap();
    let delivery = take_now(&taker).await;
    let (start, is_held) = (Instant::now(), delivery.held_condition());
    recorder.take();
    delivery.release_after(DELAY).await.unwrap();
    assert_eq!(recorder.take().names(), "lease_grant txn");
    take_now(&taker).await.acknowledge().await.unwrap();
    assert_eq!(recorder.take().names(), "txn txn", "take and acknowledge, without a read");
    assert_eq!(leases(&store).await, 1);
    let is_held = Txn::new().when([is_held]);
    assert!(store.txn(is_held.clone()).await.unwrap().succeeded);

    assert_eq!(drain(&taker).await, ["c"]);
    let again = taker.take().await.unwrap();
    let waited = start.elapsed();
    assert!(waited >= DELAY && waited < DELAY + secs(2), "{waited:?}");
    assert_eq!((text(again.payload()), again.attempts()), ("a".into(), 2));
    assert!(!store.txn(is_held).await.unwrap().succeeded);
    assert_eq!(leases(&store).await, 0);
}

#[tokio::test(start_paused = true)]
async fn message_keeps_its_delay_when_the_taker_has_ended() {
    let store = store();
    let ending = session(&store).await;
    let taker = MessageQueue::new(&ending, "q");
    taker.put_all(["a", "b"]).await.unwrap();
    take_now(&taker).await.release_after(DELAY).await.unwrap();
    ending.close().await.unwrap();
    let other = queue(&store).await;
    assert_eq!(drain(&other).await, ["b"]);
    other.put("c").await.unwrap();
    sleep(DELAY - secs(1)).await;
    assert_eq!(other.counts().await.unwrap().claimed, 1);
    sleep(secs(2)).await;
    assert_eq!(drain(&other).await, ["a", "c"], "at its old place");
}

#[tokio::test(start_paused = true)]
async fn last_attempt_is_a_dead_letter_without_a_lease() {
    let (store, recorder) = (store(), Recorder::new());
    let taker = recorded(&store, &recorder).await.max_attempts(attempts(2));
    taker.put("poison").await.unwrap();
    take_now(&taker).await.release_after(DELAY).await.unwrap();
    let last = taker.take().await.unwrap();
    recorder.take();
    last.release_after(DELAY).await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    let dead = taker.dead_letters(9).await.unwrap();
    assert_eq!((text(&dead[0].payload), dead[0].attempts), ("poison".into(), 2));
    assert!(taker.discard(&dead[0]).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn invalid_delay_returns_the_delivery_before_anything_is_sent() {
    let store = store();
    let queue = queue(&store).await;
    queue.put("a").await.unwrap();
    let (mut delivery, revision) = (take_now(&queue).await, newest_revision(&store).await);
    for delay in [Duration::ZERO, Duration::from_millis(1500), Duration::MAX] {
        let failed = delivery.release_after(delay).await.unwrap_err();
        assert_eq!((failed.cause.outcome(), failed.loss()), (Outcome::NotApplied, None));
        let expected = format!("invalid delay {delay:?}: must be a whole number of seconds");
        assert!(failed.cause.to_string().starts_with(&expected), "{}", failed.cause);
        delivery = *failed.held;
    }
    assert_eq!(newest_revision(&store).await, revision);
    assert_eq!(leases(&store).await, 0);
    delivery.acknowledge().await.unwrap();
}

/// A repeated release has the condition of the first one, and its lease.
#[tokio::test(start_paused = true)]
async fn repeated_release_has_one_lease_and_the_first_delay() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = store();
        let (taker, delivery) = delivery(&store, nth("txn", RELEASE, RELEASE, action)).await;
        let failed = delivery.release_after(DELAY).await.unwrap_err();
        assert_eq!(failed.cause.outcome(), Outcome::Unknown);
        sleep(DELAY / 2).await;
        failed.held.release_after(DELAY).await.unwrap();
        assert_eq!(leases(&store).await, 1);
        sleep(DELAY / 2 - secs(2)).await;
        assert!(!is_ready(&taker).await);
        sleep(secs(3)).await;
        assert_eq!(take_now(&taker).await.attempts(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn grant_without_a_response_is_repeated_with_one_lease() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = store();
        // The first lease is that of the session.
        let (taker, delivery) = delivery(&store, nth("lease_grant", 2, 2, action)).await;
        delivery.release_after(DELAY).await.unwrap();
        assert_eq!(leases(&store).await, 1);
        assert!(!is_ready(&taker).await);
    }
}

/// The response was lost, the delay has passed, and the message was delivered again.
#[tokio::test(start_paused = true)]
async fn release_is_confirmed_after_the_next_delivery() {
    let store = store();
    let (taker, delivery) =
        delivery(&store, nth("txn", RELEASE, RELEASE, Action::DropResponse)).await;
    let failed = delivery.release_after(DELAY).await.unwrap_err();
    sleep(DELAY + secs(1)).await;
    let next = take_now(&taker).await;
    failed.held.release_after(DELAY).await.unwrap();
    settle().await;
    next.acknowledge().await.unwrap();
}

/// The lease ends before the claim is put on it: the delay starts again.
#[tokio::test(start_paused = true)]
async fn delay_starts_again_if_its_lease_has_ended() {
    let store = store();
    let late = nth("txn", RELEASE, RELEASE, Action::Delay(secs(8)));
    let (taker, delivery) = delivery(&store, late).await;
    delivery.release_after(secs(2)).await.unwrap();
    assert_eq!(leases(&store).await, 1);
    assert!(!is_ready(&taker).await);
    sleep(secs(3)).await;
    assert_eq!(take_now(&taker).await.attempts(), 2);
    assert_eq!(leases(&store).await, 0);
}

#[tokio::test(start_paused = true)]
async fn release_with_another_delay_replaces_the_first() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = store();
        let (taker, delivery) = delivery(&store, nth("txn", RELEASE, RELEASE, action)).await;
        let failed = delivery.release_after(DELAY).await.unwrap_err();
        failed.held.release_after(secs(5)).await.unwrap();
        assert!(!is_ready(&taker).await);
        sleep(secs(6)).await;
        assert_eq!(take_now(&taker).await.attempts(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn acknowledgement_after_a_release_without_a_response_succeeds() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = store();
        let (taker, delivery) = delivery(&store, nth("txn", RELEASE, RELEASE, action)).await;
        let failed = delivery.release_after(DELAY).await.unwrap_err();
        failed.held.acknowledge().await.unwrap();
        assert_eq!(leases(&store).await, 0);
        sleep(DELAY * 2).await;
        assert!(taker.try_take().await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn acknowledgement_after_the_delay_is_lost() {
    let store = store();
    let (taker, delivery) =
        delivery(&store, nth("txn", RELEASE, RELEASE, Action::DropResponse)).await;
    let failed = delivery.release_after(DELAY).await.unwrap_err();
    sleep(DELAY + secs(1)).await;
    let failed = failed.held.acknowledge().await.unwrap_err();
    assert_eq!(failed.loss(), Some(LossReason::KeyDeleted));
    assert_eq!(take_now(&taker).await.attempts(), 2);
}

/// It is dropped after an unknown outcome, or while a request is in flight, which arrives late.
#[tokio::test(start_paused = true)]
async fn dropped_release_makes_the_message_ready_at_once() {
    for action in [Action::DropRequest, Action::DropResponse, Action::Delay(secs(20))] {
        let store = store();
        let (taker, delivery) = delivery(&store, nth("txn", RELEASE, RELEASE, action)).await;
        let released = timeout(secs(5), delivery.release_after(DELAY)).await;
        assert!(!matches!(released, Ok(Ok(()))));
        drop(released);
        assert_eq!(leases(&store).await, 0);
        assert!(is_ready(&taker).await);
        sleep(secs(30)).await;
        assert!(is_ready(&taker).await, "a late request changes nothing");
    }
}

/// The claim ends with the lease of the session, and the lease of the delay is revoked.
#[tokio::test(start_paused = true)]
async fn loss_during_a_release_makes_the_message_ready() {
    for kind in ["lease_grant", "txn"] {
        let store = store();
        let number = if kind == "txn" { RELEASE } else { 2 };
        let (taker, delivery) = delivery(&store, nth(kind, number, number, Action::Hang)).await;
        let session = taker.session();
        let close = async {
            sleep(secs(1)).await;
            session.close().await.unwrap();
        };
        let (released, ()) = tokio::join!(delivery.release_after(DELAY), close);
        assert_eq!(released.unwrap_err().loss(), Some(LossReason::Closed));
        settle().await;
        assert_eq!(store.leases().await.unwrap().leases, [], "{kind}");
        assert!(is_ready(&taker).await);
    }
}

/// The grant is refused: the next release requests another lease.
#[tokio::test(start_paused = true)]
async fn release_after_a_refused_grant_succeeds() {
    let store = store();
    let refused = Error::PermissionDenied { reason: "no".to_owned() };
    let (taker, delivery) = delivery(&store, nth("lease_grant", 2, 2, Action::Fail(refused))).await;
    let failed = delivery.release_after(DELAY).await.unwrap_err();
    assert_eq!(failed.cause.outcome(), Outcome::NotApplied);
    failed.held.release_after(DELAY).await.unwrap();
    assert_eq!(leases(&store).await, 1);
    assert!(!is_ready(&taker).await);
}

/// Regression: the delay of a release that surely did nothing counted from that release.
#[tokio::test(start_paused = true)]
async fn release_after_a_refused_one_has_its_whole_delay() {
    let store = store();
    let refused = Error::PermissionDenied { reason: "no".to_owned() };
    let rule = nth("txn", RELEASE, RELEASE, Action::Fail(refused));
    let (taker, delivery) = delivery(&store, rule).await;
    let failed = delivery.release_after(DELAY).await.unwrap_err();
    assert_eq!(failed.cause.outcome(), Outcome::NotApplied);
    settle().await;
    assert_eq!(leases(&store).await, 0);
    sleep(DELAY / 2).await;
    failed.held.release_after(DELAY).await.unwrap();
    sleep(DELAY - secs(1)).await;
    assert!(!is_ready(&taker).await);
    sleep(secs(3)).await;
    assert!(is_ready(&taker).await);
}
