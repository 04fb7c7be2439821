//! Log lines of locks and leaderships: name, fencing token and loss reason.

use std::sync::atomic::{AtomicU32, Ordering};

use coord_core::{
    Client, Election, Mutex, Session,
    error::PrimitiveError,
    kv::{Put, Txn},
    recipes::Semaphore,
};
use coord_mem::MemBackend;
use tokio::time::{sleep, timeout};

use super::lines_of;
use crate::session::supervisor::supervisor;
use crate::support::{secs, separate_client, session};

/// The lines that contain `target`, without the duration of the wait.
fn lines_with(lines: Vec<String>, target: &str) -> Vec<String> {
    let lines = lines.into_iter().filter(|line| line.contains(target));
    let lines = lines.map(|line| match line.split_once(" waited=") {
        Some((line, _)) => line.to_owned(),
        None => line,
    });
    lines.collect()
}

#[test]
fn locks_are_logged_with_name_and_token() {
    let lines = lines_of(async {
        let store = Client::new(MemBackend::new());
        let session = session(&store).await;
        let guard = Mutex::new(&session, "report").lock().await.unwrap();
        guard.unlock().await.unwrap();
        let guard = Mutex::new(&session, "report").lock().await.unwrap();
        store.delete(guard.key()).await.unwrap();
        guard.txn(Txn::new()).await.unwrap_err();
        drop(guard);
    });
    let expected = [
        "DEBUG coord::lock locked: name=report token=2",
        "DEBUG coord::lock unlocked: name=report token=2",
        "DEBUG coord::lock locked: name=report token=4",
        "WARN coord::lock lost: name=report token=4 reason=another client deleted the key",
    ];
    assert_eq!(lines_with(lines, "coord::lock"), expected);
}

#[test]
fn leaderships_are_logged_with_name_and_reason() {
    let lines = lines_of(async {
        let store = Client::new(MemBackend::new());
        let session = session(&store).await;
        let election = Election::new(&session, "planner");
        election.campaign("me").await.unwrap().resign().await.unwrap();
        let leadership = election.campaign("me").await.unwrap();
        session.close().await.unwrap();
        drop(leadership);
    });
    let expected = [
        "INFO coord::election leading: name=planner token=2",
        "INFO coord::election no longer leading: name=planner token=2 reason=resigned",
        "INFO coord::election leading: name=planner token=4",
        "WARN coord::election no longer leading: name=planner token=4 \
         reason=the session was closed",
    ];
    assert_eq!(lines_with(lines, "coord::election"), expected);
}

#[test]
fn lost_key_of_the_work_is_logged() {
    let lines = lines_of(async {
        let store = Client::new(MemBackend::new());
        let supervisor = supervisor(separate_client(&store)).await;
        let calls = AtomicU32::new(0);
        let work = supervisor.run(async |session: Session| {
            let guard = Mutex::new(&session, "report").lock().await?;
            if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                store.delete(guard.key()).await?;
            }
            guard.txn(Txn::new().and_then([Put::new("a", "b")])).await?;
            Ok::<_, PrimitiveError>(())
        });
        work.await.unwrap();
    });
    let lost = lines_with(lines, "work ended by a loss");
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(lost[0].contains(" key=report/"), "{lost:?}");
}

/// Regression: a limit that is no number stopped all waiters of a semaphore without a log line.
#[test]
fn unreadable_limit_is_logged_once_for_each_value() {
    let lines = lines_of(async {
        let store = Client::new(MemBackend::new());
        let semaphore = Semaphore::new(&session(&store).await, "downloads", 1);
        let held = semaphore.acquire(1).await.unwrap();
        let unreadable = async {
            for value in ["2\n", "two", "2"] {
                sleep(secs(60)).await;
                store.put("coord/limit/downloads", value).await.unwrap();
            }
        };
        let (acquired, ()) = tokio::join!(semaphore.acquire(1), unreadable);
        drop((acquired.unwrap(), held));
    });
    let warned: Vec<_> = lines.iter().filter(|line| line.contains("is no number")).collect();
    assert_eq!(warned.len(), 2, "{lines:#?}");
    let fields = "name=downloads/permits key=coord/limit/downloads value=";
    assert!(warned.iter().all(|line| line.contains("WARN") && line.contains(fields)), "{warned:?}");
}

/// A lock waits for foreign keys below its name, as in Go, perhaps forever. The log names the key.
#[test]
fn wait_behind_a_foreign_key_is_logged_once() {
    let lines = lines_of(async {
        let store = Client::new(MemBackend::new());
        let session = session(&store).await;
        store.put("jobs/1", "data").await.unwrap();
        let mutex = Mutex::new(&session, "jobs");
        timeout(secs(300), mutex.lock()).await.unwrap_err();

        // A wait behind a contender of another session is not logged.
        let held = Mutex::new(&session, "other").lock().await.unwrap();
        let second = crate::support::session(&store).await;
        timeout(secs(300), Mutex::new(&second, "other").lock()).await.unwrap_err();
        drop(held);
    });
    let warned: Vec<_> =
        lines.iter().filter(|line| line.contains("waiting for a foreign key")).collect();
    assert_eq!(warned.len(), 1, "{lines:#?}");
    assert!(warned[0].contains("WARN") && warned[0].contains("name=jobs key=jobs/1"), "{warned:?}");
}
