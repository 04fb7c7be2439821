//! Work that is repeated after a loss, whichever error it returns, and whether the work or its
//! supervisor meets the loss first.

use crate::support::another;
use coord_core::election::Leadership;
use coord_core::mutex::MutexGuard;
use coord_mem::MemBackend;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use coord_core::stm::StmError;
use coord_core::{
    Client, Election, Error, Mutex, Session, Stm,
    error::{ErrorKind, LossReason, PrimitiveError},
    kv::{Put, Txn},
    session::Supervisor,
};
use coord_testkit::{Action, Intercept};
use tokio::time::{sleep, timeout};

use crate::support::{behind, keys, nth, only, secs, session, settle};

async fn supervisor(kv: Client) -> Supervisor {
    let builder = Session::builder(&kv).ttl(secs(10));
    builder.supervise().await.expect("the store is available")
}

fn write() -> Txn {
    Txn::new().and_then([Put::new("plan", "x")])
}

/// An error of an application, which does not show that a loss is behind it.
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

/// `lead` ended for good when the work was the first to meet the loss.
#[tokio::test(start_paused = true)]
async fn election_work_restarts_when_it_meets_the_loss_first() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(another(&store)).await;
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
            leadership.txn(write()).await?;
            Ok::<_, PrimitiveError>(())
        });
        led.await.unwrap();
        assert_eq!(calls.into_inner(), 3, "revoke: {revoke}");
        assert_eq!(keys(&store, "e/").await, [""; 0]);
    }
}

/// The same for the lock, with an error type of the application, which hides the loss.
#[tokio::test(start_paused = true)]
async fn lock_work_restarts_when_its_error_hides_the_loss() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(another(&store)).await;
    let calls = AtomicU32::new(0);
    let held = supervisor.run_while_held(lock, async |guard: Arc<MutexGuard>| {
        if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            store.delete(guard.key()).await.unwrap();
        }
        guard.txn(write()).await?;
        Ok::<_, AppError>(guard.fencing_token())
    });
    held.await.unwrap();
    assert_eq!(calls.into_inner(), 2);
    assert_eq!(keys(&store, "m/").await, [""; 0]);
}

/// `run` knows of a loss that its work has met, also behind an error of the application's own.
#[tokio::test(start_paused = true)]
async fn run_restarts_when_the_error_hides_the_loss() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(another(&store)).await;
    let calls = AtomicU32::new(0);
    let ran = supervisor.run(async |session: Session| {
        let leadership = Election::new(&session, "e").campaign("me").await?;
        if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            store.delete(leadership.key()).await.unwrap();
        }
        leadership.txn(write()).await.map_err(|_| AppError::Coordination)?;
        Ok::<_, AppError>(())
    });
    ran.await.unwrap();
    assert_eq!(calls.into_inner(), 2);
}

