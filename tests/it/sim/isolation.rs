//! Recorded transactions under every fault: the isolation checker finds that each kept the level
//! that it was run with, and that a store without compares does not keep it.

use coord_core::kv::KeyRange;
use coord_core::stm::{Isolation, StmError, Transaction};
use coord_core::{Client, Error, Stm};
use coord_testkit::history::{HistoryRecorder, ProcessRecorder};
use coord_testkit::isolation::{self, Status, Verdict};
use coord_testkit::sim::{Process, Sim, Sweep, Weaken};

use super::print;

const KEYS: [&str; 3] = ["p/x", "p/y", "p/z"];

/// Reads and writes some keys, which the generator of the thread chooses.
async fn access(tx: &mut Transaction, value: u32) -> Result<(), Error> {
    for _ in 0..fastrand::u8(1..4) {
        let key = KEYS[fastrand::usize(..KEYS.len())];
        match fastrand::u8(..6) {
            0..3 => drop(tx.get(key).await?),
            3 => tx.put(key, value.to_string()),
            4 => tx.delete(key),
            _ => drop(tx.range(KeyRange::prefix("p/")).await?),
        }
    }
    Ok(())
}

/// Runs some transactions, until an error ends the process.
async fn transact(
    process: Process,
    recorder: ProcessRecorder,
    level: Isolation,
) -> Result<(), String> {
    let client = process.client().clone().record_transactions(recorder);
    let stm = Stm::new(&client).isolation(level);
    for _ in 0..4 {
        let value = fastrand::u32(..);
        match stm.run(async move |tx| access(tx, value).await).await {
            Ok(_) | Err(StmError::RetriesExhausted { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

/// The verdict about the transactions of three processes with two tasks each. `programs` is the
/// seed of what they read and write.
async fn verdict(sim: &Sim, level: Isolation, programs: u64) -> Result<Verdict, Error> {
    // A run starts with the same seed each time.
    fastrand::seed(programs);
    let store: &Client = sim.client();
    store.put("p/x", "0").await?;
    let recorder = HistoryRecorder::new();
    let mut changes = recorder.watch_changes(store).await?;
    for name in ["a", "b", "c"] {
        let recorder = recorder.process(name);
        sim.spawn(name, move |process| async move {
            let other = process.spawn(transact(process.clone(), recorder.clone(), level));
            transact(process.clone(), recorder, level).await?;
            other.await
        });
    }
    sim.join().await;
    changes.catch_up().await?;
    Ok(isolation::check(&recorder.take()))
}

async fn check(sim: Sim, level: Isolation, programs: u64) -> Result<(), Error> {
    let verdict = verdict(&sim, level, programs).await?;
    if verdict.declared().is_refuted() {
        sim.fail("isolation", &verdict);
    }
    sim.sometimes("transactions were checked", verdict.declared() == Status::Holds);
    sim.sometimes("an unknown commit was applied", verdict.coverage().matched_unknown > 0);
    Ok(())
}

#[test]
fn transactions_keep_their_level_under_every_fault() {
    for level in Isolation::ALL {
        for programs in 0..10 {
            let name = format!("{level:?}-{programs}");
            let sweep = Sweep::new(&name).seeds(50).without_canary().without_coverage();
            print(&name, &sweep.run(|sim| check(sim, level, programs)));
        }
    }
}

#[test]
fn transactions_on_a_store_without_compares_are_refuted() {
    let sweep = Sweep::new("transactions_on_a_store_without_compares_are_refuted").seeds(500);
    let sweep = sweep.without_canary().weaken(Weaken::TxnIgnoresCompare);
    let report = sweep.check(|sim| check(sim, Isolation::Serializable, 0));
    let report = report.expect_err("the checker refutes the level");
    assert_eq!(report.failure.oracle, "isolation", "{report}");
}

/// `ReadCommitted` permits lost updates, and they occur.
#[test]
fn read_committed_transactions_are_not_serializable() {
    let sweep = Sweep::new("read_committed_transactions_are_not_serializable").seeds(200);
    let report = sweep.without_canary().check(|sim| async move {
        let verdict = verdict(&sim, Isolation::ReadCommitted, 0).await?;
        if verdict.status(isolation::Level::Serializable).is_refuted() {
            sim.fail("not serializable", &verdict);
        }
        Ok::<_, Error>(())
    });
    let report = report.expect_err("a run is not serializable");
    assert_eq!(report.failure.oracle, "not serializable", "{report}");
    assert!(
        report.failure.text.contains("still holds: read uncommitted, read committed"),
        "{report}"
    );
}
