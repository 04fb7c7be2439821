//! Simulated processes: each has a client of its own, and can be paused, partitioned or crashed.
//!
//! ```text
//!          pause, partition             crash
//! running -----------------> stalled ----------> crashed
//!         <-----------------                        |  restart: the next life, with a new
//!              heal, or time                        v  client and without memory
//!                                                 running
//! ```
//!
//! A paused process polls no task and receives nothing, while its timers and the store's clock go
//! on. A partitioned process runs, and its messages wait. A crashed process is never polled again;
//! requests that it had sent before may still be applied.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use coord_core::Client;
use coord_core::spawn::BackgroundTask;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::choice::{Choices, LaneId};
use super::faults;
use super::network::SimBackend;
use super::world::{Actor, Message, Owner, ProcessSpawner, State, Work, World};
use crate::StaleMember;
use crate::history::EventKind;

/// Starts one life of a process.
pub(crate) type Start = Arc<dyn Fn(Process) -> BackgroundTask + Send + Sync>;

/// How the main task of a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// It returned without an error.
    Finished,
    /// It returned this error.
    Failed(String),
    /// The process crashed before.
    Crashed,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::Crashed => f.write_str("crashed"),
        }
    }
}

/// The decision points of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lanes {
    pub(crate) step: LaneId,
    pub(crate) request: LaneId,
    pub(crate) response: LaneId,
    pub(crate) batch: LaneId,
    pub(crate) process: LaneId,
    pub(crate) read: LaneId,
}

impl Lanes {
    fn new(choices: &mut Choices, name: &str) -> Self {
        let mut lane = |kind, options| choices.add_lane(format!("{name}.{kind}"), options);
        Self {
            step: lane("step", faults::STEP),
            request: lane("request", faults::REQUEST),
            response: lane("response", faults::RESPONSE),
            batch: lane("batch", faults::BATCH),
            process: lane("process", faults::PROCESS),
            read: lane("read", faults::READ),
        }
    }
}

/// A way in which a process is stalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stall {
    /// No task is polled and nothing is received.
    Pause,
    /// The store receives no request of the process.
    Requests,
    /// The process receives no response and no batch.
    Responses,
}

/// Until when a process is stalled, in each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stalls([Option<Instant>; 3]);

impl Stalls {
    const fn has(self, stall: Stall) -> bool {
        self.0[stall as usize].is_some()
    }

    fn extend(&mut self, stall: Stall, until: Instant) {
        let slot = &mut self.0[stall as usize];
        *slot = (*slot).max(Some(until));
    }

    /// Ends the stalls whose time is over.
    fn end(&mut self, now: Instant) {
        for slot in &mut self.0 {
            *slot = slot.filter(|until| *until > now);
        }
    }
}

/// The state of a process in the world.
pub(crate) struct ProcessState {
    pub(crate) name: Arc<str>,
    pub(crate) lanes: Lanes,
    /// The number of the current life, from 1.
    pub(crate) life: u32,
    pub(crate) is_crashed: bool,
    pub(crate) exit: Option<Exit>,
    stalls: Stalls,
    held: Vec<Actor>,
    start: Option<Start>,
    /// Whether the process has a main task, which ends it.
    pub(crate) has_main: bool,
    /// Whether the process has been granted a lease.
    pub(crate) has_lease: bool,
}

/// What to do with a ready actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Process it.
    Open,
    /// Keep it until the process is not stalled any more.
    Hold,
    /// Drop it: the process has crashed.
    Drop,
}

impl ProcessState {
    /// What to do with an actor of the life `life` of this process.
    pub(crate) const fn gate(&self, life: u32, work: &Work) -> Gate {
        let is_gone = self.is_crashed || life != self.life;
        let is_paused = self.stalls.has(Stall::Pause);
        let (dropped, stalled) = match work {
            Work::Poll(_) => (is_gone, is_paused),
            // The network has the requests of a crashed process already.
            Work::Deliver(Message::Request(_)) => {
                (false, self.stalls.has(Stall::Requests) && !is_gone)
            }
            Work::Deliver(Message::Response(_) | Message::Batch(_)) => {
                (is_gone, is_paused || self.stalls.has(Stall::Responses))
            }
            Work::Deliver(Message::Change(_)) => (false, false),
        };
        match (dropped, stalled) {
            (true, _) => Gate::Drop,
            (false, true) => Gate::Hold,
            (false, false) => Gate::Open,
        }
    }

