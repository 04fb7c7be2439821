//! The lock-delay under every fault: the next holder never acquires earlier than the delay after
//! the deadline of a holder that has vanished.

use std::sync::{Arc, Mutex as SyncMutex};
use std::time::Duration;

use coord_core::error::LossReason;
use coord_core::kv::{KeyRange, LeaseId};
use coord_core::{Mutex, Session, sync};
use coord_testkit::sim::{Process, Sim, Sweep, Weaken};
use tokio::time::{Instant, sleep};

use crate::sim::mutants::{Family, TaskResult, assert_caught, family};
use crate::sim::{SEEDS, print};
use crate::support::secs;

const TTL: Duration = secs(5);

const LOCK_DELAY: Duration = secs(20);

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    NoLockDelay,
    DelayBelongsToTheSession,
    RestartRevokesTheFormerLease,
    LossDeletesTheKey,
}

fn family_of_delays() -> Family {
    family("lock-delay", contend)
        .mutant("the lease has the TTL of the session", Flaw::NoLockDelay)
        .mutant("the session counts the delay too", Flaw::DelayBelongsToTheSession)
        .mutant("a restarted process revokes its former lease", Flaw::RestartRevokesTheFormerLease)
        .mutant("a holder deletes its key after the loss", Flaw::LossDeletesTheKey)
        .weakened(Weaken::LeaseEndsEarly)
        .done()
}

/// The holders, as the test sees them: what is in it outlives a crash of the process.
#[derive(Clone, Default)]
struct Holders(Arc<SyncMutex<State>>);

#[derive(Default)]
struct State {
    /// The session of a holder that has not released the lock. Its deadline can be read after the
    /// process has crashed.
    holder: Option<Session>,
    vanished: u64,
    /// The last lease of each process.
    leases: Vec<(String, LeaseId)>,
}

impl Holders {
    /// Notes a holder, and fails the run if it acquires too early after one that has vanished.
    fn enter(&self, sim: &Sim, session: &Session) {
        let mut state = sync::lock(&self.0);
        let Some(former) = state.holder.replace(session.clone()) else { return };
        state.vanished += 1;
        let free_at = former.deadline() + LOCK_DELAY;
        let early = free_at.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            sim.fail("lock-delay", format!("the next holder acquires {early:?} too early"));
        }
    }

    /// The holder releases the lock.
    fn leave(&self) {
        sync::lock(&self.0).holder = None;
    }

    /// Notes the lease of a process, and returns its former one.
    fn note_lease(&self, process: &Process, lease: LeaseId) -> Option<LeaseId> {
        let mut state = sync::lock(&self.0);
        let former = state.leases.iter().rfind(|(name, _)| name == process.name());
        let former = former.map(|(_, lease)| *lease);
        state.leases.push((process.name().to_owned(), lease));
        former
    }
}

async fn open(process: &Process, flaw: Option<Flaw>) -> coord_core::Result<Session> {
    let builder = Session::builder(process.client());
    match flaw {
        Some(Flaw::NoLockDelay) => builder.ttl(TTL),
        Some(Flaw::DelayBelongsToTheSession) => builder.ttl(TTL + LOCK_DELAY),
        _ => builder.ttl(TTL).lock_delay(LOCK_DELAY),
    }
    .open()
    .await
}

/// Holds the lock three times, for a few seconds each.
async fn hold(sim: Sim, process: Process, holders: Holders, flaw: Option<Flaw>) -> TaskResult {
    let client = process.client();
    let session = open(&process, flaw).await?;
    let former = holders.note_lease(&process, session.lease_id());
    if let (Some(former), Some(Flaw::RestartRevokesTheFormerLease)) = (former, flaw) {
        // An error shows that the lease is gone, or that the store is unavailable.
        let _ = client.lease_revoke(former).await;
    }
    for _ in 0..3 {
        let guard = Mutex::new(&session, "printer").lock().await?;
        holders.enter(&sim, &session);
        tokio::select! {
            biased;
            reason = guard.lost() => {
                if flaw == Some(Flaw::LossDeletesTheKey) {
                    client.delete(KeyRange::key(guard.key())).await?;
                }
                if reason == LossReason::KeyDeleted {
                    return Err("no client deletes the key".into());
                }
                return Err(reason.into());
            }
            () = sleep(secs(4)) => {}
        }
        holders.leave();
        guard.unlock().await?;
    }
    Ok(session.close().await?)
}

async fn contend(sim: Sim, flaw: Option<Flaw>) {
    let holders = Holders::default();
    for name in ["a", "b", "c"] {
        let (own, holders) = (sim.clone(), holders.clone());
        sim.service(name, move |process| hold(own.clone(), process, holders.clone(), flaw));
    }
    sim.join().await;
    let vanished = sync::lock(&holders.0).vanished;
    sim.sometimes("a holder acquires after another has vanished", vanished > 0);
}

#[test]
fn lock_delay_is_kept_under_every_fault() {
    let name = "lock_delay_is_kept_under_every_fault";
    let sweep = Sweep::new(name).seeds(SEEDS).fault_time(secs(100)).check_store();
    print(name, &sweep.run(|sim| contend(sim, None)));
}

#[test]
fn lock_delay_mutants_are_caught() {
    assert_caught(&family_of_delays());
}
