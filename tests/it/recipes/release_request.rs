//! Release requests: another client requests the release from the holder.

use std::time::Duration;

use coord_core::error::{LossReason, PrimitiveError};
use coord_core::kv::{Op, Put, Range};
use coord_core::queue::{ReleaseRequest, WaitQueue};
use coord_core::{Client, Election, Error, Mutex};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder};
use tokio::time::{sleep, timeout};

use crate::support::{
    enqueue_like_go, intercepted, keys, newest_revision, secs, session, session_on,
};

/// The prefix of all requests.
const REQUESTS: &str = "coord/release/";

/// The reason of the request that a future returns within a second.
async fn received(
    requested: impl Future<Output = Result<ReleaseRequest, PrimitiveError>>,
) -> Option<String> {
    let request = timeout(secs(1), requested).await.ok()?;
    Some(request.expect("the session lives").reason)
}

#[tokio::test(start_paused = true)]
async fn holder_receives_request_made_before_or_after_it_waits() {
    let store = Client::new(MemBackend::new());
    let (holder, other) = (session(&store).await, session(&store).await);
    let requester = Mutex::new(&other, "m");
    for is_early in [true, false] {
        let guard = Mutex::new(&holder, "m").lock().await.unwrap();
        let token = guard.fencing_token();
        let request = async {
            assert_eq!(requester.request_release("moved").await.unwrap(), Some(token));
        };
        let reason = if is_early {
            request.await;
            received(guard.release_requested()).await
        } else {
            let delayed = async {
                sleep(Duration::from_millis(500)).await;
                request.await;
            };
            tokio::join!(received(guard.release_requested()), delayed).0
        };
        assert_eq!(reason.as_deref(), Some("moved"));
        assert_eq!(received(guard.release_requested()).await.as_deref(), Some("moved"), "again");
        assert!(guard.txn(coord_core::kv::Txn::new()).await.is_ok(), "a request is advisory");
        guard.unlock().await.unwrap();
        assert_eq!(keys(&store, REQUESTS).await, [""; 0], "the release deletes the request");
    }
}

/// The key of the next holder has the same name, and the request of the former holder is left.
#[tokio::test(start_paused = true)]
async fn request_to_a_former_holder_is_not_received_by_the_next() {
    let store = Client::new(MemBackend::new());
    let (holder, other) = (session(&store).await, session(&store).await);
    let (mutex, requester) = (Mutex::new(&holder, "m"), Mutex::new(&other, "m"));
    let first = mutex.lock().await.unwrap();
    requester.request_release("to the first").await.unwrap();
    let key = first.key().clone();
    first.unlock().await.unwrap();
    assert_eq!(keys(&store, REQUESTS).await.len(), 1, "the holder has not received it");
    let second = mutex.lock().await.unwrap();
    assert_eq!(second.key(), &key);
    assert_eq!(received(second.release_requested()).await, None);
    requester.request_release("to the second").await.unwrap();
    assert_eq!(received(second.release_requested()).await.as_deref(), Some("to the second"));
    holder.close().await.unwrap();
    assert_eq!(keys(&store, REQUESTS).await, [""; 0], "deleted with the session");
}

#[tokio::test(start_paused = true)]
async fn leader_receives_requests_too() {
    let store = Client::new(MemBackend::new());
    let (candidate, other) = (session(&store).await, session(&store).await);
    let requester = Election::new(&other, "e");
    assert_eq!(requester.request_release("no leader").await.unwrap(), None);
    let leadership = Election::new(&candidate, "e").campaign("a").await.unwrap();
    let waiting = requester.enter("b").await.unwrap();
    let requested = requester.request_release("upgrade").await.unwrap();
    assert_eq!(requested, Some(leadership.fencing_token()), "the leader, and not the candidate");
    assert_eq!(received(leadership.release_requested()).await.as_deref(), Some("upgrade"));
    leadership.resign().await.unwrap();
    waiting.elected().await.unwrap().resign().await.unwrap();
    assert_eq!(keys(&store, REQUESTS).await, [""; 0]);
}

/// A queue of your own has release requests too; the waiter behind the holder receives none.
#[tokio::test(start_paused = true)]
async fn only_the_first_contender_receives_a_request() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let queue = WaitQueue::new(&session, "q");
    let child = WaitQueue::new(&session, "q/child").enqueue("").await.unwrap();
    assert_eq!(queue.request_release("none").await.unwrap(), None, "a child name is no holder");
    let (first, second) = (queue.enqueue("").await.unwrap(), queue.enqueue("").await.unwrap());
    assert_eq!(queue.request_release("x").await.unwrap(), Some(first.fencing_token()));
    assert_eq!(received(second.release_requested()).await, None);
    assert_eq!(received(first.release_requested()).await.as_deref(), Some("x"));
    drop((child, first, second));
}

