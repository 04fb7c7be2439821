//! Faults while a candidate waits: silent and broken watches, failed and refused requests.

use std::sync::Mutex;
use std::time::Duration;

use coord_core::{
    Client, Election, Error, KvBackend, Session,
    error::{ErrorKind, LossReason, Outcome, PrimitiveError},
    kv::Compact,
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder};
use tokio::time::{Instant, timeout};

use super::election;
use crate::support::{
    SilentWatches, intercepted, is_keep_alive, keys, nth, only, secs, session_on, settle, timed,
};
use crate::watch_faults::{UNLIMITED_LIFETIME, WatchFaults, WatchLifetime};
use crate::while_waiting::{while_waiting, while_waiting_after};

/// etcd issues 14641 and 8980: the member that serves the watch is paused or partitioned, so the
/// watch delivers nothing. The candidate reads its position once each TTL of 10 s, and is elected
/// at most that much later.
#[tokio::test(start_paused = true)]
async fn candidate_with_silent_watch_is_elected_within_ttl() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let silent = session_on(intercepted(&store, SilentWatches(recorder.clone()))).await;
    let candidate = Election::new(&silent, "e").enter("second").await.unwrap();
    recorder.take();
    let elected = timed(candidate.elected());
    let ((elected, elapsed), ()) = while_waiting_after(secs(35), elected, async {
        let calls = recorder.take();
        assert_eq!(calls.count("range"), 3, "one in each 10 s: {calls}");
        assert_eq!(calls.count("txn"), 0);
        first.resign().await.unwrap();
    })
    .await;
    drop(elected.unwrap());
    assert!(elapsed <= secs(41), "{elapsed:?}");
}

fn permission_denied(reason: &str) -> Error {
    Error::PermissionDenied { reason: reason.to_owned() }
}

/// A session of 10 s on `backend`, whose first watches end after `lifetimes`. Later watches do not
/// end.
async fn session_with_watch_lifetimes(
    backend: impl KvBackend,
    lifetimes: Vec<WatchLifetime>,
) -> Session {
    let lifetimes = Mutex::new(lifetimes.into_iter());
    let next_lifetime = move || {
        let mut lifetimes = lifetimes.lock().expect("the lock is not poisoned");
        lifetimes.next().unwrap_or(UNLIMITED_LIFETIME)
    };
    session_on(Client::new(WatchFaults::new(backend, next_lifetime))).await
}

#[tokio::test(start_paused = true)]
async fn candidate_with_broken_watch_is_elected_at_once() {
    let compacted = Error::Compacted { requested: None, compact_revision: None };
    let unavailable =
        Error::Unavailable { outcome: Outcome::NotApplied, reason: String::new(), source: None };
    for error in [None, Some(compacted), Some(unavailable)] {
        for own_watch_breaks in [false, true] {
            let store = Client::new(MemBackend::new());
            let first = election(&store).await.campaign("first").await.unwrap();
            let (short, long) = ((secs(1), error.clone()), (secs(1000), None));
            // The watch of the predecessor's key is registered first, then that of the own key.
            let lifetimes = if own_watch_breaks { vec![long, short] } else { vec![short, long] };
            let session = session_with_watch_lifetimes(store.clone(), lifetimes).await;
            let candidate = Election::new(&session, "e").enter("second").await.unwrap();
            let elected = async { (candidate.elected().await.unwrap(), Instant::now()) };
            let ((_leadership, elected_at), resigned_at) =
                while_waiting_after(secs(3), elected, async {
                    let revision = store.put("other", "").await.unwrap().header.revision;
                    store.compact(Compact::new(revision)).await.unwrap();
                    first.resign().await.unwrap();
                    Instant::now()
                })
                .await;
            assert_eq!(elected_at, resigned_at, "at once, by a new watch");
        }
    }
}

