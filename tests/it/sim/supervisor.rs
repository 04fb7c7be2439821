//! Supervisors under every fault: work that continues after a loss, on the next session.

use coord_core::error::PrimitiveError;
use coord_core::kv::{Put, Txn};
use coord_core::{Mutex, Session};
use coord_testkit::sim::{Exclusive, Process, Sim, Sweep};

use super::{SEEDS, contend, print};

/// Works under the lock, on as many sessions as it takes.
async fn work(process: Process, inside: Exclusive) -> Result<(), PrimitiveError> {
    let supervisor = Session::builder(process.client()).supervise().await?;
    for round in 0..2 {
        let worked = supervisor.run_while_held(
            async |session: Session| Mutex::new(&session, "printer").lock().await,
            |guard| {
                let (process, inside) = (process.clone(), inside.clone());
                async move {
                    let alone = inside.enter(&process, &*guard);
                    let value = format!("{} {round}", process.name());
                    guard.txn(Txn::new().and_then([Put::new("last", value)])).await?;
                    drop(alone);
                    Ok::<_, PrimitiveError>(())
                }
            },
        );
        worked.await?;
    }
    Ok(supervisor.close().await?)
}

async fn supervise(sim: Sim) {
    let inside = sim.exclusive("printer");
    contend(&sim, &inside, work).await;
    sim.sometimes("every process works twice", inside.entered() >= 6);
}

#[test]
fn supervised_work_excludes_under_every_fault() {
    let name = "supervised_work_excludes_under_every_fault";
    print(name, &Sweep::new(name).seeds(SEEDS).check_store().run(supervise));
}
