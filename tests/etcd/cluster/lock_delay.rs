//! The lock-delay and release requests on a real etcd.

use coord_core::{Mutex, Session};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::support::{client, secs, session, single_member, within};

/// The runtime of the holder is shut down, as if its process had crashed.
#[tokio::test]
async fn lock_delay_is_kept_after_a_crash() {
    let cluster = single_member().await;
    let endpoints = cluster.endpoints();
    let other = client(&endpoints).await;
    let next = session(&other, 60).await;
    let process = Runtime::new().unwrap();
    let holder = process.spawn(async move {
        let own = client(&endpoints).await;
        let builder = Session::builder(&own).ttl(secs(2)).lock_delay(secs(4));
        let session = builder.connect_timeout(secs(30)).open().await.unwrap();
        let guard = Mutex::new(&session, "m").lock().await.unwrap();
        // Not dropped: a guard that is dropped releases the lock.
        std::mem::forget(guard);
        session
    });
    let holder = holder.await.unwrap();
    process.shutdown_background();
    let guard = within(secs(30), Mutex::new(&next, "m").lock()).await.unwrap();
    let closed = Instant::now() - holder.deadline();
    assert!(closed >= secs(4), "{closed:?}");
    guard.unlock().await.unwrap();
}

#[tokio::test]
async fn release_request_reaches_the_holder() {
    let cluster = single_member().await;
    let (kv, other) = (client(&cluster.endpoints()).await, client(&cluster.endpoints()).await);
    let (holder, requester) = (session(&kv, 60).await, session(&other, 60).await);
    let guard = Mutex::new(&holder, "m").lock().await.unwrap();
    let mutex = Mutex::new(&requester, "m");
    let (request, requested) = tokio::join!(
        within(secs(20), guard.release_requested()),
        mutex.request_release("maintenance")
    );
    assert_eq!(requested.unwrap(), Some(guard.fencing_token()));
    assert_eq!(request.unwrap().reason, "maintenance");
    guard.unlock().await.unwrap();
    within(secs(20), mutex.lock()).await.unwrap().unlock().await.unwrap();
    assert!(kv.get_prefix("coord/").await.unwrap().is_empty(), "the release deletes the request");
}
