//! The driver: processes one ready task or message after the other until the run ends.
//!
//! The driver is the root future of the run's runtime, whose clock is paused. When nothing is
//! ready, it sleeps until the next message is due; tokio then advances the clock to the next timer,
//! of the driver or of any task, at once.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use coord_core::KvBackend as _;
use coord_core::kv::LeasesResponse;
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::failure::Failure;
use super::faults::Fault;
use super::panics;
use super::process::Gate;
use super::world::{Actor, Message, Owner, State, Work, World, acting};
use crate::history::EventKind;

/// Runs the world until it is done or has failed. More than `max_steps` steps are a livelock.
pub(crate) async fn drive(world: &Arc<World>, max_steps: u64) {
    // The tasks of the world are not tasks of tokio. The lease timer of the store is a task of
    // tokio. The code under test has started any second task with `tokio::spawn`, and tokio must
    // poll that task too.
    let metrics = Handle::current().metrics();
    let has_foreign_tasks = || metrics.num_alive_tasks() > 1;
    // The clock advances only while the driver waits.
    let mut now = Instant::now();
    loop {
        let mut dropped = Vec::new();
        let actor = {
            let mut state = world.lock();
            if state.is_done || state.failure.is_some() {
                return;
            }
            world.collect_woken(&mut state);
            state.collect_due(now);
            state.next_actor(&mut dropped)
        };
        let Some(actor) = actor else {
            if let Err(failure) = panics::catch(|| drop(dropped)) {
                world.lock().fail(failure);
            }
            wait(world).await;
            now = Instant::now();
            note_expired_leases(world).await;
            continue;
        };
        // The code under test runs in tasks, in oracles, and when its values are dropped.
        let stepped = panics::catch(|| {
            drop(dropped);
            step(world, actor, max_steps);
        });
        if let Err(failure) = stepped {
            world.lock().fail(failure);
        }
        if has_foreign_tasks() {
            yield_now().await;
            now = Instant::now();
        }
    }
}

/// Processes one actor, and checks the oracles.
fn step(world: &Arc<World>, actor: Actor, max_steps: u64) {
    process(world, actor);
    let mut state = world.lock();
    state.steps += 1;
    state.record_deviations();
    let (steps, has_oracles) = (state.steps, !state.oracles.is_empty());
    let has_failed = state.failure.is_some();
    drop(state);
    if steps > max_steps {
        let unfinished = world.describe_unfinished();
        let text = format!("no end after {max_steps} steps, {unfinished}");
        world.lock().fail(Failure::new("livelock", text));
    } else if has_oracles && !has_failed {
        check_oracles(world);
    }
}

fn process(world: &Arc<World>, Actor { owner, work }: Actor) {
    match work {
        Work::Poll(slot) => poll(world, slot),
        Work::Deliver(Message::Request(mut work)) => {
            // The store of a run responds at once, unless the test has wrapped it. The second poll
            // has the waker of a task.
            if work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                world.spawn(Owner::Harness, work);
            }
        }
        Work::Deliver(Message::Response(deliver)) => deliver(world),
        Work::Deliver(Message::Batch(queue)) => {
            if let Some(event) = queue.deliver() {
                world.lock().record(owner, || event);
            }
        }
        Work::Deliver(Message::Change(change)) => change(world),
    }
}

/// Polls a task once.
fn poll(world: &World, slot: usize) {
    let (mut future, waker) = {
        let mut state = world.lock();
        let Some(task) = state.tasks.get_mut(slot) else { return };
        let Some(future) = task.future.take() else { return };
        task.wakeup.reset();
        (future, task.waker.clone())
    };
    let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
    let mut state = world.lock();
    if polled.is_ready() {
        // The future was taken from the task above, so no code under test is dropped here.
        drop(state.tasks.try_remove(slot));
    } else if let Some(task) = state.tasks.get_mut(slot) {
        task.future = Some(future);
    }
}

/// Waits until a task is woken or a message is due.
async fn wait(world: &World) {
    let next = world.lock().next_delivery();
    let mut due = pin!(async move {
        match next {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    });
    std::future::poll_fn(|cx| {
        world.woken.driver.register(cx.waker());
        if !world.woken.is_empty() || world.lock().has_work(next) {
            return Poll::Ready(());
        }
        due.as_mut().poll(cx)
    })
    .await;
}

/// Notes the leases that have expired, if the run is recorded.
async fn note_expired_leases(world: &World) {
    if world.lock().unexpired.is_empty() {
        return;
    }
    // The store itself always responds.
    let Ok(LeasesResponse { leases, .. }) = world.mem.leases().await else { return };
    let mut state = world.lock();
    let known = std::mem::take(&mut state.unexpired).into_iter();
    let (unexpired, expired): (BTreeSet<_>, BTreeSet<_>) =
        known.partition(|lease| leases.contains(lease));
    state.unexpired = unexpired;
    for lease in expired {
        let name = &state.processes[state.leases[&lease]].name;
        let text = format!("lease {lease} of {name} has expired");
        state.record(Owner::Harness, || EventKind::Note(text));
    }
}

fn check_oracles(world: &World) {
    // An oracle may lock the world, so it is called without the lock.
    let mut oracles = std::mem::take(&mut world.lock().oracles);
    let now = Instant::now();
    let failure = oracles.iter_mut().find_map(|oracle| oracle.check(now));
    let mut state = world.lock();
    oracles.append(&mut state.oracles);
    state.oracles = oracles;
    if let Some(failure) = failure {
        state.fail(failure);
    }
}

impl State {
    /// Takes the next ready actor: the oldest, unless a choice postpones it. Actors of crashed
    /// processes are moved to `dropped`, to be dropped without the lock.
    fn next_actor(&mut self, dropped: &mut Vec<Actor>) -> Option<Actor> {
        loop {
            let actor = self.ready.pop_front()?;
            let Owner::Process { index, life } = actor.owner else { return Some(actor) };
            match self.processes[index].gate(life, &actor.work) {
                Gate::Open => {}
                Gate::Hold => {
                    self.processes[index].hold(actor);
                    continue;
                }
                Gate::Drop => {
                    dropped.push(actor);
                    continue;
                }
            }
            if self.postpones(index, &actor) {
                self.ready.push_back(actor);
            } else {
                return Some(actor);
            }
        }
    }

    /// Whether other actors are processed before this one.
    fn postpones(&mut self, index: usize, actor: &Actor) -> bool {
        let mut others = self.ready.iter().filter_map(|other| match other.owner {
            Owner::Harness => None,
            Owner::Process { index, .. } => Some(acting(index)),
        });
        let Some(first) = others.next() else { return false };
        let others = std::iter::once(first).chain(others);
        let pick = self
            .choices
            .generator()
            .map(|generator| u16::from(generator.postpones(acting(index), others)));
        let words = |name: &str| match &actor.work {
            Work::Poll(_) => format!("a task of {name}"),
            Work::Deliver(_) => format!("a message of {name}"),
        };
        let postpones = self.choose(index, |lanes| lanes.step, pick, words) > 0;
        if postpones {
            self.choices.coverage.note_mattered(Fault::Reorder);
        }
        postpones
    }
}
