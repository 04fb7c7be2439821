//! Bounded proofs: every run of a small scenario with at most two deviations of nine faults.

use coord_core::error::PrimitiveError;
use coord_core::recipes::{Semaphore, SemaphoreError};
use coord_core::stm::Transaction;
use coord_core::{Election, Mutex, Session, Stm};
use coord_testkit::sim::{Fault, Sim, Sweep};

/// The faults of a proof. Each changes what is applied or delivered, or when.
const FAULTS: [Fault; 9] = [
    Fault::Reorder,
    Fault::LateDelivery,
    Fault::RequestLost,
    Fault::ResponseLost,
    Fault::Refused,
    Fault::WatchEnded,
    Fault::Pause,
    Fault::Crash,
    Fault::LeaderChange,
];

#[expect(clippy::print_stdout, reason = "the number of runs is the result of the proof")]
fn prove<F: Future<Output = ()> + Send + 'static>(name: &str, scenario: fn(Sim) -> F) {
    let exhausted = Sweep::new(name).faults(FAULTS).exhaust(2, scenario);
    println!("{name}: {exhausted}");
    assert!(exhausted.runs > 1_000, "{exhausted}");
}

async fn lock(sim: Sim) {
    let inside = sim.exclusive("printer");
    for name in ["a", "b"] {
        let inside = inside.clone();
        sim.spawn(name, |process| async move {
            let session = Session::builder(process.client()).open().await?;
            let guard = Mutex::new(&session, "printer").lock().await?;
            let alone = inside.enter(&process, &guard);
            drop((alone, guard));
            session.close().await?;
            Ok::<_, PrimitiveError>(())
        });
    }
    sim.join().await;
}

async fn election(sim: Sim) {
    let leads = sim.exclusive("scheduler");
    for name in ["a", "b"] {
        let leads = leads.clone();
        sim.spawn(name, |process| async move {
            let session = Session::builder(process.client()).open().await?;
            let leadership = Election::new(&session, "scheduler").campaign("me").await?;
            let alone = leads.enter(&process, &leadership);
            drop((alone, leadership));
            session.close().await?;
            Ok::<_, PrimitiveError>(())
        });
    }
    sim.join().await;
}

async fn semaphore(sim: Sim) {
    let inside = sim.exclusive("pool");
    for name in ["a", "b"] {
        let inside = inside.clone();
        sim.spawn(name, |process| async move {
            let session = Session::builder(process.client()).open().await?;
            let permits = Semaphore::new(&session, "pool", 2).acquire(2).await?;
            let alone = inside.enter(&process, &permits);
            drop((alone, permits));
            session.close().await?;
            Ok::<_, SemaphoreError>(())
        });
    }
    sim.join().await;
}

async fn transfer(sim: Sim) {
    for name in ["a", "b"] {
        sim.spawn(name, |process| async move {
            let stm = Stm::new(process.client());
            let moved = stm.run(async |tx: &mut Transaction| {
                let left: i64 = tx.get_as::<String>("x").await?.map_or(5, |n| n.parse().unwrap());
                let right: i64 = tx.get_as::<String>("y").await?.map_or(5, |n| n.parse().unwrap());
                tx.put("x", (left - 1).to_string());
                tx.put("y", (right + 1).to_string());
                Ok::<_, coord_core::Error>(())
            });
            moved.await.map(drop)
        });
    }
    sim.join().await;
    let value = async |key: &'static str| {
        let found = sim.client().get(key).await.unwrap();
        found.map_or(5, |kv| std::str::from_utf8(&kv.value).unwrap().parse::<i64>().unwrap())
    };
    assert_eq!(value("x").await + value("y").await, 10, "the sum");
}

#[test]
fn lock_is_proved_up_to_two_deviations() {
    prove("lock_is_proved_up_to_two_deviations", lock);
}

#[test]
fn election_is_proved_up_to_two_deviations() {
    prove("election_is_proved_up_to_two_deviations", election);
}

#[test]
fn semaphore_is_proved_up_to_two_deviations() {
    prove("semaphore_is_proved_up_to_two_deviations", semaphore);
}

#[test]
fn transfer_is_proved_up_to_two_deviations() {
    prove("transfer_is_proved_up_to_two_deviations", transfer);
}
