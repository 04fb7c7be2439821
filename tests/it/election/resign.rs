//! Resignation and withdrawal: confirmed, failed, cancelled, and during a shutdown.

use coord_core::{
    Client, Election, Error,
    error::{LossReason, Outcome, PrimitiveError},
    kv::Txn,
};
use coord_mem::MemBackend;
use coord_testkit::Action;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{election, leader, some};
use crate::support::{intercepted, keys, nth, secs, session, session_on, settle};

/// An action that fails a request which was not applied.
fn fail_unavailable() -> Action {
    let reason = "down".to_owned();
    Action::Fail(Error::Unavailable { outcome: Outcome::NotApplied, reason, source: None })
}

/// etcd issue 22123: Go's `Resign` discards the name of the key even if the request fails, so a
/// second call does nothing and the key stays.
#[tokio::test(start_paused = true)]
async fn failed_resign_returns_the_leadership() {
    for action in [fail_unavailable(), Action::DropRequest] {
        let store = Client::new(MemBackend::new());
        let session = session_on(intercepted(&store, nth("txn", 2, 3, action))).await;
        let leadership = Election::new(&session, "e").campaign("a").await.unwrap();
        let (key, token) = (leadership.key().clone(), leadership.fencing_token());
        let error = leadership.resign().await.unwrap_err();
        assert!(error.cause.is_retryable(), "{error}");
        let error = error.held.resign().await.unwrap_err();
        assert!(matches!(error.cause, PrimitiveError::Backend(Error::Unavailable { .. })));

        let leadership = *error.held;
        assert_eq!((leadership.key(), leadership.fencing_token()), (&key, token));
        leadership.proclaim("still leading").await.unwrap();
        leadership.txn(Txn::new()).await.unwrap();
        assert_eq!(leadership.run_while_held(async { 7 }).await, Ok(7));
        assert_eq!(leader(&store).await, some("still leading"));
        leadership.resign().await.unwrap();
        assert_eq!(keys(&store, "e/").await, [""; 0]);
    }
}

/// The first request was applied and its response dropped. A repeated call must not report that
/// another client deleted the key.
#[tokio::test(start_paused = true)]
async fn repeated_resign_after_dropped_response_succeeds() {
    let store = Client::new(MemBackend::new());
    let session = session_on(intercepted(&store, nth("txn", 2, 2, Action::DropResponse))).await;
    let leadership = Election::new(&session, "e").campaign("a").await.unwrap();
    let error = leadership.resign().await.unwrap_err();
    assert_eq!(error.cause.outcome(), Outcome::Unknown);
    assert_eq!(keys(&store, "e/").await, [""; 0]);
    assert_eq!(error.held.lost().await, LossReason::KeyDeleted, "it no longer leads");
    error.held.resign().await.unwrap();
}

/// The first request was not applied, so the key was deleted by another client.
#[tokio::test(start_paused = true)]
async fn repeated_resign_reports_deletion_by_another_client() {
    let store = Client::new(MemBackend::new());
    let session = session_on(intercepted(&store, nth("txn", 2, 2, fail_unavailable()))).await;
    let leadership = Election::new(&session, "e").campaign("a").await.unwrap();
    let error = leadership.resign().await.unwrap_err();
    store.delete(error.held.key()).await.unwrap();
    let error = error.held.resign().await.unwrap_err();
    assert_eq!(error.cause.loss(), Some(LossReason::KeyDeleted));
}

