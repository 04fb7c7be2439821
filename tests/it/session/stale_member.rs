//! Orphaned and adopted leases beside a stale member, whose responses to keep-alives have an old
//! revision.

use std::future::pending;
use std::sync::Arc;

use async_trait::async_trait;
use coord_core::error::Outcome;
use coord_core::{
    Client, Election, Error, KvBackend, Mutex, Result, Session,
    kv::{Txn, TxnResponse},
    layer::Layer,
    recipes::{Barrier, DoubleBarrier, MultiLock, ResumedLock, RwLock, Semaphore},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, StaleMember};
use tokio::time::sleep;

use super::adopt;
use crate::support::{intercepted, newest_revision, nth, secs, session, session_on};
use crate::while_waiting::while_waiting;

/// A client of a member that stays at the current revision of `store`.
async fn stale_client(store: &Client, backend: impl KvBackend) -> Client {
    let member = StaleMember::new(backend);
    member.fall_behind(newest_revision(store).await);
    Client::new(member)
}

/// Regression: the adopter took the keys that are newer than the revision of the stale member for
/// its own, so `resume` found nothing, and the next acquisition waited for these keys as long as
/// the adopter lived.
#[tokio::test(start_paused = true)]
async fn adopter_beside_a_stale_member_resumes_all_keys() {
    let store = Client::new(MemBackend::new());
    let behind = stale_client(&store, store.clone()).await;
    let former = session(&store).await;
    let mutex = Mutex::new(&former, "mutex").lock().await.unwrap();
    let permits = Semaphore::new(&former, "semaphore", 2).acquire(2).await.unwrap();
    let writer = RwLock::new(&former, "rwlock").write().await.unwrap();
    let both = MultiLock::new(&former, ["a", "b"]).unwrap().lock().await.unwrap();
    let barrier = Barrier::new(&store, "barrier").hold(&former).await.unwrap().unwrap();
    let inside = DoubleBarrier::new(&former, "double", 1).unwrap().enter(1).await.unwrap();
    let leader = Election::new(&former, "election").campaign("former").await.unwrap();
    let lease = former.orphan().await.unwrap();

    let adopter = Session::builder(&behind).lease(lease).open().await.unwrap();
    let resumed = Mutex::new(&adopter, "mutex").resume().await.unwrap().expect("the mutex");
    assert_eq!(resumed.fencing_token(), mutex.fencing_token());
    let resumed = Semaphore::new(&adopter, "semaphore", 2).resume().await.unwrap();
    assert_eq!(resumed[0].key(), permits.key());
    let resumed = RwLock::new(&adopter, "rwlock").resume().await.unwrap();
    let Some(ResumedLock::Write(resumed)) = resumed else { panic!("the writer") };
    assert_eq!(resumed.fencing_token(), writer.fencing_token());
    let resumed = MultiLock::new(&adopter, ["a", "b"]).unwrap().resume().await.unwrap();
    assert_eq!(resumed.expect("both locks").fencing_token(), both.fencing_token());
    let resumed = Barrier::new(&behind, "barrier").resume(&adopter).await.unwrap();
    assert_eq!(resumed.expect("the barrier").held_condition(), barrier.held_condition());
    let resumed = DoubleBarrier::new(&adopter, "double", 1).unwrap().resume(1).await.unwrap();
    assert_eq!(resumed[0].key(), inside.key());
    let resumed = Election::new(&adopter, "election").resume().await.unwrap();
    assert_eq!(resumed.expect("the leader").fencing_token(), leader.fencing_token());
}

fn unavailable() -> Error {
    Error::Unavailable { outcome: Outcome::NotApplied, reason: "down".to_owned(), source: None }
}

/// A store that applies enqueues and never responds to them.
#[derive(Debug)]
struct SilentEnqueues(Arc<dyn KvBackend>);

#[async_trait]
impl Layer for SilentEnqueues {
    type Inner = dyn KvBackend;

    fn inner(&self) -> &dyn KvBackend {
        &*self.0
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        let is_enqueue = txn.success.len() == 2;
        let response = self.0.txn(txn).await;
        if is_enqueue { pending().await } else { response }
    }
}

/// Regression: the cleanup of the former owner deleted a key that existed when the session was
/// orphaned, because the key was newer than the revision of the stale member, or because the
/// keep-alive had failed.
#[tokio::test(start_paused = true)]
async fn orphan_beside_a_stale_member_leaves_applied_enqueues() {
    let failing = |request: &'static str| {
        // The first transaction is the enqueue, the second the read of the revision.
        let number = if request == "txn" { 2 } else { 1 };
        nth(request, number, number, Action::Fail(unavailable()))
    };
    for request in ["none", "txn", "lease_keep_alive"] {
        let store = Client::new(MemBackend::new());
        let behind = stale_client(&store, SilentEnqueues(Arc::clone(store.backend()))).await;
        let former = session_on(intercepted(&behind, failing(request))).await;
        let mutex = Mutex::new(&former, "m");
        let (locked, _) = while_waiting(mutex.lock(), former.orphan()).await;
        assert!(locked.unwrap_err().loss().is_some());
        let adopter = adopt(&store, former.lease_id()).await;
        let resumed = Mutex::new(&adopter, "m").resume().await.unwrap().expect("it was enqueued");
        sleep(secs(600)).await;
        resumed.txn(Txn::new()).await.expect("the former owner must not delete the key");
    }
}

/// Old versions of etcd refuse every transaction when they are out of space, and no keep-alive.
#[tokio::test(start_paused = true)]
async fn lease_is_adopted_from_a_store_without_space() {
    let store = Client::new(MemBackend::new());
    let former = session(&store).await;
    let held = Mutex::new(&former, "m").lock().await.unwrap();
    let lease = former.orphan().await.unwrap();
    let full = Action::Fail(Error::NoSpace { outcome: Outcome::NotApplied });
    let client = intercepted(&store, nth("txn", 1, 1, full));
    let adopter = Session::builder(&client).lease(lease).open().await.unwrap();
    let resumed = Mutex::new(&adopter, "m").resume().await.unwrap().expect("the lock");
    assert_eq!(resumed.fencing_token(), held.fencing_token());
}

#[tokio::test(start_paused = true)]
async fn orphaning_and_adopting_cost_two_requests_each() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let client = intercepted(&store, recorder.clone());
    let former = session_on(&client).await;
    recorder.take();
    let lease = former.orphan().await.unwrap();
    assert_eq!(recorder.take().names(), "txn lease_keep_alive");
    let before = newest_revision(&store).await;
    let _adopter = Session::builder(&client).lease(lease).open().await.unwrap();
    let adopted = recorder.take();
    assert_eq!(adopted.names(), "lease_keep_alive txn");
    assert!(matches!(adopted.0.last(), Some(Call::Txn(txn)) if !txn.is_read_only()));
    assert_eq!(newest_revision(&store).await, before, "nothing is changed");
}
