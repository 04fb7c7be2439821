//! The simulated network between a process and the store.
//!
//! A request is a message to the store, which processes it when it is delivered, also if the caller
//! has timed out or dropped its future by then. The response is a message to the process. Each
//! batch of a watch is a message too; the batches of one watch keep their order.
//!
//! - this file: the process's side of a request, and the faults of messages;
//! - `store.rs`: the store's side of a request, and the faults of the store;
//! - `watch.rs`: both sides of a watch.

mod store;
mod watch;

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use coord_core::error::Outcome;
use coord_core::kv::{
    CompactResponse, DeleteResponse, Header, LeaseGrantResponse, LeaseId, LeaseKeepAliveResponse,
    LeaseRevokeResponse, LeaseTimeToLiveResponse, LeasesResponse, PutResponse, RangeResponse,
    TxnResponse, Watcher,
};
use coord_core::{Client, Error, KvBackend, Result};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::failure::Failure;
use super::faults::{self, Fault};
use super::world::{Message, Owner, State, World};
use crate::call::Call;
use crate::forward::forward_calls;
use crate::history::EventKind;
use crate::intercept::unavailable;
use crate::{StaleMember, stale_member};

/// How long a caller waits for a response: the default request timeout of `coord-etcd`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);

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
pub(crate) trait Response: Send + 'static {
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

/// Whether one member alone may serve a call, which may then be stale.
fn is_serializable(call: &Call) -> bool {
    match call {
        Call::Range(range) => range.serializable,
        Call::Txn(txn) => stale_member::is_serializable(txn),
        _ => false,
    }
}

/// Why a member rejects a request as unavailable.
const NO_LEADER: &str = "the member has no leader";

/// The error of a request or watch whose connection broke, or whose member has no leader.
fn broken(outcome: Outcome) -> Error {
    let reason = match outcome {
        Outcome::Unknown => "the connection broke",
        _ => NO_LEADER,
    };
    unavailable(outcome, reason)
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
        let id = self.send(call, request, reply);
        let response = async {
            match response.await {
                Ok(response) => response,
                // The request or the response was lost, or the process has crashed.
                Err(_) => pending().await,
            }
        };
        match timeout(REQUEST_TIMEOUT, response).await {
            Ok(response) => response,
            Err(_) => {
                let text = || format!("#{id} has no response within {REQUEST_TIMEOUT:?}: timeout");
                self.world.lock().record(self.owner(), || EventKind::Note(text()));
                Err(Error::Timeout { after: REQUEST_TIMEOUT })
            }
        }
    }

    /// Sends a request, and chooses its faults. Returns its number; 0 if it was not sent.
    fn send<T: Response>(
        &self,
        call: Call,
        request: impl Future<Output = Result<T>> + Send + 'static,
        reply: oneshot::Sender<Result<T>>,
    ) -> u64 {
        let (index, owner) = (self.index, self.owner());
        let is_elsewhere = self.world.woken.is_elsewhere();
        let mut state = self.world.lock();
        if is_elsewhere {
            state.fail(Failure::escape());
            return 0;
        }
        let process = &state.processes[index];
        if process.is_crashed || process.life != self.life {
            return 0;
        }
        state.note_process_point(index, "sends a request");
        if state.processes[index].is_crashed {
            return 0;
        }
        state.requests += 1;
        let id = state.requests;
        state.record(owner, || EventKind::Sent { request: id, call: call.clone() });
        let words = |name: &str| format!("request #{id} of {name} ({call})");
        let value = state.choose(index, |lanes| lanes.request, None, words);
        state.note_leg_mattered(value, faults::REQUEST, &call, is_change(&call));
        let sent = Sent { id, call, owner, index, reply };
        match value {
            5 => {}
            6 => state.respond(sent, Err(broken(Outcome::Unknown)), 0),
            value => {
                if let Some(error) = faults::rejection(value, &sent.call, NO_LEADER) {
                    state.respond(sent, Err(error), 0);
                    return id;
                }
                let (world, member) = (Arc::clone(&self.world), self.member.clone());
                let work = store::process_request(world, member, sent, request);
                let latency = state.processes[index].latency(value);
                state.send(owner, latency, Message::Request(Box::pin(work)));
            }
        }
        id
    }

    fn wrap(&self, watch: Watcher) -> Watcher {
        watch::across_the_network(&self.world, self.owner(), self.index, watch)
    }

    const fn owner(&self) -> Owner {
        Owner::Process { index: self.index, life: self.life }
    }
}

impl State {
    /// A decision point of the lane `process`: applies the fault that is chosen.
    fn note_process_point(&mut self, index: usize, when: &str) {
        let words = |name: &str| format!("{name}, when it {when}");
        let value = self.choose(index, |lanes| lanes.process, None, words);
        if value > 0 {
            self.apply_process_fault(index, value);
        }
    }

    /// Counts a fault of a request or response, if it could matter.
    fn note_leg_mattered(
        &mut self,
        value: u16,
        options: &[faults::ChoiceOption],
        call: &Call,
        is_applied_change: bool,
    ) {
        if value == 0 {
            return;
        }
        let fault = options[usize::from(value)].fault;
        let matters = match fault {
            Fault::Latency => self.has_in_flight(),
            Fault::RequestLost | Fault::ResponseLost | Fault::LateDelivery => is_applied_change,
            Fault::TooLarge => matches!(call, Call::Put(_) | Call::Txn(_)),
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

forward_calls!(SimBackend);
