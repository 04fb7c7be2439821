//! Semaphores under every fault: three processes with two tasks each, and an operator that raises
//! the limit.

use std::time::Duration;

use coord_core::Session;
use coord_core::recipes::{Semaphore, SemaphoreError};
use coord_testkit::sim::{Process, Sim, Sweep};
use tokio::time::sleep;

use crate::sim::holders::Holders;
use crate::sim::{SEEDS, print};

/// The limit at first, and after the operator has raised it.
const LIMITS: [u32; 2] = [2, 3];

/// How often each task acquires permits.
const ROUNDS: u32 = 2;

type Permits = Holders<u32>;

/// Acquires permits, changes a key, and releases the permits, in each round.
async fn acquire_in_rounds(
    process: Process,
    session: Session,
    inside: Permits,
    task: u32,
) -> Result<(), SemaphoreError> {
    for round in 0..ROUNDS {
        let given = Semaphore::new(&session, "pool", LIMITS[0]).limit().await?;
        let semaphore = Semaphore::new(&session, "pool", given);
        let number = 1 + (task + round) % 2;
        let permits = match task {
            0 => semaphore.acquire(number).await?,
            _ => match semaphore.try_acquire(number).await? {
                Some(permits) => permits,
                None => semaphore.acquire(number).await?,
            },
        };
        let used = inside.enter(&permits, number);
        process.client().put("last", process.name().to_owned()).await?;
        drop(used);
        permits.release().await?;
    }
    Ok(())
}

/// Two tasks of one process, on one session.
async fn work(process: Process, inside: Permits) -> Result<(), SemaphoreError> {
    let session = Session::builder(process.client()).open().await?;
    let task = |task| {
        let run = acquire_in_rounds(process.clone(), session.clone(), inside.clone(), task);
        process.spawn(run)
    };
    let (first, second) = (task(0), task(1));
    first.await?;
    second.await?;
    Ok(session.close().await?)
}

/// Raises the limit. After a restart, it stores the same limit again.
async fn raise(process: Process) -> Result<(), SemaphoreError> {
    let session = Session::builder(process.client()).open().await?;
    sleep(Duration::from_millis(10)).await;
    Semaphore::new(&session, "pool", LIMITS[0]).set_limit(LIMITS[1]).await?;
    Ok(session.close().await?)
}

async fn pool(sim: Sim) {
    let inside: Permits = Holders::new(&sim, |entering, inside| {
        let taken = entering + inside.iter().sum::<u32>();
        (taken > LIMITS[1])
            .then(|| format!("{taken} permits are taken, the limit is {}", LIMITS[1]))
    });
    for name in ["a", "b", "c"] {
        let inside = inside.clone();
        sim.service(name, move |process| work(process, inside.clone()));
    }
    sim.service("operator", raise);
    sim.join().await;
    let left = sim.client().get_prefix("pool/permits/").await.unwrap();
    sim.sometimes("every task acquires in every round", inside.entered() >= 12);
    sim.sometimes("no key is left", left.is_empty());
}

#[test]
fn semaphore_keeps_its_limit_under_every_fault() {
    let name = "semaphore_keeps_its_limit_under_every_fault";
    print(name, &Sweep::new(name).seeds(SEEDS).check_store().run(pool));
}