    pub(crate) fn hold(&mut self, actor: Actor) {
        self.held.push(actor);
    }

    pub(crate) fn take_held(&mut self) -> (Vec<Actor>, Option<Start>) {
        (std::mem::take(&mut self.held), self.start.take())
    }

    /// A word for reports.
    pub(crate) fn status(&self) -> String {
        match &self.exit {
            Some(exit) => exit.to_string(),
            None if self.stalls.has(Stall::Pause) => "paused".to_owned(),
            None if self.stalls == Stalls::default() => "running".to_owned(),
            None => "partitioned".to_owned(),
        }
    }
}

impl State {
    /// Applies an option of a process's fault points.
    pub(crate) fn apply_process_fault(&mut self, index: usize, value: u16) {
        let fault = faults::PROCESS[usize::from(value)].fault;
        if self.processes[index].has_lease {
            self.choices.coverage.note_mattered(fault);
        }
        let (short, long) = (Duration::from_secs(2), Duration::from_secs(100));
        let both = &[Stall::Requests, Stall::Responses];
        match value {
            1 => self.stall(index, short, &[Stall::Pause]),
            2 => self.stall(index, long, &[Stall::Pause]),
            3 => self.stall(index, Duration::from_secs(5), both),
            4 => self.stall(index, long, both),
            5 => self.stall(index, long, &[Stall::Requests]),
            6 => self.stall(index, long, &[Stall::Responses]),
            7 => self.crash(index, false),
            8 => self.crash(index, true),
            _ => {}
        }
    }

    /// Stalls a process for some time.
    pub(crate) fn stall(&mut self, index: usize, time: Duration, stalls: &[Stall]) {
        let process = &mut self.processes[index];
        let (life, until) = (process.life, Instant::now() + time);
        for stall in stalls {
            process.stalls.extend(*stall, until);
        }
        let owner = Owner::Process { index, life };
        self.record(owner, || EventKind::Fault(format!("stalled for {time:?}: {stalls:?}")));
        let end = move |world: &Arc<World>| world.lock().end_stalls(index);
        self.send(Owner::Harness, time, Message::Change(Box::new(end)));
    }

    /// Ends the stalls of a process whose time is over, and processes what was held meanwhile.
    fn end_stalls(&mut self, index: usize) {
        let now = Instant::now();
        let process = &mut self.processes[index];
        process.stalls.end(now);
        self.ready.extend(process.held.drain(..));
    }

    /// Crashes a process; a service starts again if `restarts`.
    pub(crate) fn crash(&mut self, index: usize, restarts: bool) {
        let process = &mut self.processes[index];
        if process.is_crashed || process.exit.is_some() {
            return;
        }
        (process.is_crashed, process.exit) = (true, Some(Exit::Crashed));
        process.stalls = Stalls::default();
        let owner = Owner::Process { index, life: process.life };
        let starts_again = restarts && process.start.is_some();
        self.ready.extend(process.held.drain(..));
        self.record(owner, || EventKind::Fault("crashed".to_owned()));
        if starts_again {
            self.start_again(index);
        }
        let notify = |world: &Arc<World>| world.exited.notify_waiters();
        self.send(Owner::Harness, Duration::ZERO, Message::Change(Box::new(notify)));
    }

    /// Starts a service again, a second from now.
    fn start_again(&mut self, index: usize) {
        self.restarts += 1;
        let start = move |world: &Arc<World>| {
            world.lock().restarts -= 1;
            drop(Process::begin_life(world, index));
        };
        self.send(Owner::Harness, Duration::from_secs(1), Message::Change(Box::new(start)));
    }

    /// Ends all faults: no choice deviates any more, and no process is stalled.
    pub(crate) fn heal(&mut self) {
        self.is_healed = true;
        self.out_of_space_until = None;
        self.choices.heal();
        self.record(Owner::Harness, || EventKind::Note("healed".to_owned()));
        for index in 0..self.processes.len() {
            self.processes[index].stalls = Stalls::default();
            self.end_stalls(index);
        }
    }
}

