//! Shard assignments under every fault: five members that crash, start again and are partitioned.
//! Each shard has one owner at a time, and soon after the faults each has one again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coord_core::kv::{Put, Txn, Watch};
use coord_core::recipes::shard_assignment::assign;
use coord_core::recipes::{Shard, ShardAssignment};
use coord_core::session::SessionState;
use coord_core::{Session, sync};
use coord_testkit::sim::{Exit, Process, Sim, Sweep, Weaken};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::sim::holders::{Holders, Inside};
use crate::sim::mutants::{Family, TaskResult, assert_caught, family};
use crate::sim::{SEEDS, print};
use crate::support::secs;

const TTL: Duration = secs(5);

const MEMBERS: [&str; 5] = ["a", "b", "c", "d", "e"];

const SHARDS: [&str; 6] = ["0", "1", "2", "3", "4", "5"];

/// How long there are faults.
const FAULT_TIME: Duration = secs(20);

/// How long after the faults each shard has an owner: a TTL, in which the leases of members that
/// have vanished end, and the longest timeout of a request with its pauses.
const OWNED_AFTER: Duration = secs(5 + 15);

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    AssignmentIsOwnership,
    ReleasedBeforeDrained,
    LossUnnoticed,
    MemberHasNoLease,
}

fn assignments() -> Family {
    family("shard assignment", spread)
        .mutant("a member owns what it should own by its view", Flaw::AssignmentIsOwnership)
        .mutant("a shard is released before its work has ended", Flaw::ReleasedBeforeDrained)
        .mutant("the work on a shard continues after its loss", Flaw::LossUnnoticed)
        .mutant("the key of a member has no lease", Flaw::MemberHasNoLease)
        .weakened(Weaken::LeaseEndsEarly)
        .done()
}

/// The owners, as they report it themselves.
#[derive(Clone)]
struct Owners {
    shards: Arc<Vec<Holders<()>>>,
    /// How many tasks work on each shard.
    working: Arc<std::sync::Mutex<BTreeMap<usize, u32>>>,
    /// Has no permits. It is closed when the members should leave.
    stopped: Arc<Semaphore>,
}

/// The work on a shard.
struct Working {
    owners: Owners,
    shard: usize,
    _inside: Inside<()>,
}

impl Owners {
    fn new(sim: &Sim) -> Self {
        let holders = || {
            Holders::new(sim, |(), inside| {
                (!inside.is_empty()).then(|| "the shard has another owner".to_owned())
            })
        };
        let shards = Arc::new(SHARDS.iter().map(|_| holders()).collect());
        Self { shards, working: Arc::default(), stopped: Arc::new(Semaphore::new(0)) }
    }

    fn enter(&self, shard: usize, enter: impl FnOnce(&Holders<()>) -> Inside<()>) -> Working {
        let inside = enter(&self.shards[shard]);
        *sync::lock(&self.working).entry(shard).or_default() += 1;
        Working { owners: self.clone(), shard, _inside: inside }
    }

    /// Whether each shard has an owner.
    fn are_all_owned(&self) -> bool {
        sync::lock(&self.working).values().filter(|tasks| **tasks > 0).count() == SHARDS.len()
    }

    /// How often a shard was acquired.
    fn entered(&self) -> u64 {
        self.shards.iter().map(Holders::entered).sum()
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(tasks) = sync::lock(&self.owners.working).get_mut(&self.shard) {
            *tasks -= 1;
        }
    }
}

/// Begins to work on a shard.
fn enter(process: &Process, shard: &Shard, owners: &Owners, flaw: Option<Flaw>) -> Working {
    let index = SHARDS.iter().position(|name| name == shard.name()).expect("a shard of the list");
    match flaw {
        Some(Flaw::LossUnnoticed) => {
            owners.enter(index, |holders| holders.enter_while(process.name(), (), || true))
        }
        _ => owners.enter(index, |holders| holders.enter(shard, ())),
    }
}

/// Works on a shard until it is revoked, with fenced writes, and hands it over.
async fn work(shard: Shard, working: Working, flaw: Option<Flaw>) -> TaskResult {
    let key = format!("data/{}", SHARDS[working.shard]);
    loop {
        let put = Put::new(key.clone(), shard.fencing_token().to_string());
        // An unknown outcome is no reason to stop, a loss is.
        if let Err(error) = shard.txn(Txn::new().and_then([put])).await
            && error.loss().is_some()
        {
            break;
        }
        tokio::select! {
            biased;
            _ = shard.lost(), if flaw != Some(Flaw::LossUnnoticed) => break,
            () = shard.revoked() => {
                if flaw == Some(Flaw::ReleasedBeforeDrained) {
                    shard.release().await?;
                    sleep(Duration::from_millis(300)).await;
                    return Ok(());
                }
                sleep(Duration::from_millis(300)).await;
                break;
            }
            () = sleep(secs(1)) => {}
        }
    }
    if flaw == Some(Flaw::LossUnnoticed) {
        sleep(secs(4)).await;
    }
    drop(working);
    Ok(shard.release().await?)
}

