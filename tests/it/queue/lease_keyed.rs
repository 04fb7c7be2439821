//! Lease-keyed contenders: `enqueue_by_lease` uses the key `l/<lease>`, as Go's clients do.

use coord_core::{Client, queue::WaitQueue};
use coord_mem::MemBackend;
use coord_testkit::Action;
use tokio::time::timeout;

use super::enqueue;
use crate::support::{intercepted, keys, nth, secs, session, session_on, settle};

/// The clients of etcd's Lock service expect that a second call on the same lease uses the same
/// key.
#[tokio::test(start_paused = true)]
async fn lease_keyed_enqueue_twice_creates_one_queue_entry() {
    let store = Client::new(MemBackend::new());
    let holder = enqueue(&session(&store).await).await;
    let session = session(&store).await;
    let queue = WaitQueue::new(&session, "l");
    let (mut first, found) = queue.enqueue_by_lease("first").await.unwrap();
    assert_eq!(first.key(), &format!("l/{}", session.lease_id()));
    assert!(found.is_none());
    let (mut second, found) = queue.enqueue_by_lease("second").await.unwrap();
    assert_eq!((second.key(), second.fencing_token()), (first.key(), first.fencing_token()));
    assert_eq!(found.unwrap().value, "first");
    assert!(timeout(secs(1), first.acquired()).await.is_err());
    assert!(timeout(secs(1), second.acquired()).await.is_err());
    assert_eq!(keys(&store, "l/").await.len(), 2);

    holder.release().await.unwrap();
    first.acquired().await.unwrap();
    second.acquired().await.unwrap();
    // A release deletes the key for both, and the next enqueue creates it again.
    first.release().await.unwrap();
    assert!(second.release().await.unwrap_err().loss().is_some());
    let (third, found) = queue.enqueue_by_lease("third").await.unwrap();
    assert!(found.is_none());
    drop(third);
    settle().await;
    assert_eq!(keys(&store, "l/").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn lease_keyed_enqueue_resolves_an_unknown_outcome() {
    for action in [Action::DropResponse, Action::DropRequest] {
        let store = Client::new(MemBackend::new());
        let session = session_on(intercepted(&store, nth("txn", 1, 2, action.clone()))).await;
        let queue = WaitQueue::new(&session, "l");
        let (mut contender, found) = queue.enqueue_by_lease("me").await.unwrap();
        assert_eq!(found.is_some(), matches!(action, Action::DropResponse), "{action:?}");
        contender.acquired().await.unwrap();
        assert_eq!(keys(&store, "l/").await, [format!("l/{}", session.lease_id())]);
        drop(contender);
        settle().await;
        assert_eq!(keys(&store, "l/").await, [""; 0]);
    }
}
