//! One run: processes over a fresh store, whose requests are let through one at a time.
//!
//! ```text
//!             +-------+
//! T1's code ->| layer |-> gate -> member ─┐
//!             +-------+                   ├-> store
//! T2's code ->| layer |-> gate -> member ─┘
//!             +-------+
//! ```
//!
//! A run is driven by hand, without tasks: a turn lets one request through and polls its process
//! until the process waits at its gate again, or has ended. So a turn is atomic, and the turns
//! determine the run. A process that waits for something else, such as a pause, gets virtual time
//! until it waits at its gate; then the next turn is chosen. The layer is optional.
#![expect(clippy::future_not_send, reason = "a run stays on the thread that drives it")]

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::{KeyRange, Op, Put, Revision, Txn, Watch};
use coord_core::{Client, KvBackend, sync};
use coord_mem::MemBackend;
use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::attempts::ProcessAttempts;
use super::gate::{LocalRead, RequestGate, Shared};
use super::schedule::{Schedule, Turn};
use crate::history::{Event, EventKind, History, StoreChange};
use crate::sim::panics;

/// How much virtual time a process gets to reach its next request, or its end. A process that needs
/// more waits for another one.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// How often the processes are polled at most until each waits at its gate or has ended. A process
/// that wakes itself without end would otherwise keep the virtual time from advancing.
const POLLS_MAX: u32 = 100_000;

/// How many requests a run has at most: a process may poll the store until another process changes
/// it, and some schedule never lets the other process run.
const TURNS_MAX: usize = 10_000;

/// The future of a process. An error is a failure of the run.
pub(super) type ProcessFuture = Pin<Box<dyn Future<Output = Result<(), String>>>>;

/// Starts a process with its client.
pub(super) type StartProcess = Rc<dyn Fn(Client) -> ProcessFuture>;

/// Wraps the backend of a process.
pub(super) type WrapBackend = Rc<dyn Fn(Arc<dyn KvBackend>) -> Arc<dyn KvBackend>>;

/// What is run.
#[derive(Clone, Default)]
pub(super) struct Setup {
    pub(super) initial: BTreeMap<Bytes, Bytes>,
    pub(super) processes: Vec<StartProcess>,
    pub(super) layer: Option<WrapBackend>,
    /// How many revisions a member may be behind.
    pub(super) stale_window: u32,
}

/// What a turn has done, as far as it matters to the order of turns.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TurnEffect {
    /// The store was changed.
    pub(super) writes: bool,
    /// A transaction has sent its first request.
    pub(super) begins: bool,
    /// An attempt has ended.
    pub(super) ends: bool,
}

/// A process of a run.
struct GatedProcess {
    gate: RequestGate,
    /// `None` after its end.
    future: Option<ProcessFuture>,
    result: Result<(), String>,
}

/// A run in progress.
pub(super) struct Run {
    store: MemBackend,
    shared: Arc<Shared>,
    events: Arc<Mutex<Vec<Event>>>,
    processes: Vec<GatedProcess>,
    /// The revision of the initial state. No member is behind it.
    first: Revision,
    stale_window: u32,
    turns: Vec<Turn>,
}

/// The keys and values of the store at the end of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FinalState(BTreeMap<Bytes, Bytes>);

/// How a run has ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunOutcome {
    /// The turns of the run.
    pub schedule: Schedule,
    /// The attempts of all transactions, and the changes of the store.
    pub history: History,
    /// The store at the end.
    pub state: FinalState,
    /// The result of each process. An error is the text of a panic, of an error that the process
    /// has returned, or of what was wrong: the process was still waiting, or has sent several
    /// requests at the same time.
    pub results: Vec<Result<(), String>>,
    /// The requests in order, with their responses, if the run was traced.
    pub requests: Vec<String>,
}

impl FinalState {
    /// The value of a key as text; `None` if the key does not exist. Bytes that are not UTF-8 are
    /// replaced.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<String> {
        self.0.get(key.as_bytes()).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// Whether a key exists.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key.as_bytes())
    }

    /// All keys and values, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.0.iter()
    }
}

