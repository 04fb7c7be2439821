//! Adopted leases under every fault: a process acquires a lock, permits and a write lock, and
//! orphans its lease or crashes. Another process adopts the lease, resumes all three and releases
//! them, beside a rival.
//!
//! ```text
//! former     stores its lease, acquires all three, writes    orphans the lease, or crashes
//! adopter    waits until the former process has ended        adopts, resumes, writes, releases
//! rival      acquires, writes and releases one after the other
//! ```
//!
//! No process adopts the lease after another has begun to release or to close: such a request could
//! arrive late, and release what the adopter has resumed. So the adopter adopts again only after a
//! crash or a loss of its session.
//!
//! The store serves keep-alives from a member that is behind. What a run must satisfy:
//!
//! - one holder at a time: neither the rival nor the adopter holds beside another process that may
//!   still act, and no write has a smaller fencing token than the write before it;
//! - the adopter resumes what the former process held, with its token;
//! - the former process writes nothing after it has orphaned its lease;
//! - no key of the three primitives is left, and no lease, some time after the faults.

mod guard;
mod shared;

use std::future::pending;
use std::time::Duration;

use coord_core::error::LossReason;
use coord_core::kv::{LeaseId, Put, Txn};
use coord_core::{Client, Error, Session};
use coord_testkit::sim::{Exit, Process, Sim, Sweep};
use tokio::time::sleep;

use crate::sim::mutants::{Family, TaskResult, assert_caught, family};
use crate::sim::print;
use crate::support::secs;
use guard::{Guard, Kind};
use shared::{MemberBehind, Shared};

const SEEDS: u64 = 300;

const TTL: Duration = secs(10);

/// How long a key may exist beyond the TTL of its lease: the drift of the store's clock, requests
/// that are 10 s late, and the time that the cleanup of a session may take.
const KEY_GRACE: Duration = secs(60);

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    AdopterDoesNotResume,
    AdopterDropsWhatItResumed,
    AdopterDoesNotWait,
    FormerWritesAfterOrphan,
    FormerDeletesItsKeys,
    SessionOfTheAdopterStaysOpen,
}

fn adopters() -> Family {
    family("adopted lease", hand_over)
        .mutant("the adopter does not resume", Flaw::AdopterDoesNotResume)
        .mutant("the adopter drops what it has resumed", Flaw::AdopterDropsWhatItResumed)
        .mutant(
            "the adopter does not wait until the former process has ended",
            Flaw::AdopterDoesNotWait,
        )
        .mutant("the former process writes after orphan", Flaw::FormerWritesAfterOrphan)
        .mutant("the former process deletes its keys after orphan", Flaw::FormerDeletesItsKeys)
        .mutant("the session of the adopter stays open", Flaw::SessionOfTheAdopterStaysOpen)
        .done()
}

/// The process that acquires first, and leaves its lease.
async fn former(process: Process, shared: Shared, flaw: Option<Flaw>) -> TaskResult {
    let session = Session::builder(process.client()).ttl(TTL).open().await?;
    let left = hold_and_leave(&process, &session, &shared, flaw).await;
    shared.note_end(&session, &left);
    left
}

async fn hold_and_leave(
    process: &Process,
    session: &Session,
    shared: &Shared,
    flaw: Option<Flaw>,
) -> TaskResult {
    process.client().put("lease", session.lease_id().to_string()).await?;
    let mut held = Vec::new();
    for kind in Kind::ALL {
        let guard = Guard::acquire(session, kind).await?;
        shared.note_left(&guard);
        let has_ended = shared.former_has_ended();
        let alone = shared.enter(&guard, move || !has_ended());
        guard.write(shared).await?;
        held.push((guard, alone));
    }
    sleep(secs(1)).await;
    if shared.sim.buggify("crash") {
        process.crash();
        pending::<()>().await;
    }
    session.orphan().await?;
    for (guard, _) in &held {
        if flaw == Some(Flaw::FormerDeletesItsKeys) {
            process.client().delete(guard.ownership().key()).await?;
        }
        let late = Txn::new().and_then([Put::new("late", "")]);
        let refused = guard.ownership().txn(late).await.map_err(|error| error.loss());
        assert!(refused.is_err_and(|loss| loss == Some(LossReason::Orphaned)));
    }
    if flaw == Some(Flaw::FormerWritesAfterOrphan) {
        process.client().put("late", "").await?;
    }
    Ok(())
}

