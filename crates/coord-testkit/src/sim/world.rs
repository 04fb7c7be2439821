//! The world of one run: its clock, its ready tasks and messages, its processes and its choices.
//!
//! Everything that can happen next is an [`Actor`]: a task of a process that was woken, or a
//! message that is due. Ready actors wait in one queue, oldest first. The driver (`driver.rs`)
//! takes one after the other. A message that is in flight becomes ready at its time of delivery.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::fmt;
use std::sync::atomic::{self, AtomicBool};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use coord_core::kv::LeaseId;
use coord_core::spawn::{BackgroundTask, Spawn};
use coord_core::{Client, sync};
use coord_mem::MemBackend;
use futures_util::task::AtomicWaker;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::attempts::Attempts;
use super::choice::{Choices, LaneId};
use super::failure::Failure;
use super::faults;
use super::process::{Lanes, ProcessState};
use super::store_check::StoreCheck;
use crate::history::{Event, EventKind};

/// The owner of a task or message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The test or the simulator: no fault applies.
    Harness,
    /// A process, in one of its lives: a restart begins the next one.
    Process { index: usize, life: u32 },
}

/// A change of the world.
pub(crate) type Change = Box<dyn FnOnce(&Arc<World>) + Send>;

/// A message in flight.
pub(crate) enum Message {
    /// A request of a process, with the work that the store does for it.
    Request(BackgroundTask),
    /// A response for a process.
    Response(Box<dyn FnOnce(&World) + Send>),
    /// The next batch of a watch.
    Batch(Arc<dyn BatchQueue>),
    /// A change of the world at a given time, such as the end of a partition.
    Change(Change),
}

/// The batches of one watch that are in flight, oldest first.
pub(crate) trait BatchQueue: Send + Sync {
    /// Delivers the oldest batch.
    fn deliver(&self) -> Option<EventKind>;
}

/// A ready task or message.
pub(crate) struct Actor {
    pub(crate) owner: Owner,
    pub(crate) work: Work,
}

/// What an actor does.
pub(crate) enum Work {
    /// Poll the task in this slot.
    Poll(usize),
    Deliver(Message),
}

/// A message that is delivered at a given time.
struct InFlight {
    at: Instant,
    sequence: u64,
    owner: Owner,
    message: Message,
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for InFlight {}

impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// A task of the run.
pub(crate) struct Task {
    pub(crate) owner: Owner,
    /// `None` while the task is polled.
    pub(crate) future: Option<BackgroundTask>,
    pub(crate) waker: Waker,
    pub(crate) wakeup: Arc<Wakeup>,
}

/// The waker of a task: makes the task ready.
pub(crate) struct Wakeup {
    slot: usize,
    world: Arc<Woken>,
    is_woken: AtomicBool,
}

impl Wakeup {
    /// Notes that the task is about to be polled.
    pub(crate) fn reset(&self) {
        self.is_woken.store(false, atomic::Ordering::Relaxed);
    }
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_woken.swap(true, atomic::Ordering::Relaxed) {
            self.world.push(self.slot);
        }
    }
}

/// The tasks that were woken since the driver last collected them.
pub(crate) struct Woken {
    slots: Mutex<Vec<usize>>,
    /// Wakes the driver while it waits.
    pub(crate) driver: AtomicWaker,
    thread: ThreadId,
    /// Whether a task was woken from another thread, which no seed can reproduce.
    has_escape: AtomicBool,
}

impl Woken {
    fn push(&self, slot: usize) {
        if self.is_elsewhere() {
            self.has_escape.store(true, atomic::Ordering::Relaxed);
        }
        sync::lock(&self.slots).push(slot);
        self.driver.wake();
    }

    pub(crate) fn is_empty(&self) -> bool {
        sync::lock(&self.slots).is_empty()
    }

    /// Whether this is a thread that the simulator does not control.
    pub(crate) fn is_elsewhere(&self) -> bool {
        thread::current().id() != self.thread
    }
}

/// Everything that one run shares.
pub(crate) struct World {
    state: Mutex<State>,
    pub(crate) woken: Arc<Woken>,
    pub(crate) started: Instant,
    /// A client without faults, for the simulator and the oracles.
    pub(crate) store: Client,
    /// The store itself, which the test may have wrapped.
    pub(crate) mem: MemBackend,
    /// Compares what the processes receive with the store, if the sweep does.
    pub(crate) check: Option<Arc<StoreCheck>>,
    /// Notified when the main task of a process ends.
    pub(crate) exited: Notify,
}

