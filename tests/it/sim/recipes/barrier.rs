//! Barriers under every fault: two holders that crash and start again, and two waiters.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_core::kv::{Compare, Put, Range, Txn, Watch};
use coord_core::recipes::Barrier;
use coord_core::session::SessionState;
use coord_core::{Session, sync};
use coord_testkit::sim::{Process, Sim, Sweep};
use tokio::time::{Instant, sleep};

use crate::sim::mutants::{Family, TaskResult, assert_caught, family};
use crate::sim::{SEEDS, print};

/// Shorter than the long partition of 100 s, so that sessions end.
const TTL: Duration = Duration::from_secs(10);

/// How long a holder holds the barrier: long enough for a watch to end meanwhile.
const HOLD_TIME: Duration = Duration::from_secs(4);

/// An oracle: no waiter passes a barrier that was held, by one holder, during its whole wait.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<HeldState>>);

#[derive(Default)]
struct HeldState {
    /// The number of the last holder, and whether it may still rely on the barrier.
    holder: Option<(u64, HolderState)>,
    last: u64,
    passed_after_release: usize,
}

/// What a holder relies on.
#[derive(Clone)]
struct HolderState {
    process: Process,
    session: Session,
    is_released: bool,
}

impl HolderState {
    fn may_act(&self) -> bool {
        let is_alive = !matches!(self.session.state(), SessionState::Lost(_));
        !self.is_released && is_alive && self.session.deadline() > Instant::now()
    }
}

impl Held {
    /// Notes that a process holds the barrier.
    fn hold(&self, process: &Process, session: &Session) -> u64 {
        let mut state = sync::lock(&self.0);
        if let Some((_, other)) = &state.holder {
            let name = other.process.name();
            assert!(!other.may_act(), "{} holds it beside {name}", process.name());
        }
        state.last += 1;
        let (process, session) = (process.clone(), session.clone());
        state.holder = Some((state.last, HolderState { process, session, is_released: false }));
        state.last
    }

    /// Notes that a holder begins to release the barrier.
    fn release(&self, number: u64) {
        if let Some((holder, held)) = &mut sync::lock(&self.0).holder
            && *holder == number
        {
            held.is_released = true;
        }
    }

    /// The holder that may act now.
    fn holder(&self) -> Option<u64> {
        let state = sync::lock(&self.0);
        state.holder.as_ref().filter(|(_, held)| held.may_act()).map(|(number, _)| *number)
    }

    /// Notes that a waiter passes, which began to wait when `holder` held the barrier.
    fn passes(&self, process: &Process, holder: Option<u64>) {
        let now = self.holder();
        assert!(
            holder.is_none() || holder != now,
            "{} passed, while {holder:?} held the barrier",
            process.name()
        );
        sync::lock(&self.0).passed_after_release += usize::from(holder.is_some());
    }
}

/// Holds the barrier for some time, twice.
async fn hold(process: Process, held: Held, flaw: Option<Flaw>) -> TaskResult {
    let session = Session::builder(process.client()).ttl(TTL).open().await?;
    for _ in 0..2 {
        if flaw == Some(Flaw::HoldsWithoutLease) {
            let free = Txn::new().when([Compare::absent("b")]).and_then([Put::new("b", "")]);
            if process.client().txn(free).await?.succeeded {
                let number = held.hold(&process, &session);
                sleep(HOLD_TIME).await;
                held.release(number);
                process.client().delete("b").await?;
            }
            continue;
        }
        let barrier = Barrier::new(process.client(), "b");
        let Some(guard) = barrier.hold(&session).await? else {
            sleep(Duration::from_millis(300)).await;
            continue;
        };
        let number = held.hold(&process, &session);
        if flaw == Some(Flaw::ReleasesTooEarly) {
            guard.release().await?;
            sleep(HOLD_TIME).await;
            held.release(number);
        } else {
            sleep(HOLD_TIME).await;
            held.release(number);
            guard.release().await?;
        }
    }
    Ok(session.close().await?)
}

/// Waits several times.
async fn wait(process: Process, held: Held, flaw: Option<Flaw>) -> TaskResult {
    for _ in 0..6 {
        let holder = held.holder();
        let client = process.client();
        match flaw {
            Some(Flaw::WatchAfterRead) => {
                if client.get("b").await?.is_some() {
                    let mut watch = client.watch(Watch::new("b")).await?;
                    watch.next().await.ok_or("the watch has ended")??;
                }
            }
            Some(Flaw::SerializableRead) => {
                let read = client.range(Range::new("b").serializable()).await?;
                if !read.kvs.is_empty() {
                    Barrier::new(client, "b").wait().await?;
                }
            }
            _ => Barrier::new(client, "b").wait().await?,
        }
        held.passes(&process, holder);
        sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

async fn hold_and_wait(sim: Sim, flaw: Option<Flaw>) {
    let held = Held::default();
    for name in ["holder-1", "holder-2"] {
        let held = held.clone();
        sim.service(name, move |process| hold(process, held.clone(), flaw));
    }
    for name in ["waiter-1", "waiter-2"] {
        let held = held.clone();
        sim.spawn(name, |process| wait(process, held, flaw));
    }
    sim.join().await;
    let passed = sync::lock(&held.0).passed_after_release;
    sim.sometimes("a waiter waits until a release", passed > 0);
}

#[test]
fn no_waiter_passes_a_held_barrier_under_every_fault() {
    let name = "no_waiter_passes_a_held_barrier_under_every_fault";
    let scenario = |sim| hold_and_wait(sim, None);
    print(name, &Sweep::new(name).seeds(SEEDS).check_store().run(scenario));
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    HoldsWithoutLease,
    ReleasesTooEarly,
    WatchAfterRead,
    SerializableRead,
}

fn barriers() -> Family {
    family("barrier", hold_and_wait)
        .mutant("the key has no lease, as Go's", Flaw::HoldsWithoutLease)
        .mutant("the holder acts after it has released", Flaw::ReleasesTooEarly)
        .mutant("the watch starts after the read, from now on", Flaw::WatchAfterRead)
        .mutant("a waiter reads a stale member", Flaw::SerializableRead)
        .done()
}

#[test]
fn barrier_mutants_are_caught() {
    assert_caught(&barriers());
}
