//! Cancellation cases of sessions: opening, closing and orphaning a session.

use coord_core::error::{LossReason, PrimitiveError};
use coord_core::queue::WaitQueue;
use coord_core::session::SessionState;
use coord_core::{Mutex, Session};
use tokio::time::sleep;

use super::trial::{FOLLOW_UP, TTL, Trial, close, session_of};
use super::{Case, drop_all};
use crate::support::secs;

#[test]
fn dropped_session_calls_leave_no_lease() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(&["SessionBuilder::open"], "with a new lease", open),
        Case::new(&["SessionBuilder::open"], "on an adopted lease", open_adopted),
        Case::new(&["SessionBuilder::run"], "the work holds a lock for a second", run),
        Case::new(&["Session::lost"], "the lease is revoked", lost),
        Case::new(&["Session::close"], "while it holds a lock", close_holder),
        Case::new(&["Session::orphan"], "while it holds a lock, then adopted", orphan),
    ]
}

/// A lease that was granted to a dropped call expires by itself.
async fn open(t: Trial) {
    let opened = t.drop_at_await(Session::builder(t.client()).ttl(TTL).open()).await;
    t.other_locks("m").await;
    if let Some(session) = opened {
        session.unwrap().close().await.unwrap();
    }
    t.queue_is_free("m").await;
}

/// After a dropped call, another process can adopt the lease.
async fn open_adopted(t: Trial) {
    let former = session_of(&t.holder).await;
    let held = Mutex::new(&former, "m").lock().await.unwrap();
    let lease = former.orphan().await.unwrap();
    drop(t.drop_at_await(Session::builder(t.client()).lease(lease).open()).await);
    if t.is_dropped() {
        let adopted = t.proceeds(Session::builder(t.other.client()).lease(lease).open()).await;
        let adopter = adopted.unwrap();
        let resumed = WaitQueue::new(&adopter, "m").resume().await.unwrap().unwrap();
        assert_eq!(resumed.fencing_token(), held.fencing_token());
        close(&adopter).await;
    }
    // If the call has completed, its session was dropped, which revokes the lease.
    t.queue_is_free("m").await;
}

async fn run(t: Trial) {
    let builder = Session::builder(t.client()).ttl(TTL);
    let ran = builder.run(async move |session: Session| {
        let guard = Mutex::new(&session, "m").lock().await?;
        let written = session.client().put("data/n", "1");
        guard.run_while_held(written).await??;
        sleep(secs(1)).await;
        Ok::<_, PrimitiveError>(())
    });
    t.drop_at_await(ran).await.transpose().unwrap();
    t.queue_is_free("m").await;
}

async fn lost(t: Trial) {
    let session = t.session().await;
    let (other, lease) = (t.other.client().clone(), session.lease_id());
    let revoked = t.other.spawn(async move {
        sleep(secs(1)).await;
        other.lease_revoke(lease).await.unwrap();
    });
    t.drop_at_await(session.lost()).await;
    revoked.await;
    // The next keep-alive finds that the lease does not exist any more.
    sleep(TTL - FOLLOW_UP).await;
    let reason = t.proceeds(session.lost()).await;
    assert_eq!(reason, LossReason::Revoked);
    t.queue_is_free("m").await;
}

async fn close_holder(t: Trial) {
    let session = t.session().await;
    let _guard = Mutex::new(&session, "m").lock().await.unwrap();
    t.drop_at_await(session.close()).await.transpose().unwrap();
    t.queue_is_free("m").await;
    assert_eq!(session.state(), SessionState::Lost(LossReason::Closed));
    t.proceeds(session.close()).await.unwrap();
}

/// The lease is orphaned all the same, and its adopter holds the lock.
async fn orphan(t: Trial) {
    let session = t.session().await;
    let guard = Mutex::new(&session, "m").lock().await.unwrap();
    t.drop_at_await(session.orphan()).await.transpose().unwrap();
    assert_eq!(t.proceeds(session.lost()).await, LossReason::Orphaned);
    let adopted = t.proceeds(Session::builder(t.other.client()).lease(session.lease_id()).open());
    let adopter = adopted.await.unwrap();
    t.messages_arrive().await;
    let resumed = WaitQueue::new(&adopter, "m").resume().await.unwrap().unwrap();
    assert_eq!(resumed.fencing_token(), guard.fencing_token());
    close(&adopter).await;
    drop(guard);
    t.queue_is_free("m").await;
}