/// The process that adopts the lease, as often as it starts again.
async fn adopter(process: Process, shared: Shared, flaw: Option<Flaw>) -> TaskResult {
    let life = shared.next_life();
    let has_ended = shared.former_has_ended();
    sleep(Duration::from_millis(500)).await;
    while flaw != Some(Flaw::AdopterDoesNotWait) && !has_ended() {
        sleep(Duration::from_millis(50)).await;
    }
    if shared.is_over() {
        return Ok(());
    }
    let Some(stored) = process.client().get("lease").await? else { return Ok(()) };
    let lease: LeaseId = str::from_utf8(&stored.value)?.parse()?;
    let session = match Session::builder(process.client()).lease(lease).open().await {
        Err(Error::LeaseNotFound { .. }) => return Ok(()),
        opened => opened?,
    };
    let worked = work_on_adopted(&session, life, &shared, flaw).await;
    shared.note_end(&session, &worked);
    worked?;
    if flaw == Some(Flaw::SessionOfTheAdopterStaysOpen) {
        std::mem::forget(session);
        return Ok(());
    }
    Ok(session.close().await?)
}

async fn work_on_adopted(
    session: &Session,
    life: u64,
    shared: &Shared,
    flaw: Option<Flaw>,
) -> TaskResult {
    let mut held = Vec::new();
    for kind in Kind::ALL {
        let guard = if flaw == Some(Flaw::AdopterDoesNotResume) {
            Guard::acquire(session, kind).await?
        } else {
            let resumed = Guard::resume(session, kind).await?;
            shared.check_resumed(kind, resumed.as_ref());
            match resumed {
                Some(resumed) => resumed,
                None => Guard::acquire(session, kind).await?,
            }
        };
        let alone = shared.enter(&guard, shared.is_life(life));
        guard.write(shared).await?;
        held.push((guard, alone));
    }
    if flaw == Some(Flaw::AdopterDropsWhatItResumed) {
        let (guards, _alone): (Vec<_>, Vec<_>) = held.drain(..).unzip();
        drop(guards);
        sleep(secs(2)).await;
        return Ok(());
    }
    sleep(secs(1)).await;
    shared.end();
    for (guard, alone) in held {
        drop(alone);
        guard.release().await?;
    }
    Ok(())
}

/// A process that acquires one after the other.
async fn rival(process: Process, shared: Shared) -> TaskResult {
    sleep(Duration::from_millis(300)).await;
    let session = Session::builder(process.client()).ttl(TTL).open().await?;
    for kind in Kind::ALL {
        let guard = Guard::acquire(&session, kind).await?;
        let alone = shared.enter(&guard, || true);
        guard.write(&shared).await?;
        sleep(Duration::from_millis(500)).await;
        drop(alone);
        guard.release().await?;
    }
    Ok(session.close().await?)
}

async fn hand_over(sim: Sim, flaw: Option<Flaw>) {
    let shared = Shared::new(&sim);
    sim.spawn("former", |process| former(process, shared.clone(), flaw));
    for (name, is_adopter) in [("adopter", true), ("rival", false)] {
        let shared = shared.clone();
        sim.service(name, move |process| {
            let shared = shared.clone();
            async move {
                match is_adopter {
                    true => adopter(process, shared, flaw).await,
                    false => rival(process, shared).await,
                }
            }
        });
    }
    sim.join().await;
    sim.heal();
    sleep(TTL + KEY_GRACE).await;
    for kind in Kind::ALL {
        let left = sim.client().get_prefix(format!("{}/", kind.name())).await.unwrap();
        if let [first, ..] = &left[..] {
            sim.fail("left behind", format!("key {} is left", first.key.escape_ascii()));
        }
    }
    if sim.client().get("late").await.unwrap().is_some() {
        sim.fail("orphaned", "the former process has written after orphan");
    }
    let (resumed, is_crashed) = (shared.resumed(), sim.exit("former") == Some(Exit::Crashed));
    sim.sometimes("all three are resumed after orphan", resumed >= 3 && !is_crashed);
    sim.sometimes("all three are resumed after a crash", resumed >= 3 && is_crashed);
    sim.sometimes("an adopter resumes after another adopter", resumed > 3);
}

#[test]
fn adopted_lease_excludes_under_every_fault() {
    let name = "adopted_lease_excludes_under_every_fault";
    let sweep = Sweep::new(name).seeds(SEEDS).check_store();
    let sweep = sweep.wrap_store(|store| Client::new(MemberBehind(store)));
    print(name, &sweep.run(|sim| hand_over(sim, None)));
}

#[test]
fn adoption_mutants_are_caught() {
    assert_caught(&adopters());
}