/// The part of the world behind its lock.
pub(crate) struct State {
    woken: Arc<Woken>,
    pub(crate) choices: Choices,
    pub(crate) ready: VecDeque<Actor>,
    pub(crate) tasks: Slab<Task>,
    /// Empty; keeps its memory for the next collection of woken tasks.
    collected: Vec<usize>,
    in_flight: BinaryHeap<Reverse<InFlight>>,
    sequence: u64,
    pub(crate) processes: Vec<ProcessState>,
    /// The process that each lease was granted to, by its index.
    pub(crate) leases: BTreeMap<LeaseId, usize>,
    /// The leases of `leases` that were neither revoked nor noted as expired, if the run is
    /// recorded.
    pub(crate) unexpired: BTreeSet<LeaseId>,
    pub(crate) history: Option<Vec<Event>>,
    pub(crate) attempts: Attempts,
    /// How many deviations are in the history.
    pub(crate) noted_deviations: usize,
    /// How many events the history had when the last step ended.
    pub(crate) step_started: usize,
    pub(crate) failure: Option<Failure>,
    pub(crate) steps: u64,
    pub(crate) requests: u64,
    /// How long the scenario may take to return after the faults.
    pub(crate) settle_time: Duration,
    /// Whether the scenario has returned.
    pub(crate) has_returned: bool,
    /// Whether everything has happened that must follow the return of the scenario.
    pub(crate) is_done: bool,
    /// How many services are about to start again.
    pub(crate) restarts: usize,
    pub(crate) out_of_space_until: Option<Instant>,
    pub(crate) store_lane: LaneId,
    pub(crate) oracles: Vec<Box<dyn Oracle>>,
    /// The named conditions that must hold at least once in a sweep, and whether they have held.
    pub(crate) sometimes: BTreeMap<&'static str, bool>,
    /// Whether each point of the test is activated in this run.
    pub(crate) activated: BTreeMap<&'static str, bool>,
    pub(crate) started: Instant,
}

/// A condition that is checked after every step.
pub(crate) trait Oracle: Send {
    /// Returns the failure, if the condition is violated at `now`.
    fn check(&mut self, now: Instant) -> Option<Failure>;
}