impl Run {
    /// Puts the initial keys, and starts the processes, which run until their first request.
    ///
    /// # Panics
    /// If the store refuses the initial keys.
    pub(super) async fn start(setup: &Setup, is_traced: bool) -> Self {
        let store = MemBackend::builder().seed(0).build();
        let shared = Arc::new(Shared::new(is_traced));
        let puts = setup.initial.iter().map(|(key, value)| Op::from(Put::new(key, value)));
        let put = KvBackend::txn(&store, Txn::new().and_then(puts)).await;
        let first = match put {
            Ok(put) => put.header.revision,
            Err(error) => panic!("the initial keys cannot be put: {error}"),
        };
        shared.note_revision(first);
        let events = Arc::<Mutex<Vec<Event>>>::default();
        let processes = (1..).zip(&setup.processes).map(|(number, start)| {
            let name: Arc<str> = format!("T{number}").into();
            let gate = RequestGate::new(&store, &shared, Arc::clone(&name));
            let client = match &setup.layer {
                Some(wrap) => Client::new(wrap(Arc::new(gate.clone()))),
                None => Client::new(gate.clone()),
            };
            let client = client.record_transactions(ProcessAttempts {
                shared: Arc::clone(&shared),
                state: Arc::clone(&gate.state),
                events: Arc::clone(&events),
                name,
                number,
                processes: u64::try_from(setup.processes.len()).unwrap_or(u64::MAX),
            });
            GatedProcess { gate, future: Some(start(client)), result: Ok(()) }
        });
        let processes = processes.collect();
        let stale_window = setup.stale_window;
        let turns = Vec::new();
        let mut run = Self { store, shared, events, processes, first, stale_window, turns };
        run.settle().await;
        run
    }

    /// The possible next turns: each process that waits at its gate, and for a read that any member
    /// may serve, each member that would return something else than a member less far behind.
    pub(super) fn options(&self) -> Vec<Turn> {
        let mut options = Vec::new();
        if self.turns.len() >= TURNS_MAX {
            return options;
        }
        for (process, GatedProcess { gate, .. }) in self.processes.iter().enumerate() {
            if !gate.has_waiting() {
                continue;
            }
            options.push(Turn { process, behind: 0 });
            if let Some(read) = gate.next_local_read() {
                self.add_stale(process, gate, &read, &mut options);
            }
        }
        options
    }

    fn add_stale(
        &self,
        process: usize,
        gate: &RequestGate,
        read: &LocalRead,
        options: &mut Vec<Turn>,
    ) {
        let newest = self.shared.revision();
        let mut responses = Vec::new();
        for behind in 0..=self.stale_window {
            let revision = Revision(newest.0 - i64::from(behind));
            if behind > 0 && revision < self.first {
                return;
            }
            let response = gate.response_at(read, revision);
            let is_new = !responses.contains(&response);
            responses.push(response);
            if is_new && behind > 0 {
                options.push(Turn { process, behind });
            }
        }
    }

    /// A hash of the next request of a process; `None` if it does not wait at its gate.
    pub(super) fn next_hash(&self, process: usize) -> Option<u64> {
        self.processes[process].gate.next_hash()
    }

    /// Whether a turn is possible.
    pub(super) fn is_possible(&self, turn: Turn) -> bool {
        self.options().contains(&turn)
    }

    /// Lets the next request of a process through. The process must wait at its gate.
    pub(super) async fn take(&mut self, turn: Turn) -> TurnEffect {
        let gate = self.processes[turn.process].gate.clone();
        let revision = self.shared.revision();
        let ended = sync::lock(&gate.state).ended;
        let begins = gate.admit(turn.behind);
        self.turns.push(turn);
        self.settle().await;
        let ends = sync::lock(&gate.state).ended > ended;
        TurnEffect { writes: self.shared.revision() > revision, begins, ends }
    }