#[tokio::test(start_paused = true)]
async fn leadership_dropped_after_failed_resign_is_released() {
    for action in [fail_unavailable(), Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        let session = session_on(intercepted(&store, nth("txn", 2, 4, action))).await;
        let leadership = Election::new(&session, "e").campaign("a").await.unwrap();
        let failed = leadership.resign().await;
        // The conversion of `?`, which drops the leadership.
        let cause: PrimitiveError = failed.unwrap_err().into();
        assert!(cause.is_retryable());
        sleep(secs(2)).await;
        assert_eq!(keys(&store, "e/").await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn cancelled_resign_completes_in_background() {
    let store = Client::new(MemBackend::new());
    let session = session_on(intercepted(&store, nth("txn", 2, 2, Action::Hang))).await;
    let leadership = Election::new(&session, "e").campaign("a").await.unwrap();
    let next = election(&store).await.enter("next").await.unwrap();
    assert!(timeout(secs(1), leadership.resign()).await.is_err());
    let next = timeout(secs(1), next.elected()).await.unwrap().unwrap();
    assert_eq!(leader(&store).await, some("next"));
    drop(next);
}

#[tokio::test(start_paused = true)]
async fn dropped_leadership_elects_the_next_candidate() {
    let store = Client::new(MemBackend::new());
    let leadership = election(&store).await.campaign("a").await.unwrap();
    let next = election(&store).await.enter("next").await.unwrap();
    drop(leadership);
    drop(timeout(secs(1), next.elected()).await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn dropped_or_withdrawn_candidate_deletes_its_key() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("a").await.unwrap();
    let election = election(&store).await;
    drop(election.enter("dropped").await.unwrap());
    settle().await;
    assert_eq!(keys(&store, "e/").await.len(), 1);
    let candidate = election.enter("withdrawn").await.unwrap();
    candidate.withdraw().await.unwrap();
    assert_eq!(keys(&store, "e/").await.len(), 1, "a withdrawal is confirmed");
    assert_eq!(leader(&store).await, some("a"));
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn failed_withdraw_is_retried_in_background() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        let session = session_on(intercepted(&store, nth("txn", 2, 3, action))).await;
        let candidate = Election::new(&session, "e").enter("a").await.unwrap();
        assert!(candidate.withdraw().await.unwrap_err().cause.is_retryable());
        sleep(secs(1)).await;
        assert_eq!(keys(&store, "e/").await, [""; 0]);
    }
}

/// trillian issue 3789: a resignation failed because the shutdown had ended another task that it
/// needed. Here it needs the session only.
#[tokio::test(start_paused = true)]
async fn resign_succeeds_after_other_tasks_are_aborted() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let leadership = Election::new(&session, "e").campaign("a").await.unwrap();
    let mut tasks = JoinSet::new();
    let mut leaders = Election::new(&session, "e").observe();
    tasks.spawn(async move { while let Some(Ok(_)) = leaders.next().await {} });
    let proclaimer = leadership.proclaimer();
    tasks.spawn(async move {
        loop {
            proclaimer.proclaim("busy").await.unwrap();
            sleep(secs(1)).await;
        }
    });
    let candidate = Election::new(&session, "e").enter("second").await.unwrap();
    tasks.spawn(async move { drop(candidate.elected().await) });
    sleep(secs(3)).await;
    tasks.shutdown().await;
    drop(session);
    leadership.resign().await.unwrap();
    settle().await;
    assert_eq!(keys(&store, "e/").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn resign_racing_session_close_frees_the_election() {
    let store = Client::new(MemBackend::new());
    for close_first in [false, true] {
        let session = session(&store).await;
        let leadership = Election::new(&session, "e").campaign("a").await.unwrap();
        let next = election(&store).await.enter("next").await.unwrap();
        let (closed, resigned) = if close_first {
            tokio::join!(session.close(), leadership.resign())
        } else {
            let (resigned, closed) = tokio::join!(leadership.resign(), session.close());
            (closed, resigned)
        };
        closed.unwrap();
        if let Err(error) = resigned {
            assert_eq!(error.cause.loss(), Some(LossReason::Closed));
        }
        drop(timeout(secs(1), next.elected()).await.unwrap().unwrap());
        settle().await;
        assert_eq!(keys(&store, "e/").await, [""; 0]);
    }
}

#[test]
fn leadership_dropped_outside_runtime_resigns() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = Client::new(MemBackend::new());
    let leadership =
        runtime.block_on(async { election(&store).await.campaign("a").await.unwrap() });
    drop(leadership);
    runtime.block_on(settle());
    assert_eq!(runtime.block_on(keys(&store, "e/")), [""; 0]);
}
