//! `Supervisor::run` and `Supervisor::run_while_held` repeat work after a loss.
//!
//! They repeat it also if the type of its error hides the loss, and whether the work or the
//! supervisor meets the loss first. Other errors of the work end the call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use coord_core::{
    Client, Election, Error, Mutex, Session, Stm,
    election::Leadership,
    error::{ErrorKind, LossReason, Outcome, PrimitiveError},
    kv::{Put, Txn},
    mutex::MutexGuard,
    queue::Held,
    recipes::{RwLock, Semaphore, SemaphoreError, SemaphorePermits, WriteGuard},
    stm::StmError,
};
use coord_mem::MemBackend;
use coord_testkit::Action;
use tokio::time::{sleep, timeout};

use super::client_with_timeout;
use super::supervisor::supervisor;
use crate::support::{intercepted, keys, nth, only, secs, separate_client, session, settle};

/// A write to guard with the condition that the lock or leadership is held.
fn guarded_write() -> Txn {
    Txn::new().and_then([Put::new("plan", "x")])
}

/// The error type of an application, which hides whether a loss is the cause.
#[derive(Debug, PartialEq)]
enum AppError {
    Coordination,
    Input,
}

impl From<PrimitiveError> for AppError {
    fn from(_: PrimitiveError) -> Self {
        Self::Coordination
    }
}

async fn campaign(session: Session) -> Result<Leadership, PrimitiveError> {
    Election::new(&session, "e").campaign("me").await
}

async fn lock(session: Session) -> Result<MutexGuard, PrimitiveError> {
    Mutex::new(&session, "m").lock().await
}

/// Regression: a loss that the work met before the supervisor ended `run_while_held`.
#[tokio::test(start_paused = true)]
async fn election_work_restarts_when_it_meets_the_loss_first() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(separate_client(&store)).await;
    for revoke in [false, true] {
        let calls = AtomicU32::new(0);
        let led = supervisor.run_while_held(campaign, async |leadership: Arc<Leadership>| {
            if calls.fetch_add(1, Ordering::Relaxed) < 2 {
                if revoke {
                    store.lease_revoke(leadership.session().lease_id()).await?;
                } else {
                    store.delete(leadership.key()).await?;
                }
            }
            leadership.txn(guarded_write()).await?;
            Ok::<_, PrimitiveError>(())
        });
        led.await.unwrap();
        assert_eq!(calls.into_inner(), 3, "revoke: {revoke}");
        assert_eq!(keys(&store, "e/").await, [""; 0]);
    }
}

/// As above for a lock, with the error type of an application.
#[tokio::test(start_paused = true)]
async fn lock_work_restarts_when_its_error_hides_the_loss() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(separate_client(&store)).await;
    let calls = AtomicU32::new(0);
    let held = supervisor.run_while_held(lock, async |guard: Arc<MutexGuard>| {
        if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            store.delete(guard.key()).await.unwrap();
        }
        guard.txn(guarded_write()).await?;
        Ok::<_, AppError>(guard.fencing_token())
    });
    held.await.unwrap();
    assert_eq!(calls.into_inner(), 2);
    assert_eq!(keys(&store, "m/").await, [""; 0]);
}

/// `run` detects the loss by the session, not by the type of the error.
#[tokio::test(start_paused = true)]
async fn run_restarts_when_the_error_hides_the_loss() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(separate_client(&store)).await;
    let calls = AtomicU32::new(0);
    let ran = supervisor.run(async |session: Session| {
        let leadership = Election::new(&session, "e").campaign("me").await?;
        if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            store.delete(leadership.key()).await.unwrap();
        }
        leadership.txn(guarded_write()).await.map_err(|_| AppError::Coordination)?;
        Ok::<_, AppError>(())
    });
    ran.await.unwrap();
    assert_eq!(calls.into_inner(), 2);
}

/// An error without a loss ends the call, even if another call on the same session met a loss.
#[tokio::test(start_paused = true)]
async fn error_without_a_loss_ends_run() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(separate_client(&store)).await;
    let lossy = supervisor.run(async |session: Session| {
        let guard = Mutex::new(&session, "m").lock().await?;
        store.delete(guard.key()).await.unwrap();
        guard.txn(guarded_write()).await?;
        Ok::<(), AppError>(())
    });
    let calls = AtomicU32::new(0);
    let plain = supervisor.run(async |_| {
        calls.fetch_add(1, Ordering::Relaxed);
        sleep(secs(3)).await;
        Err::<(), _>(AppError::Input)
    });
    let led = supervisor.run_while_held(campaign, async |_| Err::<(), _>(AppError::Input));
    let (lossy, plain, led) = tokio::join!(timeout(secs(5), lossy), plain, led);
    assert!(lossy.is_err(), "each attempt loses its lock and is repeated");
    assert_eq!((plain, calls.into_inner()), (Err(AppError::Input), 1));
    assert_eq!(led, Err(AppError::Input));
    assert_eq!(keys(&store, "e/").await, [""; 0], "the leadership was released");
}

