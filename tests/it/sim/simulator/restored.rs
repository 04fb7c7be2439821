//! A store that is restored from a backup under every fault, while processes contend for a lock and
//! for a leadership, observe, and transact.
//!
//! Each round has a session of its own. A session that lives on has its released locks back, and
//! every contender waits until it ends: see `tests/it/mutex/restored_store.rs`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex};

use coord_core::error::PrimitiveError;
use coord_core::kv::{Put, Txn};
use coord_core::{Client, Election, Error, Mutex, Session, Stm};
use coord_testkit::sim::{Exclusive, Process, Sim, Sweep};
use tokio::time::sleep;

use super::super::print;
use crate::support::{keys, secs};

/// How many rounds each process takes after the restoration.
const ROUNDS: u64 = 3;

/// What the processes share beside the store.
struct Plan {
    is_restored: AtomicBool,
    /// Rounds that began after the restoration, of each process.
    rounds: StdMutex<BTreeMap<String, u64>>,
    /// The resource of locks of sessions that were opened after the restoration.
    printer: Exclusive,
    /// The role of leaders of sessions that were opened after the restoration.
    role: Exclusive,
    /// Increments that were confirmed, of transactions that began after the restoration.
    confirmed: AtomicU64,
}

impl Plan {
    fn is_restored(&self) -> bool {
        self.is_restored.load(Ordering::Relaxed)
    }

    /// Notes a round. Its session was opened after the restoration if `is_new`.
    fn note_round(&self, process: &Process, is_new: bool) {
        if is_new {
            *self.rounds.lock().unwrap().entry(process.name().to_owned()).or_default() += 1;
        }
    }

    fn is_done(&self, process: &Process) -> bool {
        self.rounds.lock().unwrap().get(process.name()).is_some_and(|rounds| *rounds >= ROUNDS)
    }
}

async fn open(process: &Process) -> Result<Session, PrimitiveError> {
    Ok(Session::builder(process.client()).ttl(secs(10)).open().await?)
}

/// Prints under the lock, until it has taken its rounds after the restoration.
async fn print_in_rounds(process: Process, plan: Arc<Plan>) -> Result<(), PrimitiveError> {
    while !plan.is_done(&process) {
        let is_new = plan.is_restored();
        let session = open(&process).await?;
        let guard = Mutex::new(&session, "printer").lock().await?;
        let alone = is_new.then(|| plan.printer.enter(&process, &guard));
        guard.txn(Txn::new().and_then([Put::new("printed-by", process.name().to_owned())])).await?;
        drop(alone);
        guard.unlock().await?;
        session.close().await?;
        plan.note_round(&process, is_new);
        sleep(secs(1)).await;
    }
    Ok(())
}

/// Leads, until it has taken its rounds after the restoration.
async fn lead_in_rounds(process: Process, plan: Arc<Plan>) -> Result<(), PrimitiveError> {
    while !plan.is_done(&process) {
        let is_new = plan.is_restored();
        let session = open(&process).await?;
        let value = if is_new { "new" } else { "old" };
        let leadership = Election::new(&session, "scheduler").campaign(value).await?;
        let alone = is_new.then(|| plan.role.enter(&process, &leadership));
        leadership.proclaim(value).await?;
        drop(alone);
        leadership.resign().await?;
        session.close().await?;
        plan.note_round(&process, is_new);
        sleep(secs(1)).await;
    }
    Ok(())
}

/// Observes, again after an error, until it has seen the leader of the scenario itself.
async fn observe(process: Process, has_seen: Arc<AtomicBool>) {
    loop {
        let mut leaders = Election::observer(process.client(), "scheduler").observe();
        while let Some(Ok(leader)) = leaders.next().await {
            if leader.is_some_and(|leader| leader.value() == "last") {
                has_seen.store(true, Ordering::Relaxed);
                return;
            }
        }
        sleep(secs(1)).await;
    }
}

