//! The simulated network between a process and the store.
//!
//! A request is a message to the store, which processes it when it is delivered, also if the caller
//! has given up by then. The response is a message to the process. Each batch of a watch is a
//! message too; the batches of one watch keep their order.

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use coord_core::error::Outcome;
use coord_core::kv::{
    Compact, CompactResponse, DeleteResponse, Header, LeaseGrantResponse, LeaseId,
    LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, LeasesResponse, Op,
    PutResponse, RangeResponse, Revision, TxnResponse, WatchBatch, WatchStream, Watcher,
};
use coord_core::{Client, Error, KvBackend, Result, sync};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::faults::{self, Fault, WATCH_SILENCE};
use super::world::{BatchQueue, Message, Owner, State, World};
use crate::StaleMember;
use crate::call::Call;
use crate::forward::forward_calls;
use crate::history::EventKind;

/// How long a caller waits for a response: the default request timeout of `coord-etcd`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);

/// How long the store stays out of space.
const OUT_OF_SPACE: Duration = Duration::from_secs(5);

/// The backend of a process: its calls and watches cross the simulated network.
pub(crate) struct SimBackend<B> {
    inner: Arc<B>,
    /// The member that serves the process: the same as `inner`.
    member: StaleMember<Client>,
    world: Arc<World>,
    index: usize,
    life: u32,
}

impl<B> fmt::Debug for SimBackend<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimBackend").field("process", &self.index).finish_non_exhaustive()
    }
}

impl SimBackend<StaleMember<Client>> {
    pub(crate) fn new(
        world: Arc<World>,
        index: usize,
        life: u32,
        member: StaleMember<Client>,
    ) -> Self {
        Self { inner: Arc::new(member.clone()), member, world, index, life }
    }
}

/// The response to a call.
trait Response: Send + 'static {
    fn header(&self) -> Header;

    /// The lease that was granted.
    fn granted(&self) -> Option<LeaseId> {
        None
    }
}

macro_rules! responses {
    ($($response:ty),*) => {
        $(impl Response for $response {
            fn header(&self) -> Header {
                self.header
            }
        })*
    };
}

responses!(
    RangeResponse,
    PutResponse,
    DeleteResponse,
    TxnResponse,
    LeaseKeepAliveResponse,
    LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
    LeasesResponse,
    CompactResponse
);

impl Response for LeaseGrantResponse {
    fn header(&self) -> Header {
        self.header
    }

    fn granted(&self) -> Option<LeaseId> {
        Some(self.id)
    }
}

impl Response for Watcher {
    fn header(&self) -> Header {
        Self::header(self)
    }
}

/// Whether a call can change the store.
fn is_change(call: &Call) -> bool {
    match call {
        Call::Put(_) | Call::Delete(_) | Call::LeaseGrant(_) | Call::LeaseRevoke(_) => true,
        Call::Txn(txn) => !txn.is_read_only(),
        _ => false,
    }
}

/// Whether one member serves a call alone.
fn is_serializable(call: &Call) -> bool {
    let serializable = |op: &Op| matches!(op, Op::Range(range) if range.serializable);
    match call {
        Call::Range(range) => range.serializable,
        Call::Txn(txn) => txn.success.iter().chain(&txn.failure).all(serializable),
        _ => false,
    }
}

fn broken(outcome: Outcome) -> Error {
    let reason = match outcome {
        Outcome::Unknown => "the connection broke",
        _ => "the member has no leader",
    };
    Error::Unavailable { outcome, reason: reason.to_owned(), source: None }
}

/// One request on its way.
struct Sent<T> {
    id: u64,
    call: Call,
    owner: Owner,
    index: usize,
    reply: oneshot::Sender<Result<T>>,
}

impl<B: KvBackend> SimBackend<B> {
    async fn call<T: Response>(
        &self,
        call: Call,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (reply, response) = oneshot::channel();
        self.send(call, request, reply);
        let response = async {
            match response.await {
                Ok(response) => response,
                // The request or the response was lost, or the process has crashed.
                Err(_) => pending().await,
            }
        };
        match timeout(REQUEST_TIMEOUT, response).await {
            Ok(response) => response,
            Err(_) => Err(Error::Timeout { after: REQUEST_TIMEOUT }),
        }
    }

