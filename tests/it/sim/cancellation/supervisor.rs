//! Supervisors, which continue when a call of one of their functions is dropped.

use coord_core::error::{LossReason, PrimitiveError};
use coord_core::mutex::MutexGuard;
use coord_core::session::Supervisor;
use coord_core::{Mutex, Session};
use coord_testkit::sim::ProcessTask;
use tokio::time::sleep;

use super::trial::{TTL, Trial, assert_nothing_left};
use super::{Case, drop_all};
use crate::support::secs;

#[test]
fn dropped_supervisor_calls_leave_it_working() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(&["SessionBuilder::supervise"], "then dropped", supervise),
        Case::new(&["Supervisor::ready"], "the lease was revoked", ready),
        Case::new(&["Supervisor::run"], "the lease is revoked during the work", run),
        Case::new(
            &["Supervisor::run_while_held"],
            "the lease is revoked during the work",
            run_while_held,
        ),
        Case::new(&["Supervisor::close"], "while its session holds a lock", close),
    ]
}

async fn supervisor(t: &Trial) -> Supervisor {
    Session::builder(t.client()).ttl(TTL).supervise().await.unwrap()
}

async fn lock(session: Session) -> Result<MutexGuard, PrimitiveError> {
    Mutex::new(&session, "m").lock().await
}

/// Acquires the lock and works for a second.
async fn work(session: Session) -> Result<(), PrimitiveError> {
    let guard = lock(session).await?;
    guard.run_while_held(sleep(secs(1))).await?;
    guard.unlock().await?;
    Ok(())
}

/// Another process revokes the supervisor's first lease after half a second.
fn revoke_later(t: &Trial, supervisor: &Supervisor) -> ProcessTask<()> {
    let (other, lease) = (t.other.client().clone(), supervisor.session().lease_id());
    t.other.spawn(async move {
        sleep(secs(1) / 2).await;
        other.lease_revoke(lease).await.unwrap();
    })
}

/// Checks that the supervisor still opens sessions, closes it, and checks that nothing is left.
async fn still_works(t: &Trial, supervisor: &Supervisor) {
    t.queue_is_free("m").await;
    supervisor.run(work).await.unwrap();
    supervisor.close().await.unwrap();
    assert_nothing_left(t.client()).await;
}

async fn supervise(t: Trial) {
    drop(t.drop_at_await(Session::builder(t.client()).ttl(TTL).supervise()).await);
    t.queue_is_free("m").await;
}

async fn ready(t: Trial) {
    let supervisor = supervisor(&t).await;
    let revoked = revoke_later(&t, &supervisor);
    supervisor.session().lost().await;
    revoked.await;
    t.drop_at_await(supervisor.ready()).await.transpose().unwrap();
    t.continues(supervisor.ready()).await.unwrap();
    still_works(&t, &supervisor).await;
}

async fn run(t: Trial) {
    let supervisor = supervisor(&t).await;
    let revoked = revoke_later(&t, &supervisor);
    t.drop_at_await(supervisor.run(work)).await.transpose().unwrap();
    revoked.await;
    still_works(&t, &supervisor).await;
}

async fn run_while_held(t: Trial) {
    let supervisor = supervisor(&t).await;
    let revoked = revoke_later(&t, &supervisor);
    let work = |_guard| async {
        sleep(secs(1)).await;
        Ok::<_, PrimitiveError>(())
    };
    t.drop_at_await(supervisor.run_while_held(lock, work)).await.transpose().unwrap();
    revoked.await;
    still_works(&t, &supervisor).await;
}

async fn close(t: Trial) {
    let supervisor = supervisor(&t).await;
    let _guard = lock(supervisor.session()).await.unwrap();
    t.drop_at_await(supervisor.close()).await.transpose().unwrap();
    t.queue_is_free("m").await;
    assert_eq!(t.proceeds(supervisor.ready()).await.unwrap_err().loss(), Some(LossReason::Closed));
    t.proceeds(supervisor.close()).await.unwrap();
}