/// A member that works on what it should own by its view of the members, without a lock.
async fn own_by_view(process: &Process, session: &Session, owners: &Owners) -> TaskResult {
    let put = Put::new(format!("members/{}", process.name()), process.name().to_owned());
    process.client().put_with(put.lease(session.lease_id())).await?;
    let mut working = BTreeMap::new();
    while !owners.stopped.is_closed() {
        if let SessionState::Lost(reason) = session.state() {
            return Err(reason.into());
        }
        if let Ok(members) = process.client().get_prefix("members/").await {
            let names: Vec<_> = members.iter().map(|kv| &kv.value).collect();
            let assigned = assign(&names, &SHARDS);
            let is_own = |shard: usize| names[assigned[shard]] == process.name().as_bytes();
            working.retain(|shard, _| is_own(*shard));
            for shard in (0..SHARDS.len()).filter(|shard| is_own(*shard)) {
                working.entry(shard).or_insert_with(|| {
                    let session = session.clone();
                    let may_act = move || {
                        !matches!(session.state(), SessionState::Lost(_))
                            && session.deadline() > Instant::now()
                    };
                    owners.enter(shard, |shard| shard.enter_while(process.name(), (), may_act))
                });
            }
        }
        sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

/// A member, until it should leave.
async fn take_part(process: Process, owners: Owners, flaw: Option<Flaw>) -> TaskResult {
    let session = Session::builder(process.client()).ttl(TTL).open().await?;
    if flaw == Some(Flaw::AssignmentIsOwnership) {
        own_by_view(&process, &session, &owners).await?;
        return Ok(session.close().await?);
    }
    let shards = ShardAssignment::new(&session, "orders", SHARDS)?;
    let mut member = shards.join(process.name().to_owned()).await?;
    if flaw == Some(Flaw::MemberHasNoLease) {
        let key = String::from_utf8_lossy(member.key()).into_owned();
        process.client().put(key + "-again", format!("{}-again", process.name())).await?;
    }
    loop {
        let shard = tokio::select! {
            biased;
            _ = owners.stopped.acquire() => break,
            shard = member.next() => shard?,
        };
        let working = enter(&process, &shard, &owners, flaw);
        drop(process.spawn(work(shard, working, flaw)));
    }
    member.leave().await?;
    // The tasks hand their shards over meanwhile.
    sleep(secs(1)).await;
    Ok(session.close().await?)
}

/// Checks that the fencing tokens of the writes to each shard do not decrease.
async fn check_tokens(sim: &Sim) {
    let mut newest: BTreeMap<_, i64> = BTreeMap::new();
    let mut watch = sim.client().watch(Watch::prefix("data/")).await.unwrap();
    while let Some(Ok(batch)) = watch.next().await {
        for kv in batch.events.into_iter().map(|event| event.kv) {
            let token = String::from_utf8_lossy(&kv.value).parse().unwrap();
            let before = newest.insert(kv.key.clone(), token);
            if before > Some(token) {
                sim.fail("fencing", format!("{:?}: {token} after {before:?}", kv.key));
            }
        }
    }
}

async fn spread(sim: Sim, flaw: Option<Flaw>) {
    let owners = Owners::new(&sim);
    for name in MEMBERS {
        let owners = owners.clone();
        sim.service(name, move |process| take_part(process, owners.clone(), flaw));
    }
    let run = async {
        sleep(FAULT_TIME).await;
        sim.heal();
        let has_crashed = |name| matches!(sim.exit(name), Some(Exit::Crashed));
        let are_owned = || owners.are_all_owned() || MEMBERS.iter().all(|name| has_crashed(name));
        sim.eventually("every shard has an owner", OWNED_AFTER, are_owned).await;
        owners.stopped.close();
        sim.join().await;
    };
    tokio::select! {
        biased;
        () = check_tokens(&sim) => panic!("the watch has ended"),
        () = run => {}
    }
    sim.sometimes("shards move often", owners.entered() >= 2 * SHARDS.len() as u64);
    // Leases of processes that have crashed end.
    sleep(secs(60)).await;
    let left = sim.client().get_prefix("orders/").await.unwrap();
    sim.sometimes("no key is left", left.is_empty());
}

#[test]
fn shards_have_one_owner_under_every_fault() {
    let name = "shards_have_one_owner_under_every_fault";
    print(name, &Sweep::new(name).seeds(SEEDS).check_store().run(|sim| spread(sim, None)));
}

#[test]
fn shard_assignment_mutants_are_caught() {
    assert_caught(&assignments());
}