/// Leads after all others, and waits until the observer has seen that.
async fn lead_last(sim: &Sim, observer: &Process, has_seen: Arc<AtomicBool>) {
    let session = Session::builder(sim.client()).open().await.unwrap();
    let leadership = Election::new(&session, "scheduler").campaign("last").await.unwrap();
    let has_ended = sim.exit(observer.name()).is_some();
    let seen = move || has_ended || has_seen.load(Ordering::Relaxed);
    sim.eventually("the observer proceeds", secs(120), seen).await;
    leadership.resign().await.unwrap();
    session.close().await.unwrap();
}

async fn count(client: &Client) -> u64 {
    let count = client.get("count").await.unwrap();
    count.map_or(0, |kv| std::str::from_utf8(&kv.value).unwrap().parse().unwrap())
}

/// Increments a counter, exactly once in each round.
async fn count_in_rounds(
    process: Process,
    plan: Arc<Plan>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    while !plan.is_done(&process) {
        let is_new = plan.is_restored();
        let session = Session::builder(process.client()).ttl(secs(10)).open().await?;
        let stm = Stm::new(process.client()).exactly_once(&session);
        stm.run(async |tx| {
            let count = tx.get_as::<String>("count").await?;
            let count = count.map_or(0, |count| count.parse::<u64>().unwrap());
            tx.put("count", (count + 1).to_string());
            Ok::<_, Error>(())
        })
        .await?;
        plan.confirmed.fetch_add(u64::from(is_new), Ordering::Relaxed);
        session.close().await?;
        plan.note_round(&process, is_new);
        sleep(secs(1)).await;
    }
    Ok(())
}

async fn restored(sim: Sim) {
    let plan = Arc::new(Plan {
        is_restored: AtomicBool::new(false),
        rounds: StdMutex::default(),
        printer: sim.exclusive("printer after the restoration"),
        role: sim.exclusive("leader after the restoration"),
        confirmed: AtomicU64::new(0),
    });
    for name in ["a", "b", "c"] {
        let plan = Arc::clone(&plan);
        sim.service(name, move |process| print_in_rounds(process, Arc::clone(&plan)));
    }
    for name in ["d", "e"] {
        let plan = Arc::clone(&plan);
        sim.service(name, move |process| lead_in_rounds(process, Arc::clone(&plan)));
    }
    for name in ["f", "g"] {
        let plan = Arc::clone(&plan);
        sim.service(name, move |process| count_in_rounds(process, Arc::clone(&plan)));
    }
    let (observer, has_seen) = (sim.process("observer"), Arc::new(AtomicBool::new(false)));
    let observing = observer.spawn(observe(observer.clone(), Arc::clone(&has_seen)));

    sleep(secs(if sim.buggify("late-backup") { 30 } else { 3 })).await;
    let backup = sim.backup();
    sleep(secs(if sim.buggify("late-restoration") { 40 } else { 4 })).await;
    sim.restore(&backup);
    plan.is_restored.store(true, Ordering::Relaxed);
    sim.join().await;
    sim.heal();
    lead_last(&sim, &observer, has_seen).await;
    drop(observing);
    sleep(secs(60)).await;
    for queue in ["printer/", "scheduler/"] {
        assert_eq!(keys(sim.client(), queue).await, Vec::<String>::new());
    }
    let (counted, confirmed) = (count(sim.client()).await, plan.confirmed.load(Ordering::Relaxed));
    assert!(counted >= confirmed, "{confirmed} increments since the restoration, count {counted}");
    sim.sometimes("every process prints after it", plan.printer.entered() >= 3 * ROUNDS);
    sim.sometimes("every candidate leads after it", plan.role.entered() >= 2 * ROUNDS);
}

#[test]
fn processes_proceed_after_the_store_is_restored() {
    let name = "processes_proceed_after_the_store_is_restored";
    print(name, &Sweep::new(name).seeds(200).run(restored));
}
