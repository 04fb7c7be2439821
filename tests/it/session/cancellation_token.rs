//! Cancellation tokens of sessions, locks and leaderships.

use coord_core::{Client, Election, Mutex};
use coord_mem::MemBackend;
use tokio::time::{sleep, timeout};

use crate::support::{secs, session};

#[tokio::test(start_paused = true)]
async fn cancellation_token_is_cancelled_by_release_or_loss() {
    let store = Client::new(MemBackend::new());
    let owner = session(&store).await;
    let mutex = Mutex::new(&owner, "m");
    let session_token = owner.cancellation_token();

    let guard = mutex.lock().await.unwrap();
    let (token, other) = (guard.cancellation_token(), guard.cancellation_token());
    other.cancel();
    assert!(!token.is_cancelled() && !session_token.is_cancelled(), "tokens are independent");
    guard.unlock().await.unwrap();
    assert!(token.is_cancelled(), "the lock was released");

    let guard = mutex.lock().await.unwrap();
    let token = guard.cancellation_token();
    store.delete(guard.key()).await.unwrap();
    timeout(secs(1), token.cancelled()).await.expect("the key was deleted");
    assert!(!session_token.is_cancelled());

    let leadership = Election::new(&owner, "e").campaign("me").await.unwrap();
    let token = leadership.cancellation_token();
    store.lease_revoke(owner.lease_id()).await.unwrap();
    timeout(secs(10), token.cancelled()).await.expect("the lease was revoked");
    assert!(session_token.is_cancelled());
    assert!(owner.cancellation_token().is_cancelled(), "a later token is cancelled too");
    assert!(leadership.cancellation_token().is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn cancellation_token_does_not_keep_a_session_open() {
    let store = Client::new(MemBackend::new());
    let owner = session(&store).await;
    let guard = Mutex::new(&owner, "m").lock().await.unwrap();
    let (session_token, token) = (owner.cancellation_token(), guard.cancellation_token());
    drop((guard, owner));
    timeout(secs(1), token.cancelled()).await.expect("the guard was dropped");
    timeout(secs(1), session_token.cancelled()).await.expect("the session was closed");
    sleep(secs(1)).await;
    assert!(store.leases().await.unwrap().leases.is_empty());
}
