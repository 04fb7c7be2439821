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
//! A running process can crash too. A stall is a pause or a partition.
//!
//! A paused process polls no task and receives nothing, while its timers and the store's clock
//! continue. A partitioned process runs, and its messages wait. A crashed process is never polled
//! again; requests that it had sent before may still be applied.

mod state;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use coord_core::Client;
use coord_core::spawn::BackgroundTask;
use tokio::sync::oneshot;

use super::attempts::RunRecorder;
use super::choice::check_name;
use super::faults::{self, Fault};
use super::network::SimBackend;
use super::store_check::CheckedProcess;
use super::world::{Message, Owner, ProcessSpawner, State, World, acting};
use crate::StaleMember;
use crate::history::EventKind;
pub use state::Exit;
pub(crate) use state::{Gate, Lanes, ProcessState};
use state::{PARTITION, Stall, Stalls};

/// Names that processes cannot have: they begin the lanes of the store and of the test.
const RESERVED_NAMES: [&str; 2] = ["store", "test"];

/// Starts one life of a process.
pub(crate) type StartLife = Arc<dyn Fn(Process) -> BackgroundTask + Send + Sync>;

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
    /// Adds a process. `start` starts the main task of each of its lives.
    ///
    /// # Panics
    /// If the name is empty, in use, `store` or `test`, or has other characters than letters,
    /// digits, `_` and `-`.
    pub(crate) fn add(world: &Arc<World>, name: &str, start: Option<StartLife>) -> Self {
        let mut state = world.lock();
        let in_use = state.processes.iter().map(|process| &*process.name);
        check_name("process", name, in_use.chain(RESERVED_NAMES));
        let lanes = Lanes::new(&mut state.choices, name);
        let link = state.choices.add_lane(format!("{name}.link"), faults::LINK);
        let index = state.processes.len();
        let is_slow =
            state.choices.choose(link, acting(index), None, || format!("the link of {name}"));
        if is_slow > 0 {
            state.choices.coverage.note_mattered(Fault::SlowLink);
        }
        state.processes.push(ProcessState {
            name: name.into(),
            lanes,
            life: 0,
            is_crashed: false,
            exit: None,
            stalls: Stalls::default(),
            held: Vec::new(),
            start,
            has_slow_link: is_slow > 0,
            has_main: true,
            has_effect: false,
        });
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
        let is_recorded = state.history.is_some();
        drop(state);
        let owner = Owner::Process { index, life };
        let member = StaleMember::new(world.store.clone());
        let backend = SimBackend::new(Arc::clone(world), index, life, member);
        let spawner = ProcessSpawner { world: Arc::downgrade(world), owner };
        let spawner = Arc::new(spawner);
        let mut client = match &world.check {
            Some(check) => {
                let check = Arc::clone(check);
                let backend = CheckedProcess::new(backend, check, Arc::clone(&name));
                Client::with_spawn(backend, spawner)
            }
            None => Client::with_spawn(backend, spawner),
        };
        if is_recorded {
            client =
                client.record_transactions(RunRecorder { world: Arc::downgrade(world), owner });
        }
        let process = Self { world: Arc::clone(world), index, life, client, name };
        if let Some(start) = start {
            world.spawn(owner, start(process.clone()));
        }
        process
    }

    /// The client of this process. In a recorded run, such as that of a failure report, the history
    /// has the attempts of its transactions.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// The name of this process.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts another task in this process. The returned future waits for the task's result, and
    /// stays pending forever if the process crashes. Dropping the future does not stop the task.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> ProcessTask<T> {
        let (reply, result) = oneshot::channel();
        let task = async move { drop(reply.send(task.await)) };
        self.world.spawn(self.owner(), Box::pin(task));
        ProcessTask { result }
    }

    /// Crashes this process. A [service](super::Sim::service) starts again a second later. Has no
    /// effect on a process whose main task has ended.
    pub fn crash(&self) {
        self.world.lock().crash(self.index, true);
    }

    /// Pauses this process for `time`, or until the faults end: it polls no task and receives
    /// nothing, while its timers and the store's clock continue.
    pub fn pause(&self, time: Duration) {
        self.world.lock().stall(self.index, time, &[Stall::Pause]);
    }

    /// Partitions this process from the store for `time`, or until the faults end. Its messages
    /// wait, and are delivered afterwards.
    pub fn partition(&self, time: Duration) {
        self.world.lock().stall(self.index, time, PARTITION);
    }

    /// Delays every message of this process that is in flight now by `time`. Messages that are sent
    /// later overtake them.
    pub fn delay_in_flight(&self, time: Duration) {
        let (mut state, owner) = (self.world.lock(), self.owner());
        state.record(owner, || EventKind::Fault(format!("messages in flight delayed by {time:?}")));
        state.delay_in_flight(owner, time);
    }

    /// Whether this life of the process has ended by a crash.
    pub(crate) fn has_crashed(&self) -> bool {
        let state = self.world.lock();
        let process = &state.processes[self.index];
        process.is_crashed || process.life != self.life
    }

    pub(crate) const fn owner(&self) -> Owner {
        Owner::Process { index: self.index, life: self.life }
    }

    /// Notes the end of the main task. A service that failed starts again.
    pub(crate) fn note_exit(&self, result: Result<(), String>) {
        // The main task may return in the poll in which its process crashed.
        if self.has_crashed() {
            return;
        }
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

impl State {
    /// Starts a service again. Its next life begins a second from now.
    pub(super) fn start_again(&mut self, index: usize) {
        self.restarts += 1;
        let start = move |world: &Arc<World>| {
            world.lock().restarts -= 1;
            drop(Process::begin_life(world, index));
        };
        self.send(Owner::Harness, Duration::from_secs(1), Message::Change(Box::new(start)));
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