impl World {
    pub(crate) fn new(
        mem: MemBackend,
        store: Client,
        mut choices: Choices,
        settle_time: Duration,
        is_recorded: bool,
        check: Option<Arc<StoreCheck>>,
    ) -> Arc<Self> {
        let started = Instant::now();
        let woken = Arc::new(Woken {
            slots: Mutex::default(),
            driver: AtomicWaker::new(),
            thread: thread::current().id(),
            has_escape: AtomicBool::new(false),
        });
        let state = State {
            woken: Arc::clone(&woken),
            store_lane: choices.add_lane("store.change".to_owned(), faults::STORE),
            choices,
            ready: VecDeque::new(),
            tasks: Slab::new(),
            collected: Vec::new(),
            in_flight: BinaryHeap::new(),
            sequence: 0,
            processes: Vec::new(),
            leases: BTreeMap::new(),
            unexpired: BTreeSet::new(),
            history: is_recorded.then(Vec::new),
            attempts: Attempts::default(),
            noted_deviations: 0,
            step_started: 0,
            failure: None,
            steps: 0,
            requests: 0,
            settle_time,
            has_returned: false,
            is_done: false,
            restarts: 0,
            out_of_space_until: None,
            oracles: check.iter().map(StoreCheck::oracle).collect(),
            sometimes: BTreeMap::new(),
            activated: BTreeMap::new(),
            started,
        };
        let (state, exited) = (Mutex::new(state), Notify::new());
        Arc::new(Self { state, woken, started, store, mem, check, exited })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.state)
    }

    /// Adds a task, which is ready at once.
    pub(crate) fn spawn(&self, owner: Owner, future: BackgroundTask) {
        let mut state = self.lock();
        let entry = state.tasks.vacant_entry();
        let slot = entry.key();
        let wakeup = Arc::new(Wakeup {
            slot,
            world: Arc::clone(&self.woken),
            is_woken: AtomicBool::new(false),
        });
        let waker = Waker::from(Arc::clone(&wakeup));
        entry.insert(Task { owner, future: Some(future), waker, wakeup: Arc::clone(&wakeup) });
        drop(state);
        wakeup.wake();
    }

    /// Moves the tasks that were woken to the queue of ready actors.
    pub(crate) fn collect_woken(&self, state: &mut State) {
        let State { tasks, ready, collected, .. } = state;
        std::mem::swap(&mut *sync::lock(&self.woken.slots), collected);
        for slot in collected.drain(..) {
            // A task that has completed may still be woken.
            if let Some(task) = tasks.get(slot) {
                ready.push_back(Actor { owner: task.owner, work: Work::Poll(slot) });
            }
        }
        if self.woken.has_escape.swap(false, atomic::Ordering::Relaxed) {
            state.fail(Failure::escape());
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

impl State {
    /// Sends a message, to be delivered after `latency`.
    pub(crate) fn send(&mut self, owner: Owner, latency: Duration, message: Message) {
        self.sequence += 1;
        let (at, sequence) = (Instant::now() + latency, self.sequence);
        self.in_flight.push(Reverse(InFlight { at, sequence, owner, message }));
        self.wake_driver();
    }

    /// Wakes the driver if it waits: a task that `tokio::spawn` started may change the world
    /// meanwhile.
    pub(crate) fn wake_driver(&self) {
        self.woken.driver.wake();
    }

    /// Whether the driver has work that it did not have when it began to wait for `next`.
    pub(crate) fn has_work(&self, next: Option<Instant>) -> bool {
        !self.ready.is_empty() || self.failure.is_some() || self.next_delivery() != next
    }

    /// Delays every message of `owner` that is in flight by `time`.
    pub(crate) fn delay_in_flight(&mut self, owner: Owner, time: Duration) {
        let delayed = self.in_flight.drain().map(|Reverse(mut message)| {
            if message.owner == owner {
                message.at += time;
            }
            Reverse(message)
        });
        self.in_flight = delayed.collect();
    }

    /// When the next message is due.
    pub(crate) fn next_delivery(&self) -> Option<Instant> {
        self.in_flight.peek().map(|Reverse(next)| next.at)
    }

    /// Whether a message to or from a process is in flight.
    pub(crate) fn has_in_flight(&self) -> bool {
        self.in_flight.iter().any(|Reverse(message)| message.owner != Owner::Harness)
    }

    /// Takes everything that has not happened, because it holds references to the world. The caller
    /// drops it without the lock. `None` if nothing was left.
    pub(crate) fn take_unfinished(&mut self) -> Option<impl Sized + use<>> {
        let tasks = std::mem::take(&mut self.tasks);
        let (ready, in_flight) = (std::mem::take(&mut self.ready), self.in_flight.drain().len());
        let processes: Vec<_> = self.processes.iter_mut().map(ProcessState::take_held).collect();
        let is_empty = tasks.is_empty() && ready.is_empty() && in_flight == 0;
        let oracles = std::mem::take(&mut self.oracles);
        (!is_empty).then_some((tasks, ready, processes, oracles))
    }

    /// Moves the messages that are due to the queue of ready actors.
    pub(crate) fn collect_due(&mut self, now: Instant) {
        while self.in_flight.peek().is_some_and(|Reverse(next)| next.at <= now) {
            if let Some(Reverse(InFlight { owner, message, .. })) = self.in_flight.pop() {
                self.ready.push_back(Actor { owner, work: Work::Deliver(message) });
            }
        }
    }

    /// Adds an event to the history, if the run is recorded.
    pub(crate) fn record(&mut self, owner: Owner, kind: impl FnOnce() -> EventKind) {
        let at = Instant::now().saturating_duration_since(self.started);
        self.record_at(at, owner, kind);
    }

    /// Adds an event that happened at the time `at`, if the run is recorded.
    pub(super) fn record_at(
        &mut self,
        at: Duration,
        owner: Owner,
        kind: impl FnOnce() -> EventKind,
    ) {
        let Some(history) = &mut self.history else { return };
        let process = match owner {
            Owner::Harness => None,
            Owner::Process { index, .. } => Some(Arc::clone(&self.processes[index].name)),
        };
        history.push(Event { at, process, kind: kind() });
    }

    /// Ends a step: adds its deviations to the history, if the run is recorded. They come before
    /// the other events of the step, which are their effects.
    pub(crate) fn record_deviations(&mut self) {
        let Some(history) = &mut self.history else { return };
        let words = self.choices.words_since(self.noted_deviations);
        self.noted_deviations += words.len();
        let at = Instant::now().saturating_duration_since(self.started);
        let faults = words.iter().cloned().map(EventKind::Fault);
        let first = self.step_started.min(history.len());
        history.splice(first..first, faults.map(|kind| Event { at, process: None, kind }));
        self.step_started = history.len();
    }

    /// Ends the run with a failure, unless it has failed already.
    pub(crate) fn fail(&mut self, failure: Failure) {
        if self.failure.is_none() {
            self.record(Owner::Harness, || EventKind::Note(format!("FAILURE: {}", failure.text)));
            self.failure = Some(failure);
            self.wake_driver();
        }
    }

    /// Chooses an option at the next point of one of a process's lanes. `words` describes the
    /// point, given the name of the process.
    pub(crate) fn choose(
        &mut self,
        index: usize,
        lane: impl FnOnce(&Lanes) -> LaneId,
        pick: Option<u16>,
        words: impl FnOnce(&str) -> String,
    ) -> u16 {
        let process = &self.processes[index];
        let (lane, acting) = (lane(&process.lanes), acting(index));
        self.choices.choose(lane, acting, pick, || words(&process.name))
    }
}

/// The number that identifies a process in choices; 0 is the harness.
pub(crate) const fn acting(index: usize) -> usize {
    index + 1
}

/// Runs the background tasks of a process as tasks of the world.
#[derive(Debug)]
pub(crate) struct ProcessSpawner {
    pub(crate) world: Weak<World>,
    pub(crate) owner: Owner,
}

impl Spawn for ProcessSpawner {
    fn spawn(&self, task: BackgroundTask) {
        if let Some(world) = self.world.upgrade() {
            world.spawn(self.owner, task);
        }
    }
}
