//! coord's own primitives on weakened stores.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use coord_core::{Mutex, Session, Stm};
use coord_testkit::sim::{Sim, Weaken};
use tokio::time::sleep;

use super::{Family, TaskResult, family, spawn_contenders};

/// What is wrong with coord: nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {}

pub(super) fn locks() -> Family {
    family("coord's lock", lock)
        .weakened(Weaken::LeaseEndsEarly)
        .weakened(Weaken::ChangeAppliedTwice)
        .done()
}

pub(super) fn transactions() -> Family {
    family("coord's transactions", transact).weakened(Weaken::TxnIgnoresCompare).done()
}

/// Processes that acquire coord's lock twice each.
async fn lock(sim: Sim, _: Option<Flaw>) {
    spawn_contenders(&sim, |process, inside| async move {
        let session = Session::builder(process.client()).ttl(Duration::from_secs(6)).open().await?;
        for _ in 0..2 {
            let guard = Mutex::new(&session, "lock").lock().await?;
            let alone = inside.enter(&process, &guard);
            sleep(Duration::from_secs(1)).await;
            drop(alone);
            guard.unlock().await?;
        }
        session.close().await?;
        TaskResult::Ok(())
    });
    sim.join().await;
}

/// Processes that increment a counter with coord's transactions.
async fn transact(sim: Sim, _: Option<Flaw>) {
    let applied = Arc::new(AtomicI64::new(0));
    for (name, starts) in [("a", 0), ("b", 5), ("c", 10)] {
        let applied = Arc::clone(&applied);
        sim.spawn(name, move |process| async move {
            sleep(Duration::from_millis(starts)).await;
            let stm = Stm::new(process.client());
            for _ in 0..2 {
                stm.run(async |tx| {
                    let count = tx.get_as::<String>("count").await?;
                    let count: i64 = count.map_or(0, |count| count.parse().unwrap());
                    tx.put("count", (count + 1).to_string());
                    Ok::<_, coord_core::Error>(())
                })
                .await?;
                applied.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(20)).await;
            }
            TaskResult::Ok(())
        });
    }
    sim.join().await;
    let found = sim.client().get("count").await.unwrap();
    let found: i64 = found.map_or(0, |kv| String::from_utf8_lossy(&kv.value).parse().unwrap());
    let applied = applied.load(Ordering::Relaxed);
    if found < applied {
        sim.fail("counter", format!("{applied} increments, but the counter is {found}"));
    }
}