/// Each of two broken watches is registered again, after a read of the position.
#[tokio::test(start_paused = true)]
async fn broken_watches_are_registered_again_once() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let _first = election(&store).await.campaign("first").await.unwrap();
    let lifetimes = vec![(secs(1), None); 2];
    let client = intercepted(&store, recorder.clone());
    let session = session_with_watch_lifetimes(client, lifetimes).await;
    let candidate = Election::new(&session, "e").enter("second").await.unwrap();
    recorder.take();
    assert!(timeout(secs(9), candidate.elected()).await.is_err());
    let calls = recorder.take();
    // Two registrations for each of the two watches, and a read for each watch that broke.
    // `WatchFaults` reads the revision for each registration.
    assert_eq!(calls.count("watch"), 4, "{calls}");
    assert_eq!(calls.count("range"), 4 + 2, "{calls}");
}

/// The read before the new watch shows what happened while no watch was registered.
#[tokio::test(start_paused = true)]
async fn candidate_is_elected_if_leader_resigns_between_watches() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let lifetimes = vec![(secs(1), None); 2];
    let session = session_with_watch_lifetimes(store.clone(), lifetimes).await;
    let candidate = Election::new(&session, "e").enter("second").await.unwrap();
    let resign = async { first.resign().await.unwrap() };
    let after_the_end = secs(1) + Duration::from_millis(10);
    let ((elected, elapsed), ()) =
        while_waiting_after(after_the_end, timed(candidate.elected()), resign).await;
    drop(elected.unwrap());
    assert!(elapsed < secs(2), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn candidate_continues_while_store_is_unavailable() {
    for kind in ["range", "txn", "watch"] {
        let store = Client::new(MemBackend::new());
        let first = election(&store).await.campaign("first").await.unwrap();
        // From the second on, because the first transaction is the enqueue.
        let faulty = session_on(intercepted(&store, nth(kind, 2, 7, Action::DropResponse))).await;
        let candidate = Election::new(&faulty, "e").enter("second").await.unwrap();
        let resign = async { first.resign().await.unwrap() };
        let (elected, ()) = while_waiting_after(secs(5), candidate.elected(), resign).await;
        drop(elected.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn partitioned_candidate_fails_when_its_session_is_lost() {
    let store = Client::new(MemBackend::new());
    let _first = election(&store).await.campaign("first").await.unwrap();
    let partition = |call: &Call| match call {
        Call::Range(_) | Call::Watch(_) => Action::Hang,
        call if is_keep_alive(call) => Action::Hang,
        _ => Action::Pass,
    };
    let partitioned = session_on(intercepted(&store, partition)).await;
    let (result, elapsed) = timed(Election::new(&partitioned, "e").campaign("second")).await;
    assert_eq!(result.unwrap_err().loss(), Some(LossReason::DeadlineUnconfirmed));
    assert_eq!(elapsed, secs(9));
}

#[tokio::test(start_paused = true)]
async fn candidate_fails_when_its_read_is_refused() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let denied = Action::Fail(permission_denied("no reads"));
    let session = session_on(intercepted(&store, only("range", denied))).await;
    let candidate = Election::new(&session, "e").enter("second").await.unwrap();
    let resign = async { first.resign().await.unwrap() };
    let (result, ()) = while_waiting(candidate.elected(), resign).await;
    let PrimitiveError::Backend(error) = result.unwrap_err() else { panic!("not lost") };
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    settle().await;
    assert_eq!(keys(&store, "e/").await, [""; 0], "the candidate's key is deleted");
}

/// A watch that was registered and then refused was registered again, twenty times a second,
/// without end.
#[tokio::test(start_paused = true)]
async fn candidate_fails_when_its_watch_is_refused() {
    let store = Client::new(MemBackend::new());
    let _first = election(&store).await.campaign("first").await.unwrap();
    let lifetimes = vec![(secs(1), Some(permission_denied("no watches"))); 2];
    let session = session_with_watch_lifetimes(store.clone(), lifetimes).await;
    let result = timeout(secs(60), Election::new(&session, "e").campaign("second")).await;
    let PrimitiveError::Backend(error) = result.unwrap().unwrap_err() else { panic!("not lost") };
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    settle().await;
    assert_eq!(keys(&store, "e/").await.len(), 1, "the candidate's key is deleted");
}
