//! What the log says of locks and leaderships: their names, and what was lost.

use crate::support::another;
use coord_mem::MemBackend;
use std::sync::atomic::{AtomicU32, Ordering};

use coord_core::{
    Client, Election, Mutex, Session,
    error::PrimitiveError,
    kv::{Put, Txn},
};
use tokio::time::timeout;

use super::supervisor::supervisor;
use super::telemetry::lines_of;
use crate::support::{secs, session};

/// The lines of one target, without their times.
fn of_target(lines: Vec<String>, target: &str) -> Vec<String> {
    let lines = lines.into_iter().filter(|line| line.contains(target));
    let untimed = lines.map(|line| match line.split_once(" waited=") {
        Some((line, _)) => line.to_owned(),
        None => line,
    });
    untimed.collect()
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
    assert_eq!(of_target(lines, "coord::lock"), expected);
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
    assert_eq!(of_target(lines, "coord::election"), expected);
}

#[test]
fn work_that_lost_its_key_is_logged_with_the_key() {
    let lines = lines_of(async {
        let store = Client::new(MemBackend::new());
        let supervisor = supervisor(another(&store)).await;
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
    let lost = of_target(lines, "work ended by a loss");
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(lost[0].contains(" key=report/"), "{lost:?}");
}

/// A lock beside data below its name waits forever, as Go's does: the log says for what.
#[test]
fn waiting_for_a_data_key_is_logged_once_with_the_key() {
    let lines = lines_of(async {
        let store = Client::new(MemBackend::new());
        let session = session(&store).await;
        store.put("jobs/1", "data").await.unwrap();
        let mutex = Mutex::new(&session, "jobs");
        timeout(secs(300), mutex.lock()).await.unwrap_err();

        // A contender of another session is no such key.
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