    /// Sends a request. Faults are decided now.
    fn send<T: Response>(
        &self,
        call: Call,
        request: impl Future<Output = Result<T>> + Send + 'static,
        reply: oneshot::Sender<Result<T>>,
    ) {
        let (index, owner) = (self.index, Owner::Process { index: self.index, life: self.life });
        let mut state = self.world.lock();
        let process = &state.processes[index];
        if process.is_crashed || process.life != self.life {
            return;
        }
        state.note_process_point(index, "sends a request");
        if state.processes[index].is_crashed {
            return;
        }
        state.requests += 1;
        let id = state.requests;
        state.record(owner, || EventKind::Sent { request: id, call: call.clone() });
        let (lane, acting) = (state.processes[index].lanes.request, State::acting(owner));
        let name = Arc::clone(&state.processes[index].name);
        let words = || format!("request #{id} of {name} ({call})");
        let value = state.choices.choose(lane, acting, None, words);
        state.note_leg_mattered(value, faults::REQUEST, is_change(&call));
        let sent = Sent { id, call, owner, index, reply };
        match value {
            5 => {}
            6 => state.respond(sent, Err(broken(Outcome::Unknown)), 0),
            7 => state.respond(sent, Err(broken(Outcome::NotApplied)), 0),
            8 => state.respond(sent, Err(Error::TooManyRequests), 0),
            9 => {
                let reason = "the token has expired".to_owned();
                state.respond(sent, Err(Error::Unauthenticated { reason }), 0);
            }
            value => {
                let (world, member) = (Arc::clone(&self.world), self.member.clone());
                let work = process_request(world, member, sent, request);
                let latency = state.processes[index].latency(value);
                state.send(owner, latency, Message::Request(Box::pin(work)));
            }
        }
    }

    fn wrap(&self, watch: Watcher) -> Watcher {
        let header = watch.header();
        let owner = Owner::Process { index: self.index, life: self.life };
        let channel = Arc::new(Channel {
            world: Arc::downgrade(&self.world),
            owner,
            state: Mutex::default(),
        });
        let pump = Pump { watch, channel: Arc::clone(&channel), index: self.index };
        // The server sends batches whether or not the process runs.
        self.world.spawn(Owner::Harness, Box::pin(pump.run()));
        Watcher::new(header, SimWatch { channel })
    }
}

/// What the store does for a delivered request: applies it, and sends the response.
async fn process_request<T: Response>(
    world: Arc<World>,
    member: StaleMember<Client>,
    sent: Sent<T>,
    request: impl Future<Output = Result<T>> + Send + 'static,
) {
    let (is_change, index) = (is_change(&sent.call), sent.index);
    let has_space = {
        let state = world.lock();
        state.out_of_space_until.is_none_or(|until| until <= Instant::now())
    };
    let result = if is_change && !has_space {
        Err(Error::NoSpace { outcome: Outcome::NotApplied })
    } else if is_serializable(&sent.call) {
        serve_stale(&world, &member, index, request).await
    } else {
        request.await
    };
    let mut store_fault = 0;
    {
        let mut state = world.lock();
        state.record(sent.owner, || EventKind::Applied {
            request: sent.id,
            result: result.as_ref().map(|r| r.header().revision).map_err(ToString::to_string),
        });
        if let Ok(response) = &result {
            if let Some(lease) = response.granted() {
                state.leases.insert(lease, index);
                state.processes[index].has_lease = true;
            }
            if is_change {
                let (lane, id) = (state.store_lane, sent.id);
                let words = || format!("the store, after request #{id}");
                store_fault = state.choices.choose(lane, 0, None, words);
            }
        }
        let (lane, acting) = (state.processes[index].lanes.response, State::acting(sent.owner));
        let (name, id) = (Arc::clone(&state.processes[index].name), sent.id);
        let words = || format!("response to request #{id} of {name} ({})", sent.call);
        let value = state.choices.choose(lane, acting, None, words);
        state.note_leg_mattered(value, faults::RESPONSE, is_change && result.is_ok());
        match value {
            5 => {}
            6 => state.respond(sent, Err(broken(Outcome::Unknown)), 0),
            value => state.respond(sent, result, value),
        }
    }
    if store_fault > 0 {
        apply_store_fault(&world, store_fault).await;
    }
}

