//! Multi-locks under every fault: three processes with overlapping names in different orders, and a
//! task with a mutex in each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coord_core::error::PrimitiveError;
use coord_core::kv::FencingToken;
use coord_core::queue::WaitQueue;
use coord_core::recipes::MultiLock;
use coord_core::session::SessionState;
use coord_core::{Mutex, Session};
use coord_testkit::sim::{Exclusive, Process, Sim, Sweep};
use tokio::time::{Instant, sleep};

use crate::sim::mutants::{Family, TaskResult, assert_caught, family};
use crate::sim::{SEEDS, print};

/// The names that each process locks together, in its order.
const NAMES: [(&str, [&str; 2]); 3] = [("a", ["x", "y"]), ("b", ["y", "z"]), ("c", ["z", "x"])];

/// An oracle of mutual exclusion for each name.
type Names = Arc<BTreeMap<&'static str, Exclusive>>;

fn oracles(sim: &Sim) -> Names {
    Arc::new(["x", "y", "z"].into_iter().map(|name| (name, sim.exclusive(name))).collect())
}

/// Whether the session may still act, by its own state.
fn may_act(session: &Session) -> bool {
    !matches!(session.state(), SessionState::Lost(_)) && session.deadline() > Instant::now()
}

async fn lock_both(
    process: Process,
    session: Session,
    (oracles, names): (Names, [&'static str; 2]),
) -> Result<(), PrimitiveError> {
    let both = MultiLock::new(&session, names).expect("the names are valid");
    for _ in 0..2 {
        let guard = both.lock().await?;
        let alone = names.map(|name| {
            let held = session.clone();
            oracles[name].enter_while(&process, guard.fencing_token(), move || may_act(&held))
        });
        process.client().put("last", process.name().to_owned()).await?;
        drop(alone);
        guard.unlock().await?;
    }
    Ok(())
}

async fn lock_one(
    process: Process,
    session: Session,
    (oracles, name): (Names, &'static str),
) -> Result<(), PrimitiveError> {
    let guard = Mutex::new(&session, name).lock().await?;
    let alone = oracles[name].enter(&process, &guard);
    process.client().put("last", process.name().to_owned()).await?;
    drop(alone);
    Ok(guard.unlock().await?)
}

async fn lock_names(sim: Sim) {
    let oracles = oracles(&sim);
    for (process, names) in NAMES {
        let oracles = Arc::clone(&oracles);
        sim.service(process, move |process| {
            let oracles = Arc::clone(&oracles);
            async move {
                let session = Session::builder(process.client()).open().await?;
                let both =
                    lock_both(process.clone(), session.clone(), (Arc::clone(&oracles), names));
                let one = lock_one(process.clone(), session.clone(), (oracles, names[0]));
                let (both, one) = (process.spawn(both), process.spawn(one));
                both.await?;
                one.await?;
                Ok::<_, PrimitiveError>(session.close().await?)
            }
        });
    }
    sim.join().await;
    let entered: u64 = oracles.values().map(Exclusive::entered).sum();
    sim.sometimes("every task acquires in every round", entered >= 3 * (2 * 2 + 1));
}

#[test]
fn multi_lock_excludes_by_name_under_every_fault() {
    let name = "multi_lock_excludes_by_name_under_every_fault";
    print(name, &Sweep::new(name).seeds(SEEDS).check_store().run(lock_names));
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    OneNameAfterTheOther,
    EnqueuesSeparately,
    WaitsForFirstNameOnly,
    ActsAfterUnlock,
}

fn multi_locks() -> Family {
    family("multi-lock", contend)
        .mutant("the names are locked one after the other", Flaw::OneNameAfterTheOther)
        .mutant("each name is enqueued in a transaction of its own", Flaw::EnqueuesSeparately)
        .mutant("only the first name is waited for", Flaw::WaitsForFirstNameOnly)
        .mutant("the holder acts after the unlock was sent", Flaw::ActsAfterUnlock)
        .done()
}

/// Notes that both names are used, for a second.
async fn use_both(
    process: &Process,
    session: &Session,
    (oracles, names): (&Names, [&'static str; 2]),
    tokens: [FencingToken; 2],
) {
    let alone = [0, 1].map(|n| {
        let held = session.clone();
        oracles[names[n]].enter_while(process, tokens[n], move || may_act(&held))
    });
    sleep(Duration::from_secs(1)).await;
    drop(alone);
}

async fn work(
    process: &Process,
    session: &Session,
    (oracles, names): (&Names, [&'static str; 2]),
    flaw: Option<Flaw>,
) -> TaskResult {
    match flaw {
        None => {
            let guard = MultiLock::new(session, names)?.lock().await?;
            let token = guard.fencing_token();
            use_both(process, session, (oracles, names), [token; 2]).await;
            guard.unlock().await?;
        }
        Some(Flaw::ActsAfterUnlock) => {
            let guard = MultiLock::new(session, names)?.lock().await?;
            let token = guard.fencing_token();
            let using = use_both(process, session, (oracles, names), [token; 2]);
            let (unlocked, ()) = tokio::join!(guard.unlock(), using);
            unlocked?;
        }
        Some(Flaw::OneNameAfterTheOther) => {
            let first = Mutex::new(session, names[0]).lock().await?;
            let second = Mutex::new(session, names[1]).lock().await?;
            let tokens = [first.fencing_token(), second.fencing_token()];
            use_both(process, session, (oracles, names), tokens).await;
            first.unlock().await?;
            second.unlock().await?;
        }
        Some(Flaw::EnqueuesSeparately | Flaw::WaitsForFirstNameOnly) => {
            let mut first = WaitQueue::new(session, names[0]).enqueue("").await?;
            let mut second = WaitQueue::new(session, names[1]).enqueue("").await?;
            first.acquired().await?;
            if flaw != Some(Flaw::WaitsForFirstNameOnly) {
                second.acquired().await?;
            }
            let tokens = [first.fencing_token(), second.fencing_token()];
            use_both(process, session, (oracles, names), tokens).await;
            first.release().await?;
            second.release().await?;
        }
    }
    Ok(())
}

/// Processes that lock two of three names twice each, so that every two of them share a name.
async fn contend(sim: Sim, flaw: Option<Flaw>) {
    let oracles = oracles(&sim);
    for (name, names) in NAMES {
        let oracles = Arc::clone(&oracles);
        sim.spawn(name, |process| async move {
            let session = Session::builder(process.client()).open().await?;
            for _ in 0..2 {
                work(&process, &session, (&oracles, names), flaw).await?;
            }
            session.close().await?;
            TaskResult::Ok(())
        });
    }
    sim.join().await;
}

#[test]
fn multi_lock_mutants_are_caught() {
    assert_caught(&multi_locks());
}
