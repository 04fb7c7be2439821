//! The state of a process in the world, and the faults that change it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::StartLife;
use crate::history::EventKind;
use crate::sim::choice::{Choices, LaneId};
use crate::sim::faults;
use crate::sim::world::{Actor, Message, Owner, State, Work, World};

/// How the main task of a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// It returned without an error.
    Finished,
    /// It returned this error.
    Failed(String),
    /// The process crashed before its main task returned.
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
    pub(crate) progress: LaneId,
    pub(crate) process: LaneId,
    pub(crate) read: LaneId,
}

impl Lanes {
    pub(super) fn new(choices: &mut Choices, name: &str) -> Self {
        let mut lane = |kind, options| choices.add_lane(format!("{name}.{kind}"), options);
        Self {
            step: lane("step", faults::STEP),
            request: lane("request", faults::REQUEST),
            response: lane("response", faults::RESPONSE),
            batch: lane("batch", faults::BATCH),
            progress: lane("progress", faults::PROGRESS),
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

impl Stall {
    /// What a process is that is stalled in these ways.
    const fn words(stalls: &[Self]) -> &'static str {
        match stalls {
            [Self::Pause] => "paused",
            [Self::Requests] => "partitioned, requests only,",
            [Self::Responses] => "partitioned, responses only,",
            _ => "partitioned",
        }
    }
}

/// Both directions of messages: a partition.
pub(super) const PARTITION: &[Stall] = &[Stall::Requests, Stall::Responses];

/// Until when a process is stalled, in each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stalls([Option<Instant>; 3]);

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
    pub(super) stalls: Stalls,
    pub(super) held: Vec<Actor>,
    pub(super) start: Option<StartLife>,
    pub(crate) has_slow_link: bool,
    /// Whether the process has a main task, whose end is the end of the process.
    pub(crate) has_main: bool,
    /// Whether the process has changed the store, so that an interruption matters.
    pub(crate) has_effect: bool,
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
        let has_ended = self.is_crashed || life != self.life;
        let is_paused = self.stalls.has(Stall::Pause);
        let (dropped, stalled) = match work {
            Work::Poll(_) => (has_ended, is_paused),
            // A request that was sent before the crash still reaches the store.
            Work::Deliver(Message::Request(_)) => {
                (false, self.stalls.has(Stall::Requests) && !has_ended)
            }
            Work::Deliver(Message::Response(_) | Message::Batch(_)) => {
                (has_ended, is_paused || self.stalls.has(Stall::Responses))
            }
            Work::Deliver(Message::Change(_)) => (false, false),
        };
        match (dropped, stalled) {
            (true, _) => Gate::Drop,
            (false, true) => Gate::Hold,
            (false, false) => Gate::Open,
        }
    }

    /// The latency of a message, by the option that was chosen for it.
    pub(crate) fn latency(&self, value: u16) -> Duration {
        let least = if self.has_slow_link { faults::SLOW_LINK } else { Duration::ZERO };
        faults::latency(value).max(least)
    }

    pub(crate) fn hold(&mut self, actor: Actor) {
        self.held.push(actor);
    }

    pub(crate) fn take_held(&mut self) -> (Vec<Actor>, Option<StartLife>) {
        (std::mem::take(&mut self.held), self.start.take())
    }

    /// The status of the process, for reports.
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
    /// Applies the option `value` of `faults::PROCESS`.
    pub(crate) fn apply_process_fault(&mut self, index: usize, value: u16) {
        let fault = faults::PROCESS[usize::from(value)].fault;
        // Tasks that outlive the main task may still send requests, but the run does not wait for
        // them.
        let process = &self.processes[index];
        if process.has_effect && process.exit.is_none() {
            self.choices.coverage.note_mattered(fault);
        }
        let (short, long) = (Duration::from_secs(2), Duration::from_secs(100));
        match value {
            1 => self.stall(index, short, &[Stall::Pause]),
            2 => self.stall(index, long, &[Stall::Pause]),
            3 => self.stall(index, Duration::from_secs(5), PARTITION),
            4 => self.stall(index, long, PARTITION),
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
        self.record(owner, || EventKind::Fault(format!("{} for {time:?}", Stall::words(stalls))));
        let end = move |world: &Arc<World>| world.lock().end_stalls(index);
        self.send(Owner::Harness, time, Message::Change(Box::new(end)));
    }

    /// Partitions the processes from the store one after the other, and heals them in the reverse
    /// order. The partitions are a second apart, and so are their ends. Returns whether there is
    /// any process.
    pub(crate) fn swizzle(&mut self) -> bool {
        let count = self.processes.len();
        let seconds = |count: usize| Duration::from_secs(u64::try_from(count).unwrap_or(u64::MAX));
        for index in 0..count {
            let start = move |world: &Arc<World>| {
                let mut state = world.lock();
                if !state.choices.is_healed() {
                    let left = seconds(2 * (count - index));
                    state.stall(index, left, PARTITION);
                }
            };
            self.send(Owner::Harness, seconds(index), Message::Change(Box::new(start)));
        }
        count > 0
    }

    /// Ends those stalls of a process whose time is over, and makes the held actors ready again.
    fn end_stalls(&mut self, index: usize) {
        let process = &mut self.processes[index];
        process.stalls.end(Instant::now());
        self.ready.extend(process.held.drain(..));
        self.wake_driver();
    }

    /// Ends the stalls of a process before their time.
    pub(crate) fn end_all_stalls(&mut self, index: usize) {
        self.processes[index].stalls = Stalls::default();
        self.end_stalls(index);
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
}