/// A process of a simulated run: plain tokio and coord code runs in it, unmodified.
///
/// Everything that belongs to the process uses its [`client`](Self::client). Work that is spawned
/// with [`spawn`](Self::spawn) is paused and crashed with the process. Work spawned with
/// `tokio::spawn` is only cut from the store.
#[derive(Clone)]
pub struct Process {
    pub(crate) world: Arc<World>,
    pub(crate) index: usize,
    life: u32,
    client: Client,
    name: Arc<str>,
}

impl Process {
    /// Adds a process without a task.
    ///
    /// # Panics
    /// If the name is in use, or has other characters than letters, digits, `_` and `-`.
    pub(crate) fn add(world: &Arc<World>, name: &str, start: Option<Start>) -> Self {
        let mut state = world.lock();
        let is_valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        assert!(
            !name.is_empty() && name.chars().all(is_valid),
            "invalid process name {name:?}: use letters, digits, `_` and `-`"
        );
        assert!(
            state.processes.iter().all(|process| &*process.name != name) && name != "store",
            "the process name {name:?} is in use: give each process its own"
        );
        let lanes = Lanes::new(&mut state.choices, name);
        state.processes.push(ProcessState {
            name: name.into(),
            lanes,
            life: 0,
            is_crashed: false,
            exit: None,
            stalls: Stalls::default(),
            held: Vec::new(),
            start,
            has_main: true,
            has_lease: false,
        });
        let index = state.processes.len() - 1;
        drop(state);
        Self::begin_life(world, index)
    }

    /// Begins the next life of a process, and starts its main task if it has one.
    fn begin_life(world: &Arc<World>, index: usize) -> Self {
        let mut state = world.lock();
        let process = &mut state.processes[index];
        process.life += 1;
        (process.is_crashed, process.exit) = (false, None);
        let (life, name, start) = (process.life, Arc::clone(&process.name), process.start.clone());
        drop(state);
        let owner = Owner::Process { index, life };
        let member = StaleMember::new(world.store.clone());
        let backend = SimBackend::new(Arc::clone(world), index, life, member);
        let spawner = ProcessSpawner { world: Arc::downgrade(world), owner };
        let client = Client::with_spawn(backend, Arc::new(spawner));
        let process = Self { world: Arc::clone(world), index, life, client, name };
        if let Some(start) = start {
            world.spawn(owner, start(process.clone()));
        }
        process
    }

    /// The client of this process.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// The name of this process.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts another task in this process. The returned future waits for its result, and stays
    /// pending forever if the process crashes. Dropping it does not stop the task.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> ProcessTask<T> {
        let (reply, result) = oneshot::channel();
        let task = async move { drop(reply.send(task.await)) };
        self.world.spawn(self.owner(), Box::pin(task));
        ProcessTask { result }
    }

    /// Crashes this process. A [service](super::Sim::service) starts again a second later.
    pub fn crash(&self) {
        self.world.lock().crash(self.index, true);
    }

    /// Pauses this process for `time`.
    pub fn pause(&self, time: Duration) {
        self.world.lock().stall(self.index, time, &[Stall::Pause]);
    }

    /// Partitions this process from the store for `time`.
    pub fn partition(&self, time: Duration) {
        self.world.lock().stall(self.index, time, &[Stall::Requests, Stall::Responses]);
    }

    pub(crate) const fn owner(&self) -> Owner {
        Owner::Process { index: self.index, life: self.life }
    }

    /// Notes the end of the main task. A service that failed starts again.
    pub(crate) fn note_exit(&self, result: Result<(), String>) {
        let mut state = self.world.lock();
        if state.processes[self.index].start.is_some() && result.is_err() {
            state.start_again(self.index);
        }
        let exit = match result {
            Ok(()) => Exit::Finished,
            Err(error) => Exit::Failed(error),
        };
        state.record(self.owner(), || EventKind::Note(exit.to_string()));
        state.processes[self.index].exit = Some(exit);
        drop(state);
        self.world.exited.notify_waiters();
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({}, life {})", self.name, self.life)
    }
}

/// Waits for the result of a task of a process; pending forever if the process crashes.
#[derive(Debug)]
pub struct ProcessTask<T> {
    result: oneshot::Receiver<T>,
}

impl<T> Future for ProcessTask<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match Pin::new(&mut self.result).poll(cx) {
            Poll::Ready(Ok(output)) => Poll::Ready(output),
            // The task was dropped with its process.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}