/// Regression: one failed request of the campaign ended `run_while_held`.
#[tokio::test(start_paused = true)]
async fn run_while_held_retries_retryable_errors() {
    for action in [Action::DropRequest, Action::DropResponse, Action::Hang] {
        for held in [false, true] {
            let store = Client::new(MemBackend::new());
            let rule = nth("txn", 1, 3, action.clone());
            let supervisor = supervisor(client_with_timeout(&store, rule)).await;
            let done = if held {
                supervisor.run_while_held(lock, async |_| Ok::<_, PrimitiveError>(7)).await
            } else {
                supervisor.run_while_held(campaign, async |_| Ok::<_, PrimitiveError>(7)).await
            };
            assert_eq!(done.unwrap(), 7, "{action:?}");
            sleep(secs(30)).await;
            assert_eq!(keys(&store, "").await, [""; 0], "{action:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn run_while_held_ends_on_permanent_error_or_close() {
    let supervisor = supervisor(Client::new(MemBackend::new())).await;
    let campaign_too_large =
        async |session: Session| Election::new(&session, "e").campaign(vec![b'x'; 3 << 20]).await;
    let refused =
        supervisor.run_while_held(campaign_too_large, async |_| Ok::<_, PrimitiveError>(()));
    let PrimitiveError::Backend(error) = refused.await.unwrap_err() else { panic!("not a loss") };
    assert_eq!(error.kind(), ErrorKind::RequestTooLarge);

    let endless = supervisor.run_while_held(campaign, |_| std::future::pending());
    let (led, closed): (Result<(), PrimitiveError>, _) = tokio::join!(endless, async {
        sleep(secs(1)).await;
        supervisor.close().await
    });
    closed.unwrap();
    assert_eq!(led.unwrap_err().loss(), Some(LossReason::Closed));
}

/// Regression: `exactly_once` on an ended session failed with "lease not found".
#[tokio::test(start_paused = true)]
async fn exactly_once_on_a_lost_session_fails_with_its_reason() {
    for (revoke, reason) in [(true, LossReason::Revoked), (false, LossReason::Closed)] {
        let store = Client::new(MemBackend::new());
        let session = session(&store).await;
        let transactions = Stm::new(&separate_client(&store)).exactly_once(&session);
        if revoke {
            store.lease_revoke(session.lease_id()).await.unwrap();
        } else {
            session.close().await.unwrap();
        }
        for _ in 0..2 {
            let run = transactions.run(async |tx| {
                tx.put("a", "1");
                Ok::<_, Error>(())
            });
            let error = run.await.unwrap_err();
            assert!(matches!(error, StmError::Lost(_)), "{error:?}");
            assert_eq!(error.loss(), Some(reason));
        }
        let read = transactions.run(async |tx| tx.get("a").await).await.unwrap();
        assert_eq!(read.value, None, "nothing was written; reads need no session");
    }
}

/// Regression: a resignation that was confirmed at the second try counted as a loss, so the work
/// was repeated after an unrelated error.
#[tokio::test(start_paused = true)]
async fn error_after_ambiguous_resign_ends_run() {
    let kv = intercepted(&Client::new(MemBackend::new()), nth("txn", 2, 2, Action::DropResponse));
    let (supervisor, calls) = (supervisor(kv).await, AtomicU32::new(0));
    let ran = supervisor.run(async |session: Session| {
        calls.fetch_add(1, Ordering::Relaxed);
        let leadership = Election::new(&session, "e").campaign("me").await?;
        let error = leadership.resign().await.expect_err("the response was dropped");
        error.held.resign().await.map_err(PrimitiveError::from)?;
        Err::<(), _>(AppError::Input)
    });
    assert_eq!(ran.await, Err(AppError::Input));
    assert_eq!(calls.into_inner(), 1);
}

/// As above for an unlock: the cancellation token of the guard detects the deletion of the key.
#[tokio::test(start_paused = true)]
async fn error_after_unlock_with_a_token_ends_run() {
    let supervisor =
        supervisor(intercepted(&Client::new(MemBackend::new()), only("txn", Action::Yield))).await;
    let run = supervisor.run(async |session: Session| {
        let guard = Mutex::new(&session, "m").lock().await?;
        let _token = guard.cancellation_token();
        settle().await;
        guard.unlock().await.map_err(PrimitiveError::from)?;
        Err::<(), _>(AppError::Input)
    });
    assert_eq!(timeout(secs(60), run).await.unwrap(), Err(AppError::Input));
}

/// Regression: a loss that the enqueue met first was final if the lease could not be queried.
#[tokio::test(start_paused = true)]
async fn lock_work_restarts_when_the_enqueue_meets_the_loss() {
    let store = Client::new(MemBackend::new());
    let rule = nth("lease_time_to_live", 1, 1, Action::DropRequest);
    let supervisor = supervisor(intercepted(&store, rule)).await;
    store.lease_revoke(supervisor.session().lease_id()).await.unwrap();
    let held = supervisor.run_while_held(lock, async |_| Ok::<_, AppError>(7));
    assert_eq!(held.await, Ok(7));
}

/// As above for a transaction with an idempotency key.
#[tokio::test(start_paused = true)]
async fn run_restarts_when_a_transaction_meets_the_loss() {
    let store = Client::new(MemBackend::new());
    let rule = nth("lease_time_to_live", 1, 1, Action::DropRequest);
    let kv = intercepted(&store, rule);
    let (supervisor, calls) = (supervisor(kv.clone()).await, AtomicU32::new(0));
    store.lease_revoke(supervisor.session().lease_id()).await.unwrap();
    let ran = supervisor.run(async |session: Session| {
        calls.fetch_add(1, Ordering::Relaxed);
        let run = Stm::new(&kv).exactly_once(&session);
        let run = run.run(async |tx| {
            tx.put("a", "1");
            Ok::<_, Error>(())
        });
        run.await.map(drop).map_err(|_| AppError::Coordination)
    });
    ran.await.unwrap();
    assert!(calls.into_inner() > 1);
}

/// Permits of a semaphore and a read-write lock are acquired again after a loss, although their
/// errors have types of their own.
#[tokio::test(start_paused = true)]
async fn recipe_is_acquired_again_after_a_loss() {
    async fn work<H: Held>(store: &Client, calls: &AtomicU32, held: &H) -> Result<u32, AppError> {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        if call == 0 {
            store.delete(held.contender().key()).await.map_err(PrimitiveError::from)?;
            std::future::pending::<()>().await;
        }
        Ok(call)
    }
    let store = Client::new(MemBackend::new());
    let rule = nth("txn", 1, 2, Action::DropRequest);
    let supervisor = supervisor(client_with_timeout(&store, rule)).await;
    let acquire = async |session: Session| Semaphore::new(&session, "s", 2).acquire(1).await;
    let calls = AtomicU32::new(0);
    let held = supervisor.run_while_held(acquire, async |held: Arc<SemaphorePermits>| {
        work(&store, &calls, &*held).await
    });
    assert_eq!(held.await, Ok(1));
    let upgrade = async |session: Session| {
        let reader = RwLock::new(&session, "l").read().await?;
        Ok::<_, PrimitiveError>(reader.upgrade().await?)
    };
    let calls = AtomicU32::new(0);
    let held = supervisor
        .run_while_held(upgrade, async |held: Arc<WriteGuard>| work(&store, &calls, &*held).await);
    assert_eq!(held.await, Ok(1));
    sleep(secs(30)).await;
    assert_eq!(keys(&store, "").await, ["coord/limit/s"]);
}

/// An error that only the semaphore has ends the call, with its own type if the caller has that.
#[tokio::test(start_paused = true)]
async fn error_of_a_recipe_ends_run_while_held() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(separate_client(&store)).await;
    drop(Semaphore::new(&session(&store).await, "s", 3).acquire(1).await.unwrap());
    let acquire = async |session: Session| Semaphore::new(&session, "s", 2).acquire(1).await;
    let held = supervisor.run_while_held(acquire, async |_| Ok::<_, SemaphoreError>(()));
    let error = held.await.unwrap_err();
    assert!(matches!(error, SemaphoreError::LimitDiffers { stored: 3, given: 2, .. }), "{error}");
    let held = supervisor.run_while_held(acquire, async |_| Ok::<_, PrimitiveError>(()));
    let error = held.await.unwrap_err();
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotApplied, false));
    let PrimitiveError::Recipe { error, .. } = &error else { panic!("{error}") };
    assert!(error.is::<SemaphoreError>(), "{error}");
}
