//! Elections under every fault: three candidates, and an observer in a process of its own.

use std::sync::{Arc, Mutex};

use coord_core::error::PrimitiveError;
use coord_core::kv::{FencingToken, Put, Txn};
use coord_core::{Election, Session};
use coord_testkit::sim::{Exclusive, Process, Sim, Sweep};

use super::{SEEDS, contend, print};

/// Campaigns, leads, proclaims, and resigns, twice.
async fn stand(process: Process, leads: Exclusive) -> Result<(), PrimitiveError> {
    let session = Session::builder(process.client()).open().await?;
    let election = Election::new(&session, "scheduler");
    for term in 0..2 {
        let leadership = election.campaign(format!("{} {term}", process.name())).await?;
        let alone = leads.enter(&process, &leadership);
        leadership.proclaim(format!("{} ready", process.name())).await?;
        leadership.txn(Txn::new().and_then([Put::new("plan", process.name().to_owned())])).await?;
        drop(alone);
        leadership.resign().await?;
    }
    Ok(session.close().await?)
}

/// Observes leaders, and checks that their tokens never decrease.
async fn observe(
    process: Process,
    seen: Arc<Mutex<Vec<FencingToken>>>,
) -> Result<(), PrimitiveError> {
    let mut leaders = Election::observer(process.client(), "scheduler").observe();
    while let Some(leader) = leaders.next().await {
        let Some(leader) = leader? else { continue };
        let mut seen = seen.lock().unwrap();
        let last = seen.last().copied();
        assert!(last <= Some(leader.fencing_token()), "{last:?}, then {leader:?}");
        seen.push(leader.fencing_token());
    }
    Ok(())
}

async fn elect(sim: Sim) {
    let (leads, seen) = (sim.exclusive("scheduler"), Arc::default());
    let observer = sim.process("observer");
    let observing = observer.spawn(observe(observer.clone(), Arc::clone(&seen)));
    contend(&sim, &leads, stand).await;
    drop(observing);
    sim.sometimes("every candidate leads twice", leads.entered() >= 6);
    sim.sometimes("the observer yields three values", seen.lock().unwrap().len() >= 3);
}

#[test]
fn election_has_one_leader_under_every_fault() {
    let name = "election_has_one_leader_under_every_fault";
    print(name, &Sweep::new(name).seeds(SEEDS).check_store().run(elect));
}
