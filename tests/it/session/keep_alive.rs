//! Keep-alives: how long a session lives, and when it is suspect or lost.

use std::sync::atomic::{AtomicUsize, Ordering};

use coord_core::{
    Client, Mutex, Session,
    error::LossReason,
    kv::{Put, Watch, WatchFilter},
    session::SessionState,
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call};
use tokio::time::{Instant, advance, sleep, timeout};

use crate::support::{
    intercepted, is_keep_alive, nth, only, secs, session, session_on, settle, timed,
};

#[tokio::test(start_paused = true)]
async fn open_session_keeps_its_lease_alive() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    store.put_with(Put::new("a", "1").lease(session.lease_id())).await.unwrap();
    sleep(secs(100_000)).await;
    assert_eq!(session.state(), SessionState::Alive);
    assert!(store.get("a").await.unwrap().is_some());
}

/// Safety of locks and elections depends on this: for each TTL, also if the store's clock is 5 %
/// fast, the owner is notified before the store deletes its first key.
#[tokio::test(start_paused = true)]
async fn session_is_lost_before_its_lease_expires() {
    for (ttl, rate) in [(2, 1.0), (2, 1.05), (10, 1.0), (10, 1.05), (60, 1.05), (3600, 1.05)] {
        let store = Client::new(MemBackend::builder().lease_clock_rate(rate).build());
        let kv = intercepted(&store, nth("lease_keep_alive", 4, usize::MAX, Action::Hang));
        let session = Session::builder(&kv).ttl(secs(ttl)).open().await.unwrap();
        store.put_with(Put::new("a", "1").lease(session.lease_id())).await.unwrap();
        let request = Watch::new("a").filter(WatchFilter::NoPut);
        let mut deleted = store.watch(request).await.unwrap();
        let early = timeout(secs(ttl), deleted.next()).await;
        assert!(early.is_err(), "ttl {ttl}, rate {rate}: expired in spite of keep-alives");

        let reason = tokio::select! {
            biased;
            _ = deleted.next() => panic!("ttl {ttl}, rate {rate}: the key was deleted first"),
            reason = session.lost() => reason,
        };
        assert_eq!(reason, LossReason::DeadlineUnconfirmed);
        let margin = timed(deleted.next()).await.1;
        assert!(margin >= secs(ttl) / 25, "ttl {ttl}, rate {rate}: the margin was {margin:?}");
    }
}

/// The deadline counts from the sending of the last confirmed keep-alive. The response to the first
/// keep-alive takes 2 s.
#[tokio::test(start_paused = true)]
async fn session_without_keep_alives_is_lost_at_its_deadline() {
    let store = Client::new(MemBackend::new());
    let sent = AtomicUsize::new(0);
    let kv = intercepted(&store, move |call: &Call| {
        match is_keep_alive(call).then(|| sent.fetch_add(1, Ordering::Relaxed)) {
            None => Action::Pass,
            Some(0) => Action::Delay(secs(2)),
            Some(_) => Action::Hang,
        }
    });
    let opened = Instant::now();
    let session = Session::builder(&kv).ttl(secs(30)).open().await.unwrap();
    assert_eq!(session.deadline() - opened, secs(27));
    sleep(secs(11)).await;
    assert_eq!(session.deadline() - opened, secs(27), "the keep-alive is not confirmed yet");
    sleep(secs(2)).await;
    assert_eq!(session.deadline() - opened, secs(10 + 27));

    assert_eq!(session.lost().await, LossReason::DeadlineUnconfirmed);
    assert_eq!(opened.elapsed(), secs(10 + 27));
    assert_eq!(session.deadline(), Instant::now());
}

#[tokio::test(start_paused = true)]
async fn late_keep_alive_response_does_not_revive_a_session() {
    let store = Client::new(MemBackend::new());
    let kv = intercepted(&store, only("lease_keep_alive", Action::Delay(secs(9))));
    let session = session_on(kv).await;
    let (reason, after) = timed(session.lost()).await;
    assert_eq!(reason, LossReason::DeadlineUnconfirmed);
    assert!(after <= secs(9), "took {after:?}");
    sleep(secs(30)).await;
    assert_eq!(session.state(), SessionState::Lost(LossReason::DeadlineUnconfirmed));
}

#[tokio::test(start_paused = true)]
async fn session_is_suspect_until_a_keep_alive_succeeds() {
    let store = Client::new(MemBackend::new());
    let session =
        session_on(intercepted(&store, nth("lease_keep_alive", 2, 4, Action::DropRequest))).await;
    let mut states = session.subscribe();
    states.changed().await.unwrap();
    assert_eq!(*states.borrow_and_update(), SessionState::Suspect);
    states.changed().await.unwrap();
    assert_eq!(*states.borrow_and_update(), SessionState::Alive);
    sleep(secs(60)).await;
    assert_eq!(session.state(), SessionState::Alive);
}

#[tokio::test(start_paused = true)]
async fn next_keep_alive_detects_a_revoked_lease() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    store.lease_revoke(session.lease_id()).await.unwrap();
    let (reason, after) = timed(session.lost()).await;
    assert_eq!(reason, LossReason::Revoked);
    assert!(after <= secs(4), "took {after:?}");
}

#[tokio::test(start_paused = true)]
async fn session_expires_when_the_clock_jumps_past_its_ttl() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    advance(secs(60)).await;
    assert_eq!(session.lost().await, LossReason::Expired);
}

/// Regression: a cleanup request without a response was never repeated. Its key blocked the wait
/// queue as long as the session lived.
#[tokio::test(start_paused = true)]
async fn cleanup_request_without_a_response_is_repeated() {
    let store = Client::new(MemBackend::new());
    let kv = intercepted(&store, nth("txn", 2, 2, Action::Hang));
    let session = session_on(kv).await;
    let mutex = Mutex::new(&session, "m");
    drop(mutex.lock().await.unwrap());
    settle().await;
    let waiter = timeout(secs(5), mutex.lock()).await;
    let _guard = waiter.expect("the cleanup releases the lock").unwrap();
}
