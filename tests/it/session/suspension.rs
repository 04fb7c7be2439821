//! Sessions on a machine that is suspended: the runtime's clock stands still, the store's does not.

use coord_core::Client;
use coord_mem::MemBackend;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coord_core::{Mutex, Session, error::LossReason, session::SessionState};
use coord_testkit::Recorder;
use tokio::time::{Instant, sleep};

use crate::support::{behind, secs};

/// A session of 30 s, and how many seconds its machine has been suspended.
async fn session(kv: Client) -> (Session, Arc<AtomicU64>) {
    let asleep = Arc::new(AtomicU64::new(5));
    let clock = Arc::clone(&asleep);
    let clock = move || secs(clock.load(Ordering::Relaxed));
    let opened = Session::builder(&kv).ttl(secs(30)).asleep(clock).open().await;
    (opened.expect("the store is available"), asleep)
}

#[tokio::test(start_paused = true)]
async fn session_is_lost_within_a_second_of_waking() {
    for (slept, reason) in [(3_600, LossReason::Expired), (27, LossReason::DeadlineUnconfirmed)] {
        let (session, asleep) = session(Client::new(MemBackend::new())).await;
        let guard = Mutex::new(&session, "m").lock().await.unwrap();
        asleep.fetch_add(slept, Ordering::Relaxed);
        let began = Instant::now();
        let work = guard.run_while_held(std::future::pending::<()>());
        assert_eq!(work.await, Err(reason), "asleep for {slept} s");
        assert!(began.elapsed() <= secs(1), "it took {:?}", began.elapsed());
    }
}

/// A short sleep moves the deadline, and the lease is refreshed at once.
#[tokio::test(start_paused = true)]
async fn short_suspension_refreshes_the_lease_and_deadline() {
    let record = Recorder::new();
    let (session, asleep) = session(behind(&Client::new(MemBackend::new()), record.clone())).await;
    sleep(Duration::from_millis(500)).await;
    record.take();
    asleep.fetch_add(10, Ordering::Relaxed);
    let before = session.deadline();
    sleep(secs(1)).await;
    assert_eq!(record.take().names(), "lease_keep_alive");
    assert_eq!(session.state(), SessionState::Alive);
    assert!(session.deadline() > before, "confirmed after waking");
    sleep(secs(60)).await;
    assert_eq!(session.state(), SessionState::Alive);
    assert!(record.take().count("lease_keep_alive") <= 7, "no more often than usual afterwards");
}