/// An error that has nothing to do with a loss ends the work, also when another call on the same
/// session has met one.
#[tokio::test(start_paused = true)]
async fn error_without_a_loss_ends_run() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(another(&store)).await;
    let lossy = supervisor.run(async |session: Session| {
        let guard = Mutex::new(&session, "m").lock().await?;
        store.delete(guard.key()).await.unwrap();
        guard.txn(write()).await?;
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
    assert!(lossy.is_err(), "it begins anew again and again");
    assert_eq!((plain, calls.into_inner()), (Err(AppError::Input), 1));
    assert_eq!(led, Err(AppError::Input));
    assert_eq!(keys(&store, "e/").await, [""; 0], "it resigned");
}

/// One request of the campaign that failed ended the candidacy.
#[tokio::test(start_paused = true)]
async fn run_while_held_retries_retryable_errors() {
    for fate in [Action::DropRequest, Action::DropResponse, Action::Hang] {
        for held in [false, true] {
            let store = Client::new(MemBackend::new());
            let rule = nth("txn", 1, 3, fate.clone());
            let kv =
                Client::new(Intercept::new(Arc::clone(store.backend()), rule).timeout(secs(2)));
            let supervisor = supervisor(kv).await;
            let done = if held {
                supervisor.run_while_held(lock, async |_| Ok::<_, PrimitiveError>(7)).await
            } else {
                supervisor.run_while_held(campaign, async |_| Ok::<_, PrimitiveError>(7)).await
            };
            assert_eq!(done.unwrap(), 7, "{fate:?}");
            sleep(secs(30)).await;
            assert_eq!(keys(&store, "").await, [""; 0], "{fate:?}");
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
    let PrimitiveError::Backend(error) = refused.await.unwrap_err() else { panic!("not lost") };
    assert_eq!(error.kind(), ErrorKind::RequestTooLarge);

    let endless = supervisor.run_while_held(campaign, |_| std::future::pending());
    let (led, closed): (Result<(), PrimitiveError>, _) = tokio::join!(endless, async {
        sleep(secs(1)).await;
        supervisor.close().await
    });
    closed.unwrap();
    assert_eq!(led.unwrap_err().loss(), Some(LossReason::Closed));
}

/// Transactions on a session that had ended failed with "lease not found".
#[tokio::test(start_paused = true)]
async fn exactly_once_on_a_lost_session_fails_with_its_reason() {
    for (revoke, reason) in [(true, LossReason::Revoked), (false, LossReason::Closed)] {
        let store = Client::new(MemBackend::new());
        let session = session(&store).await;
        let transactions = Stm::new(&another(&store)).exactly_once(&session);
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
        assert_eq!(read.value, None, "nothing was written, and reading needs no session");
    }
}

#[tokio::test(start_paused = true)]
async fn cancellation_token_is_cancelled_by_release_or_loss() {
    let store = Client::new(MemBackend::new());
    let owner = session(&store).await;
    let mutex = Mutex::new(&owner, "m");
    let whole = owner.cancellation_token();

    let guard = mutex.lock().await.unwrap();
    let (token, other) = (guard.cancellation_token(), guard.cancellation_token());
    other.cancel();
    assert!(!token.is_cancelled() && !whole.is_cancelled(), "each token is on its own");
    guard.unlock().await.unwrap();
    assert!(token.is_cancelled(), "unlocked");

    let guard = mutex.lock().await.unwrap();
    let token = guard.cancellation_token();
    store.delete(guard.key()).await.unwrap();
    timeout(secs(1), token.cancelled()).await.expect("its key was deleted");
    assert!(!whole.is_cancelled());

    let leadership = Election::new(&owner, "e").campaign("me").await.unwrap();
    let token = leadership.cancellation_token();
    store.lease_revoke(owner.lease_id()).await.unwrap();
    timeout(secs(10), token.cancelled()).await.expect("its lease was revoked");
    assert!(whole.is_cancelled());
    assert!(owner.cancellation_token().is_cancelled(), "also one that is made afterwards");
    assert!(leadership.cancellation_token().is_cancelled());
}

/// A token does not keep its session open: the last handle closes it all the same.
#[tokio::test(start_paused = true)]
async fn cancellation_token_does_not_keep_a_session_open() {
    let store = Client::new(MemBackend::new());
    let owner = session(&store).await;
    let guard = Mutex::new(&owner, "m").lock().await.unwrap();
    let (whole, token) = (owner.cancellation_token(), guard.cancellation_token());
    drop((guard, owner));
    timeout(secs(1), token.cancelled()).await.expect("dropped");
    timeout(secs(1), whole.cancelled()).await.expect("closed");
    sleep(secs(1)).await;
    assert!(store.leases().await.unwrap().leases.is_empty());
}

/// A resignation that was confirmed at the second try counted as a loss: an error of the work that
/// followed was not returned, and the work was done again.
#[tokio::test(start_paused = true)]
async fn error_after_ambiguous_resign_ends_run() {
    let kv = behind(&Client::new(MemBackend::new()), nth("txn", 2, 2, Action::DropResponse));
    let (supervisor, calls) = (supervisor(kv).await, AtomicU32::new(0));
    let ran = supervisor.run(async |session: Session| {
        calls.fetch_add(1, Ordering::Relaxed);
        let leadership = Election::new(&session, "e").campaign("me").await?;
        let error = leadership.resign().await.expect_err("its response is lost");
        error.held.resign().await.map_err(PrimitiveError::from)?;
        Err::<(), _>(AppError::Input)
    });
    assert_eq!(ran.await, Err(AppError::Input));
    assert_eq!(calls.into_inner(), 1);
}

/// The same when a token follows the lock and sees that its key is deleted.
#[tokio::test(start_paused = true)]
async fn error_after_unlock_with_a_token_ends_run() {
    let supervisor =
        supervisor(behind(&Client::new(MemBackend::new()), only("txn", Action::Yield))).await;
    let run = supervisor.run(async |session: Session| {
        let guard = Mutex::new(&session, "m").lock().await?;
        let _token = guard.cancellation_token();
        settle().await;
        guard.unlock().await.map_err(PrimitiveError::from)?;
        Err::<(), _>(AppError::Input)
    });
    assert_eq!(timeout(secs(60), run).await.expect("it ends"), Err(AppError::Input));
}

/// The enqueue was the first to meet the loss, and the lease could not be asked for.
#[tokio::test(start_paused = true)]
async fn lock_work_restarts_when_the_enqueue_meets_the_loss() {
    let store = Client::new(MemBackend::new());
    let rule = nth("lease_time_to_live", 1, 1, Action::DropRequest);
    let supervisor = supervisor(behind(&store, rule)).await;
    store.lease_revoke(supervisor.session().lease_id()).await.unwrap();
    let held = supervisor.run_while_held(lock, async |_| Ok::<_, AppError>(7));
    assert_eq!(held.await, Ok(7));
}

/// The same for a transaction with an idempotency key.
#[tokio::test(start_paused = true)]
async fn run_restarts_when_a_transaction_meets_the_loss() {
    let store = Client::new(MemBackend::new());
    let rule = nth("lease_time_to_live", 1, 1, Action::DropRequest);
    let kv = behind(&store, rule);
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