/// Serves a read from a member that may be behind.
async fn serve_stale<T>(
    world: &World,
    member: &StaleMember<Client>,
    index: usize,
    request: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    let value = {
        let mut state = world.lock();
        let process = &state.processes[index];
        let (lane, name) = (process.lanes.read, Arc::clone(&process.name));
        state.choices.choose(lane, index + 1, None, || format!("serializable read of {name}"))
    };
    if value == 0 {
        return request.await;
    }
    // An empty transaction reads the current revision.
    let current = world.store.txn(coord_core::kv::Txn::new()).await?.header.revision;
    let behind = if value == 1 { 1 } else { 10 };
    let served = Revision((current.0 - behind).max(1));
    if served < current {
        world.lock().choices.coverage.note_mattered(Fault::StaleRead);
        member.fall_behind(served);
    }
    let response = request.await;
    member.catch_up();
    response
}

/// Applies an option of the store's fault points.
async fn apply_store_fault(world: &World, value: u16) {
    let fault = faults::STORE[usize::from(value)].fault;
    let has_effect = match fault {
        Fault::Compaction => {
            let current = world.store.txn(coord_core::kv::Txn::new()).await;
            match current {
                Ok(response) => {
                    world.store.compact(Compact::new(response.header.revision)).await.is_ok()
                }
                Err(_) => false,
            }
        }
        Fault::LeaderChange => {
            let leases = world.store.leases().await.map(|response| response.leases);
            let leases = leases.unwrap_or_default();
            for lease in &leases {
                // The lease may have expired just now.
                let _ = world.store.lease_keep_alive(*lease).await;
            }
            !leases.is_empty()
        }
        _ => {
            world.lock().out_of_space_until = Some(Instant::now() + OUT_OF_SPACE);
            true
        }
    };
    let mut state = world.lock();
    if has_effect {
        state.choices.coverage.note_mattered(fault);
    }
    let label = faults::STORE[usize::from(value)].label;
    state.record(Owner::Harness, || EventKind::Fault(format!("the store: {label}")));
}

impl State {
    /// A point at which something can happen to a process.
    fn note_process_point(&mut self, index: usize, when: &str) {
        let process = &self.processes[index];
        let (lane, name) = (process.lanes.process, Arc::clone(&process.name));
        let value =
            self.choices.choose(lane, index + 1, None, || format!("{name}, when it {when}"));
        if value > 0 {
            self.apply_process_fault(index, value);
        }
    }

    /// Counts a fault of a request or response, if it could matter.
    fn note_leg_mattered(
        &mut self,
        value: u16,
        options: &[faults::ChoiceOption],
        is_applied_change: bool,
    ) {
        if value == 0 {
            return;
        }
        let fault = options[usize::from(value)].fault;
        let matters = match fault {
            Fault::Latency => self.has_in_flight(),
            Fault::RequestLost | Fault::ResponseLost | Fault::LateDelivery => is_applied_change,
            _ => true,
        };
        if matters {
            self.choices.coverage.note_mattered(fault);
        }
    }

    /// Sends a response.
    fn respond<T: Response>(&mut self, sent: Sent<T>, result: Result<T>, value: u16) {
        let Sent { id, owner, reply, index, .. } = sent;
        let error =
            result.as_ref().err().filter(|_| self.history.is_some()).map(ToString::to_string);
        let received = move |world: &World| {
            let mut state = world.lock();
            state.note_process_point(index, "receives a response");
            if !state.processes[index].is_crashed {
                state.record(owner, || EventKind::Received { request: id, error });
                // The caller may have dropped its future.
                drop(state);
                let _ = reply.send(result);
            }
        };
        let latency = self.processes[index].latency(value);
        self.send(owner, latency, Message::Response(Box::new(received)));
    }
}

/// The batches of one watch between the store and the process.
struct Channel {
    world: std::sync::Weak<World>,
    owner: Owner,
    state: Mutex<ChannelState>,
}