    /// Runs the processes until each has ended or waits at its gate, and tasks that they have
    /// spawned until these wait.
    async fn settle(&mut self) {
        self.settle_processes().await;
        if Handle::current().metrics().num_alive_tasks() > 0 {
            // Virtual time advances when all tasks wait.
            sleep(Duration::from_millis(1)).await;
            self.settle_processes().await;
        }
    }

    async fn settle_processes(&mut self) {
        if poll_fn(|cx| Poll::Ready(self.poll_all(cx))).await {
            return;
        }
        // A process that is still not at its gate gets no turn until another one has woken it.
        let mut polls = 0;
        let is_settled = |cx: &mut Context<'_>| {
            polls += 1;
            match self.poll_all(cx) || polls >= POLLS_MAX {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        };
        let _ = timeout(SETTLE_TIME, poll_fn(is_settled)).await;
    }

    /// Returns whether each process has ended or waits at its gate, and the request whose turn it
    /// is was sent.
    fn poll_all(&mut self, cx: &mut Context<'_>) -> bool {
        let mut all = true;
        for process in &mut self.processes {
            // A task that the process has spawned may have sent the request.
            all &= process.future.is_some() || !process.gate.is_admitting();
            let Some(future) = process.future.as_mut().filter(|_| !process.gate.has_waiting())
            else {
                continue;
            };
            let captured = panics::Capture::start();
            let polled = panics::catch(|| future.as_mut().poll(cx));
            drop(captured);
            let result = match polled {
                Ok(Poll::Pending) if process.gate.waiting() > 1 => Err(format!(
                    "sends {} requests at the same time, and their order is not explored: send \
                     them one after the other, or from processes of their own",
                    process.gate.waiting()
                )),
                Ok(Poll::Pending) => {
                    all &= process.gate.has_waiting();
                    continue;
                }
                Ok(Poll::Ready(result)) => result,
                Err(failure) => Err(failure.text),
            };
            process.result = result;
            process.future = None;
        }
        all
    }

    /// Ends the run.
    pub(super) async fn finish(mut self) -> RunOutcome {
        for process in &mut self.processes {
            if process.future.is_some() {
                process.result = Err(if process.gate.has_waiting() {
                    format!("has not ended after {TURNS_MAX} requests of all processes")
                } else {
                    format!(
                        "waits for something that no turn provides, or longer than {SETTLE_TIME:?}"
                    )
                });
            }
            process.future = None;
        }
        let mut history = std::mem::take(&mut *sync::lock(&self.events));
        let changes = changes(&self.store, self.first).await;
        let mut state = BTreeMap::new();
        for write in changes.iter().flat_map(|change| &change.writes) {
            match &write.value {
                Some(value) => drop(state.insert(write.key.clone(), value.clone())),
                None => drop(state.remove(&write.key)),
            }
        }
        let at = self.shared.now();
        history.extend(changes.into_iter().map(|change| {
            let kind = EventKind::Changed(change);
            Event { at, process: None, kind }
        }));
        let trace = self.shared.trace.as_ref();
        RunOutcome {
            schedule: Schedule(self.turns),
            history: History(history),
            state: FinalState(state),
            results: self.processes.into_iter().map(|process| process.result).collect(),
            requests: trace.map_or_else(Vec::new, |trace| std::mem::take(&mut *sync::lock(trace))),
        }
    }
}

/// The changes of the store from the revision `first` on.
async fn changes(store: &MemBackend, first: Revision) -> Vec<StoreChange> {
    let watch = Watch::new(KeyRange::all()).start_at(first);
    let Ok(mut watch) = KvBackend::watch(store, watch).await else { return Vec::new() };
    let mut changes = Vec::new();
    // The store delivers the whole history without waiting.
    while let Some(Some(Ok(batch))) = watch.next().now_or_never() {
        changes.push(batch.into());
    }
    changes
}
