//! Suspension of the machine: the runtime's clock stands still while the store's clock continues.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coord_core::{
    Client, Mutex, Session,
    error::{ErrorKind, LossReason},
    session::SessionState,
};
use coord_mem::MemBackend;
use coord_testkit::Recorder;
use tokio::time::{Instant, sleep};

use crate::support::{intercepted, secs};

/// A session of 30 s, and the number of seconds for which its machine has been suspended so far.
async fn session(kv: Client) -> (Session, Arc<AtomicU64>) {
    let suspended_secs = Arc::new(AtomicU64::new(5));
    let counter = Arc::clone(&suspended_secs);
    let clock = move || secs(counter.load(Ordering::Relaxed));
    let session = Session::builder(&kv).ttl(secs(30)).asleep(clock).open().await.unwrap();
    (session, suspended_secs)
}

#[tokio::test(start_paused = true)]
async fn session_is_lost_within_a_second_of_waking() {
    for (suspended, reason) in [(3_600, LossReason::Expired), (27, LossReason::DeadlineUnconfirmed)]
    {
        let (session, suspended_secs) = session(Client::new(MemBackend::new())).await;
        let guard = Mutex::new(&session, "m").lock().await.unwrap();
        suspended_secs.fetch_add(suspended, Ordering::Relaxed);
        let began = Instant::now();
        let work = guard.run_while_held(std::future::pending::<()>());
        assert_eq!(work.await, Err(reason), "suspended for {suspended} s");
        assert!(began.elapsed() <= secs(1), "detected after {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn short_suspension_extends_the_lease_and_deadline() {
    let record = Recorder::new();
    let (session, suspended_secs) =
        session(intercepted(&Client::new(MemBackend::new()), record.clone())).await;
    sleep(Duration::from_millis(500)).await;
    record.take();
    suspended_secs.fetch_add(10, Ordering::Relaxed);
    let before = session.deadline();
    sleep(secs(1)).await;
    assert_eq!(record.take().names(), "lease_keep_alive");
    assert_eq!(session.state(), SessionState::Alive);
    assert!(session.deadline() > before, "a keep-alive was confirmed after the suspension");
    sleep(secs(60)).await;
    assert_eq!(session.state(), SessionState::Alive);
    assert!(record.take().count("lease_keep_alive") <= 7, "one each third of the TTL");
}

/// Regression: a session that was closed at once after a suspension revoked a lease that may have
/// an adopter, because the session task had not read the clock since.
#[tokio::test(start_paused = true)]
async fn end_at_once_after_a_suspension_sends_no_request() {
    for end in ["close", "orphan", "drop"] {
        let record = Recorder::new();
        let (session, suspended_secs) =
            session(intercepted(&Client::new(MemBackend::new()), record.clone())).await;
        let mut states = session.subscribe();
        sleep(secs(1)).await;
        record.take();
        suspended_secs.fetch_add(3_600, Ordering::Relaxed);
        match end {
            "close" => session.close().await.unwrap(),
            "orphan" => {
                let orphaned = session.orphan().await;
                assert_eq!(orphaned.unwrap_err().kind(), ErrorKind::LeaseNotFound);
            }
            _ => drop(session),
        }
        let lost = states.wait_for(|state| matches!(state, SessionState::Lost(_))).await;
        assert_eq!(*lost.unwrap(), SessionState::Lost(LossReason::Expired), "{end}");
        assert_eq!(record.take().names(), "", "{end}");
    }
}