#[derive(Default)]
struct ChannelState {
    in_flight: VecDeque<Option<Result<WatchBatch>>>,
    delivered: VecDeque<Option<Result<WatchBatch>>>,
    receiver: Option<Waker>,
    pump: Option<Waker>,
    /// The batches arrive in order: none before this time.
    last_delivery: Option<Instant>,
    is_progress_requested: bool,
    is_dropped: bool,
}

impl BatchQueue for Channel {
    fn deliver(&self) -> Option<EventKind> {
        let mut state = sync::lock(&self.state);
        let batch = state.in_flight.pop_front()?;
        let event = match &batch {
            Some(Ok(batch)) => {
                EventKind::Watched { revision: batch.revision, events: batch.events.len() }
            }
            Some(Err(error)) => EventKind::Fault(format!("watch ended: {error}")),
            None => EventKind::Note("watch ended".to_owned()),
        };
        state.delivered.push_back(batch);
        let receiver = state.receiver.take();
        drop(state);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        Some(event)
    }
}

/// The server's side of a watch: sends each batch of the store's watch to the process.
struct Pump {
    watch: Watcher,
    channel: Arc<Channel>,
    index: usize,
}

impl Pump {
    /// Runs until the watch ends on either side.
    async fn run(mut self) {
        let channel = Arc::clone(&self.channel);
        loop {
            let next = std::future::poll_fn(|cx| {
                let mut state = sync::lock(&channel.state);
                if state.is_dropped {
                    return Poll::Ready(None);
                }
                if std::mem::take(&mut state.is_progress_requested) {
                    self.watch.request_progress();
                }
                state.pump = Some(cx.waker().clone());
                drop(state);
                self.watch.poll_next_unpin(cx).map(Some)
            });
            let Some(batch) = next.await else { return };
            if self.send(batch) {
                return;
            }
        }
    }

    /// Sends a batch. Returns whether it is the last one.
    fn send(&self, batch: Option<Result<WatchBatch>>) -> bool {
        let Some(world) = self.channel.world.upgrade() else { return true };
        let mut state = world.lock();
        let process = &state.processes[self.index];
        let (lane, name) = (process.lanes.batch, Arc::clone(&process.name));
        let words = || match &batch {
            Some(Ok(batch)) => format!("watch batch of revision {} for {name}", batch.revision),
            _ => format!("end of a watch of {name}"),
        };
        let value = state.choices.choose(lane, self.index + 1, None, words);
        if value > 0 {
            let fault = faults::BATCH[usize::from(value)].fault;
            state.choices.coverage.note_mattered(fault);
        }
        let process = &state.processes[self.index];
        let (batch, latency) = match value {
            4 => (batch, WATCH_SILENCE),
            5 => (Some(Err(broken(Outcome::NotApplied))), process.latency(0)),
            value => (batch, process.latency(value)),
        };
        let is_last = !matches!(batch, Some(Ok(_)));
        let mut channel = sync::lock(&self.channel.state);
        channel.in_flight.push_back(batch);
        let now = Instant::now();
        let at = (now + latency).max(channel.last_delivery.unwrap_or(now));
        channel.last_delivery = Some(at);
        drop(channel);
        let delivery = Message::Batch(Arc::clone(&self.channel) as Arc<dyn BatchQueue>);
        state.send(self.channel.owner, at - now, delivery);
        is_last
    }
}

/// The process's side of a watch.
struct SimWatch {
    channel: Arc<Channel>,
}

impl Stream for SimWatch {
    type Item = Result<WatchBatch>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = sync::lock(&self.channel.state);
        match state.delivered.pop_front() {
            Some(batch) => Poll::Ready(batch),
            None => {
                state.receiver = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl WatchStream for SimWatch {
    fn request_progress(self: Pin<&mut Self>) {
        self.wake_pump(|state| state.is_progress_requested = true);
    }
}

impl SimWatch {
    fn wake_pump(&self, change: impl FnOnce(&mut ChannelState)) {
        let mut state = sync::lock(&self.channel.state);
        change(&mut state);
        let pump = state.pump.take();
        drop(state);
        if let Some(pump) = pump {
            pump.wake();
        }
    }
}

impl Drop for SimWatch {
    fn drop(&mut self) {
        self.wake_pump(|state| state.is_dropped = true);
    }
}

forward_calls!(SimBackend);
