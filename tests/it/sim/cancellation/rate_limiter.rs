//! Cancellation cases of rate limiters, and of what the holders of slices do.

use coord_core::Session;
use coord_core::error::LossReason;
use coord_core::recipes::{RateLimiter, RateLimiterError, RateSlice};
use coord_testkit::sim::ProcessTask;
use tokio::time::{Instant, sleep};

use super::queue::delete_later;
use super::trial::{Trial, close, session_of};
use super::{Case, drop_all};
use crate::support::{keys, secs};

#[test]
fn dropped_rate_limiter_calls_leave_the_whole_budget() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(&["RateLimiter::acquire_slice"], "no budget is stored", acquire_first),
        Case::new(&["RateLimiter::acquire_slice"], "waiting", acquire_waiting),
        Case::new(&["RateLimiter::try_acquire_slice"], "a slice is taken", try_acquire),
        Case::new(&["RateLimiter::available", "RateLimiter::budget"], "a slice is taken", reads),
        Case::new(&["RateLimiter::set_budget"], "a member waits", set_budget),
        Case::new(&["RateSlice::acquire"], "the slice is empty", spend),
        Case::new(&["RateSlice::lost"], "the key is deleted", slice_lost),
        Case::new(&["RateSlice::run_while_held"], "the work takes a second", run_while_held),
        Case::new(&["RateSlice::release"], "another member waits", release),
    ]
}

/// A rate limiter with a budget of two units per second, which stays in the store, as data of the
/// case.
fn limiter(session: &Session) -> RateLimiter {
    RateLimiter::new(session, "data/r", 2)
}

async fn acquire(session: &Session, rate: u32) -> RateSlice {
    limiter(session).acquire_slice(rate).await.unwrap()
}

/// Checks that another client can acquire the whole budget: at once, and again when all messages
/// have arrived. Then no key of a slice is left, although the session still lives.
async fn budget_is_free(t: &Trial) {
    let session = session_of(&t.other).await;
    for _ in 0..2 {
        let all = t.proceeds(limiter(&session).acquire_slice(2)).await.unwrap();
        all.release().await.unwrap();
        t.messages_arrive().await;
        let left = keys(t.other.client(), "data/r/rate/permits/").await;
        assert_eq!(left, [""; 0], "keys are left");
    }
    session.close().await.unwrap();
}

/// Another process waits for the whole budget, and releases it.
fn other_waits(t: &Trial) -> ProcessTask<()> {
    let other = t.other.clone();
    t.other.spawn(async move {
        let session = session_of(&other).await;
        acquire(&session, 2).await.release().await.unwrap();
        session.close().await.unwrap();
    })
}

async fn acquire_first(t: Trial) {
    let session = t.session().await;
    drop(t.drop_at_await(limiter(&session).acquire_slice(1)).await);
    budget_is_free(&t).await;
    close(&session).await;
}

async fn acquire_waiting(t: Trial) {
    let holder = session_of(&t.holder).await;
    let held = acquire(&holder, 2).await;
    let session = t.session().await;
    let released = t.holder.spawn(async move {
        sleep(secs(1)).await;
        held.release().await.unwrap();
    });
    drop(t.drop_at_await(limiter(&session).acquire_slice(1)).await);
    released.await;
    holder.close().await.unwrap();
    budget_is_free(&t).await;
    close(&session).await;
}

async fn try_acquire(t: Trial) {
    let holder = session_of(&t.holder).await;
    let held = acquire(&holder, 1).await;
    let session = t.session().await;
    drop(t.drop_at_await(limiter(&session).try_acquire_slice(1)).await);
    held.release().await.unwrap();
    holder.close().await.unwrap();
    budget_is_free(&t).await;
    close(&session).await;
}

/// A dropped read changes nothing.
async fn reads(t: Trial) {
    let session = t.session().await;
    let held = acquire(&session, 1).await;
    let limiter = limiter(&session);
    let both = async {
        let (budget, available) = (limiter.budget().await?, limiter.available().await?);
        Ok::<_, RateLimiterError>((budget, available))
    };
    if let Some(both) = t.drop_at_await(both).await {
        assert_eq!(both.unwrap(), (2, 1));
    }
    held.release().await.unwrap();
    budget_is_free(&t).await;
    close(&session).await;
}

/// The budget is the old or the new one, and a second call sets it.
async fn set_budget(t: Trial) {
    let session = t.session().await;
    let _held = acquire(&session, 2).await;
    let other = t.other.clone();
    let waiting = t.other.spawn(async move {
        let session = session_of(&other).await;
        acquire(&session, 1).await.release().await.unwrap();
        session.close().await.unwrap();
    });
    // Longer than a message can be delayed: then the other process is enqueued.
    sleep(secs(3)).await;
    let limiter = limiter(&session);
    t.drop_at_await(limiter.set_budget(3)).await.transpose().unwrap();
    t.messages_arrive().await;
    limiter.set_budget(3).await.unwrap();
    t.proceeds(waiting).await;
    assert_eq!(limiter.budget().await.unwrap(), 3);
    close(&session).await;
}

/// A dropped call has spent nothing: the slice has its unit half a second after it was acquired.
async fn spend(t: Trial) {
    let session = t.session().await;
    let slice = acquire(&session, 2).await;
    let start = Instant::now();
    let is_dropped = t.drop_at_await(slice.acquire(1)).await.transpose().unwrap().is_none();
    t.proceeds(slice.acquire(1)).await.unwrap();
    let after = if is_dropped { secs(1) / 2 } else { secs(1) };
    assert_eq!(start.elapsed(), after, "dropped: {is_dropped}");
    slice.release().await.unwrap();
    budget_is_free(&t).await;
    close(&session).await;
}

async fn slice_lost(t: Trial) {
    let session = t.session().await;
    let slice = acquire(&session, 1).await;
    let deleted = delete_later(&t, slice.key());
    t.drop_at_await(slice.lost()).await;
    deleted.await;
    assert_eq!(t.proceeds(slice.lost()).await, LossReason::KeyDeleted, "when called again");
    drop(slice);
    budget_is_free(&t).await;
    close(&session).await;
}

async fn run_while_held(t: Trial) {
    let session = t.session().await;
    let slice = acquire(&session, 1).await;
    t.drop_at_await(slice.run_while_held(sleep(secs(1)))).await.transpose().unwrap();
    t.proceeds(slice.acquire(1)).await.unwrap();
    slice.release().await.unwrap();
    budget_is_free(&t).await;
    close(&session).await;
}

async fn release(t: Trial) {
    let session = t.session().await;
    let slice = acquire(&session, 2).await;
    let next = other_waits(&t);
    sleep(secs(1)).await;
    t.drop_at_await(slice.release()).await.transpose().unwrap();
    t.proceeds(next).await;
    budget_is_free(&t).await;
    close(&session).await;
}
