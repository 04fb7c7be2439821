//! Cancellation cases of release requests: sending a request, and waiting for one.

use coord_core::queue::{Contender, ReleaseRequest, WaitQueue};
use coord_core::{Election, Mutex, Session};
use tokio::time::sleep;

use super::trial::{Trial, close, session_of};
use super::{Case, drop_all};
use crate::support::secs;

#[test]
fn dropped_release_requests_leave_nothing() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    asking().into_iter().chain(waiting()).collect()
}

/// The request is dropped. It can be made again, and the holder receives it.
fn asking() -> [Case; 4] {
    [
        Case::new(&["Mutex::request_release"], "the holder is asked", |t| async move {
            let (holder, asking) = (session_of(&t.other).await, t.session().await);
            let guard = Mutex::new(&holder, "m").lock().await.unwrap();
            let mutex = Mutex::new(&asking, "m");
            drop(t.drop_at_await(mutex.request_release("asked")).await);
            t.proceeds(mutex.request_release("asked again")).await.unwrap();
            let request = t.proceeds(guard.release_requested()).await.unwrap();
            assert!(request.reason.starts_with("asked"));
            t.messages_arrive().await;
            guard.unlock().await.unwrap();
            finish([holder, asking]).await;
        }),
        Case::new(&["Election::request_release"], "the leader is asked", |t| async move {
            let (holder, asking) = (session_of(&t.other).await, t.session().await);
            let leadership = Election::new(&holder, "e").campaign("").await.unwrap();
            let election = Election::new(&asking, "e");
            drop(t.drop_at_await(election.request_release("asked")).await);
            t.proceeds(election.request_release("asked again")).await.unwrap();
            t.proceeds(leadership.release_requested()).await.unwrap();
            t.messages_arrive().await;
            leadership.resign().await.unwrap();
            finish([holder, asking]).await;
        }),
        Case::new(&["ReleaseRequest::send"], "a key that was read", |t| async move {
            let (holder, client) = (session_of(&t.other).await, t.client());
            let contender = enqueue(&holder).await;
            let kv = t.other.client().get(contender.key()).await.unwrap().unwrap();
            drop(t.drop_at_await(ReleaseRequest::send(client, &kv, "asked")).await);
            let again = ReleaseRequest::send(client, &kv, "asked again");
            assert!(t.proceeds(again).await.unwrap());
            t.messages_arrive().await;
            contender.release().await.unwrap();
            close(&holder).await;
        }),
        Case::new(&["WaitQueue::request_release"], "the first is asked", |t| async move {
            let (holder, asking) = (session_of(&t.other).await, t.session().await);
            let contender = enqueue(&holder).await;
            let queue = WaitQueue::new(&asking, "q");
            drop(t.drop_at_await(queue.request_release("asked")).await);
            t.proceeds(queue.request_release("asked again")).await.unwrap();
            t.messages_arrive().await;
            contender.release().await.unwrap();
            finish([holder, asking]).await;
        }),
    ]
}

/// The wait is dropped. It can be repeated, and loses no request.
fn waiting() -> [Case; 3] {
    [
        Case::new(&["Ownership::release_requested"], "asked later", |t| async move {
            let (holder, asking) = (t.session().await, session_of(&t.other).await);
            let contender = enqueue(&holder).await;
            ask_later(&t, WaitQueue::new(&asking, "q"));
            drop(t.drop_at_await(contender.release_requested()).await);
            t.messages_arrive().await;
            t.proceeds(contender.release_requested()).await.unwrap();
            contender.release().await.unwrap();
            finish([asking, holder]).await;
        }),
        Case::new(&["MutexGuard::release_requested"], "asked later", |t| async move {
            let (holder, asking) = (t.session().await, session_of(&t.other).await);
            let guard = Mutex::new(&holder, "m").lock().await.unwrap();
            ask_later(&t, WaitQueue::new(&asking, "m"));
            drop(t.drop_at_await(guard.release_requested()).await);
            t.messages_arrive().await;
            t.proceeds(guard.release_requested()).await.unwrap();
            guard.unlock().await.unwrap();
            t.queue_is_free("m").await;
            finish([asking, holder]).await;
        }),
        Case::new(&["Leadership::release_requested"], "asked later", |t| async move {
            let (holder, asking) = (t.session().await, session_of(&t.other).await);
            let leadership = Election::new(&holder, "e").campaign("").await.unwrap();
            ask_later(&t, WaitQueue::new(&asking, "e"));
            drop(t.drop_at_await(leadership.release_requested()).await);
            t.messages_arrive().await;
            t.proceeds(leadership.release_requested()).await.unwrap();
            leadership.resign().await.unwrap();
            finish([asking, holder]).await;
        }),
    ]
}

async fn enqueue(session: &Session) -> Contender {
    WaitQueue::new(session, "q").enqueue("").await.unwrap()
}

/// The other process sends a request to the first contender after half a second.
fn ask_later(t: &Trial, queue: WaitQueue) {
    drop(t.other.spawn(async move {
        sleep(secs(1) / 2).await;
        queue.request_release("asked later").await.unwrap();
    }));
}

/// Closes the sessions. When the last one is closed, nothing is left.
async fn finish([first, last]: [Session; 2]) {
    first.close().await.unwrap();
    close(&last).await;
}
