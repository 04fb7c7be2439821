//! Faults that the simulator has found: each by the shortest list of deviations that shows it.

use coord_core::error::{LossReason, PrimitiveError};
use coord_core::recipes::RwLock;
use coord_core::{Mutex, Session};
use coord_testkit::sim::{Sim, Sweep};

/// A lock was returned although the session's deadline had passed: the process was paused while the
/// response was pending, and its session task had not been polled yet.
#[test]
fn acquisition_fails_when_a_pause_outlasted_the_session() {
    async fn acquire(sim: Sim) {
        sim.spawn("a", |process| async move {
            let session = Session::builder(process.client()).open().await?;
            let acquired = Mutex::new(&session, "printer").lock().await;
            let expected = PrimitiveError::Lost(LossReason::Expired);
            assert_eq!(acquired.map(drop).unwrap_err().to_string(), expected.to_string());
            Ok::<_, PrimitiveError>(())
        });
        sim.join().await;
    }
    let sweep = Sweep::new("acquisition_fails_when_a_pause_outlasted_the_session");
    // The process is paused for 100 s when it receives the response to its second request.
    sweep.replay("a.process#4=2/9", acquire);
}

/// The same fault in the downgrade of a read-write lock: the reader was inside beside a later
/// writer.
#[test]
fn downgrade_fails_when_a_pause_outlasted_the_session() {
    async fn downgrade(sim: Sim) {
        sim.spawn("a", |process| async move {
            let session = Session::builder(process.client()).open().await?;
            let writer = RwLock::new(&session, "catalog").write().await.unwrap();
            let downgraded = writer.downgrade().await;
            assert_eq!(downgraded.unwrap_err().loss(), Some(LossReason::Expired));
            Ok::<_, PrimitiveError>(())
        });
        sim.join().await;
    }
    let sweep = Sweep::new("downgrade_fails_when_a_pause_outlasted_the_session");
    // The process is paused for 100 s when it receives the response to its third request.
    sweep.replay("a.process#6=2/9", downgrade);
}
