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
    sending().into_iter().chain(waiting()).collect()
}

/// The request is dropped. It can be made again, and the holder receives it.
fn sending() -> [Case; 4] {
    [
        Case::new(&["Mutex::request_release"], "with a holder", |t| async move {
            let (holder, requester) = (session_of(&t.other).await, t.session().await);
            let guard = Mutex::new(&holder, "m").lock().await.unwrap();
            let mutex = Mutex::new(&requester, "m");
            drop(t.drop_at_await(mutex.request_release("requested")).await);
            t.proceeds(mutex.request_release("requested again")).await.unwrap();
            let request = t.proceeds(guard.release_requested()).await.unwrap();
            assert!(request.reason.starts_with("requested"));
            t.messages_arrive().await;
            guard.unlock().await.unwrap();
            finish([holder, requester]).await;
        }),
        Case::new(&["Election::request_release"], "with a leader", |t| async move {
            let (holder, requester) = (session_of(&t.other).await, t.session().await);
            let leadership = Election::new(&holder, "e").campaign("").await.unwrap();
            let election = Election::new(&requester, "e");
            drop(t.drop_at_await(election.request_release("requested")).await);
            t.proceeds(election.request_release("requested again")).await.unwrap();
            t.proceeds(leadership.release_requested()).await.unwrap();
            t.messages_arrive().await;
            leadership.resign().await.unwrap();
            finish([holder, requester]).await;
        }),
        Case::new(&["ReleaseRequest::send"], "a key that was read", |t| async move {
            let (holder, client) = (session_of(&t.other).await, t.client());
            let contender = enqueue(&holder).await;
            let kv = t.other.client().get(contender.key()).await.unwrap().unwrap();
            drop(t.drop_at_await(ReleaseRequest::send(client, &kv, "requested")).await);
            let again = ReleaseRequest::send(client, &kv, "requested again");
            assert!(t.proceeds(again).await.unwrap());
            t.messages_arrive().await;
            contender.release().await.unwrap();
            close(&holder).await;
        }),
        Case::new(&["WaitQueue::request_release"], "with a first contender", |t| async move {
            let (holder, requester) = (session_of(&t.other).await, t.session().await);
            let contender = enqueue(&holder).await;
            let queue = WaitQueue::new(&requester, "q");
            drop(t.drop_at_await(queue.request_release("requested")).await);
            t.proceeds(queue.request_release("requested again")).await.unwrap();
            t.messages_arrive().await;
            contender.release().await.unwrap();
            finish([holder, requester]).await;
        }),
    ]
}

/// The wait is dropped. It can be repeated, and loses no request.
fn waiting() -> [Case; 3] {
    [
        Case::new(&["Ownership::release_requested"], "requested later", |t| async move {
            let (holder, requester) = (t.session().await, session_of(&t.other).await);
            let contender = enqueue(&holder).await;
            request_later(&t, WaitQueue::new(&requester, "q"));
            drop(t.drop_at_await(contender.release_requested()).await);
            t.messages_arrive().await;
            t.proceeds(contender.release_requested()).await.unwrap();
            contender.release().await.unwrap();
            finish([requester, holder]).await;
        }),
        Case::new(&["MutexGuard::release_requested"], "requested later", |t| async move {
            let (holder, requester) = (t.session().await, session_of(&t.other).await);
            let guard = Mutex::new(&holder, "m").lock().await.unwrap();
            request_later(&t, WaitQueue::new(&requester, "m"));
            drop(t.drop_at_await(guard.release_requested()).await);
            t.messages_arrive().await;
            t.proceeds(guard.release_requested()).await.unwrap();
            guard.unlock().await.unwrap();
            t.queue_is_free("m").await;
            finish([requester, holder]).await;
        }),
        Case::new(&["Leadership::release_requested"], "requested later", |t| async move {
            let (holder, requester) = (t.session().await, session_of(&t.other).await);
            let leadership = Election::new(&holder, "e").campaign("").await.unwrap();
            request_later(&t, WaitQueue::new(&requester, "e"));
            drop(t.drop_at_await(leadership.release_requested()).await);
            t.messages_arrive().await;
            t.proceeds(leadership.release_requested()).await.unwrap();
            leadership.resign().await.unwrap();
            finish([requester, holder]).await;
        }),
    ]
}

async fn enqueue(session: &Session) -> Contender {
    WaitQueue::new(session, "q").enqueue("").await.unwrap()
}

/// The other process sends a request to the first contender after half a second.
fn request_later(t: &Trial, queue: WaitQueue) {
    drop(t.other.spawn(async move {
        sleep(secs(1) / 2).await;
        queue.request_release("requested later").await.unwrap();
    }));
}

/// Closes the sessions. When the last one is closed, nothing is left.
async fn finish([first, last]: [Session; 2]) {
    first.close().await.unwrap();
    close(&last).await;
}