#[tokio::test(start_paused = true)]
async fn foreign_keys_and_evicted_holders_get_no_request() {
    let store = Client::new(MemBackend::new());
    let other = session(&store).await;
    store.put("m/config", "no contender").await.unwrap();
    let before = newest_revision(&store).await;
    assert_eq!(Mutex::new(&other, "m").request_release("x").await.unwrap(), None);
    let (lease, key) = enqueue_like_go(&store, "go", "").await;
    let kv = store.get(key.clone()).await.unwrap().unwrap();
    assert!(ReleaseRequest::send(&store, &kv, "ignored by Go").await.unwrap());
    store.put_with(Put::new(&key, "").lease(lease)).await.unwrap();
    assert!(ReleaseRequest::send(&store, &kv, "the same holder").await.unwrap());
    store.delete(key.clone()).await.unwrap();
    assert!(!ReleaseRequest::send(&store, &kv, "deleted").await.unwrap());
    store.lease_revoke(lease).await.unwrap();
    assert!(!ReleaseRequest::send(&store, &kv, "without a lease").await.unwrap());
    assert_eq!(keys(&store, REQUESTS).await, [""; 0], "deleted with the lease");
    assert!(newest_revision(&store).await > before);
}

#[tokio::test(start_paused = true)]
async fn request_costs_two_requests_and_a_release_no_more() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let holder = session_on(intercepted(&store, recorder.clone())).await;
    let other = session_on(intercepted(&store, recorder.clone())).await;
    let guard = Mutex::new(&holder, "m").lock().await.unwrap();
    recorder.take();
    Mutex::new(&other, "m").request_release("x").await.unwrap();
    assert_eq!(recorder.take().names(), "range txn");
    received(guard.release_requested()).await.unwrap();
    assert_eq!(recorder.take().names(), "range");
    guard.unlock().await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    let guard = Mutex::new(&holder, "m").lock().await.unwrap();
    recorder.take();
    assert_eq!(received(guard.release_requested()).await, None);
    assert_eq!(recorder.take().names(), "range watch", "the wait costs no more requests");
}

/// A hand-off between two contenders of one client reads the successor after both deletions.
#[tokio::test(start_paused = true)]
async fn release_after_a_request_still_hands_over() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let session = session_on(intercepted(&store, recorder.clone())).await;
    let mutex = Mutex::new(&session, "m");
    let guard = mutex.lock().await.unwrap();
    mutex.request_release("x").await.unwrap();
    received(guard.release_requested()).await.unwrap();
    recorder.take();
    let (next, ()) = tokio::join!(mutex.lock(), async {
        sleep(Duration::from_millis(10)).await;
        guard.unlock().await.unwrap();
    });
    assert_eq!(recorder.take().names(), "txn txn", "the enqueue and the release");
    assert!(store.range(Range::prefix(REQUESTS)).await.unwrap().kvs.is_empty());
    next.unwrap().unlock().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn wait_for_a_request_ends_with_the_session() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let guard = Mutex::new(&session, "m").lock().await.unwrap();
    let (requested, ()) = tokio::join!(guard.release_requested(), async {
        sleep(secs(1)).await;
        session.close().await.unwrap();
    });
    let is_closed = |error: PrimitiveError| error.loss() == Some(LossReason::Closed);
    assert!(is_closed(requested.unwrap_err()));
    assert!(is_closed(guard.release_requested().await.unwrap_err()));
}

#[tokio::test(start_paused = true)]
async fn reason_is_any_text_and_bytes_of_others_are_replaced() {
    let store = Client::new(MemBackend::new());
    let (holder, other) = (session(&store).await, session(&store).await);
    let guard = Mutex::new(&holder, "m").lock().await.unwrap();
    for reason in ["", " two  spaces ", "drei Wünsche\n", "7 12"] {
        Mutex::new(&other, "m").request_release(reason).await.unwrap();
        assert_eq!(received(guard.release_requested()).await.as_deref(), Some(reason));
    }
    let key = keys(&store, REQUESTS).await.remove(0);
    let value = [guard.fencing_token().to_string().as_bytes(), b" \xff"].concat();
    store.put(key, value).await.unwrap();
    assert_eq!(received(guard.release_requested()).await.as_deref(), Some("\u{fffd}"));
}

/// Regression: a user that may not delete the request could not release either, so a request kept
/// the lock held until the end of the session.
#[tokio::test(start_paused = true)]
async fn holder_without_permission_for_the_request_releases() {
    let store = Client::new(MemBackend::new());
    let denied = |call: &Call| {
        let deletes_request = |op: &Op| match op {
            Op::Delete(delete) => delete.keys.start().starts_with(REQUESTS.as_bytes()),
            _ => false,
        };
        match call {
            Call::Txn(txn) if txn.success.iter().any(deletes_request) => {
                Action::Fail(Error::PermissionDenied { reason: "denied".into() })
            }
            _ => Action::Pass,
        }
    };
    let holder = session_on(intercepted(&store, denied)).await;
    let requester = Mutex::new(&session(&store).await, "m");
    let guard = Mutex::new(&holder, "m").lock().await.unwrap();
    requester.request_release("moved").await.unwrap();
    assert_eq!(received(guard.release_requested()).await.as_deref(), Some("moved"));
    guard.unlock().await.unwrap();
    assert_eq!(keys(&store, "m/").await, [""; 0]);
    assert_eq!(keys(&store, REQUESTS).await.len(), 1, "it stays until the session ends");
    holder.close().await.unwrap();
    assert_eq!(keys(&store, REQUESTS).await, [""; 0]);
}
