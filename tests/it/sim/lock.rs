//! Locks under every fault: three processes, with two tasks each.

use coord_core::error::PrimitiveError;
use coord_core::{Mutex, Session};
use coord_testkit::sim::{Exclusive, Process, Sim, Sweep};

use super::{SEEDS, contend, print};

/// How often each task acquires the lock.
const ROUNDS: usize = 2;

/// Acquires the lock, changes a key, and releases the lock, in each round.
async fn lock_in_rounds(
    process: Process,
    session: Session,
    inside: Exclusive,
) -> Result<(), PrimitiveError> {
    for _ in 0..ROUNDS {
        let guard = Mutex::new(&session, "printer").lock().await?;
        let alone = inside.enter(&process, &guard);
        process.client().put("last", process.name().to_owned()).await?;
        drop(alone);
        guard.unlock().await?;
    }
    Ok(())
}

/// Two tasks of one process, on one session.
async fn work(process: Process, inside: Exclusive) -> Result<(), PrimitiveError> {
    let session = Session::builder(process.client()).open().await?;
    let task = || process.spawn(lock_in_rounds(process.clone(), session.clone(), inside.clone()));
    let (first, second) = (task(), task());
    first.await?;
    second.await?;
    Ok(session.close().await?)
}

async fn lock(sim: Sim) {
    let inside = sim.exclusive("printer");
    contend(&sim, &inside, work).await;
    sim.sometimes("every task acquires in every round", inside.entered() >= 6 * ROUNDS as u64);
}

#[test]
fn lock_excludes_under_every_fault() {
    let name = "lock_excludes_under_every_fault";
    print(name, &Sweep::new(name).seeds(SEEDS).check_store().run(lock));
}
