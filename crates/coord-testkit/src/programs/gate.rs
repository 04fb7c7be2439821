//! The gate of a process: holds each of its requests until the schedule lets it through.
//!
//! ```text
//! process T1                    gate                       member, store
//! get x      ── range x ──────> waits
//!                               a turn of T1 ── range x ─> read, perhaps an older revision
//!            <── response ────────────────────────────────
//! ```
//!
//! Reads and changes of keys are held. Leases and watches pass: they are not the steps of a
//! transaction.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use coord_core::kv::{
    Delete, DeleteResponse, Put, PutResponse, Range, RangeResponse, Revision, Txn, TxnResponse,
};
use coord_core::{KvBackend, Result, layer::Layer, sync};
use coord_mem::MemBackend;
use futures_util::FutureExt as _;
use futures_util::future::poll_fn;

use super::describe;
use crate::StaleMember;
use crate::stale_member::is_serializable;

/// What all processes of a run share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The last time that the clock of the run has returned, in milliseconds.
    clock: AtomicU64,
    /// The newest revision of a response.
    revision: AtomicI64,
    /// The requests as text, with their responses, if the run is traced.
    pub(super) trace: Option<Mutex<Vec<String>>>,
}

impl Shared {
    /// State of a run, which keeps the text of its requests if it is traced.
    pub(super) fn new(is_traced: bool) -> Self {
        Self { trace: is_traced.then(Mutex::default), ..Self::default() }
    }

    /// The time, later than at every earlier call.
    pub(super) fn now(&self) -> Duration {
        Duration::from_millis(self.clock.fetch_add(1, Ordering::Relaxed) + 1)
    }

    pub(super) fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Relaxed))
    }

    pub(super) fn note_revision(&self, revision: Revision) {
        self.revision.fetch_max(revision.0, Ordering::Relaxed);
    }
}

/// A request that any member may serve.
#[derive(Clone, Debug)]
pub(super) enum LocalRead {
    Range(Range),
    Txn(Txn),
}

/// What a local read returns, as far as a transaction can see it.
#[derive(Debug, PartialEq)]
pub(super) enum LocalResponse {
    Range(Vec<coord_core::kv::KeyValue>),
    Txn(TxnResponse),
    /// The member has not reached the revision.
    Refused,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    /// A hash of the request.
    hash: u64,
    read: Option<LocalRead>,
    waker: Waker,
}

/// The requests of one process that wait for a turn, and its transaction in progress.
#[derive(Debug, Default)]
pub(super) struct GateState {
    waiting: VecDeque<Waiting>,
    next_id: u64,
    /// The request whose turn it is.
    admitted: Option<u64>,
    /// How many revisions the member was behind that served the last request.
    behind: u32,
    /// How many transactions have begun.
    pub(super) transactions: u64,
    /// When the transaction in progress has sent its first request.
    pub(super) first_request: Option<Duration>,
    /// How many attempts have ended.
    pub(super) ended: u64,
}

/// A backend whose requests wait for turns.
#[derive(Clone, Debug)]
pub(super) struct RequestGate {
    pub(super) member: StaleMember<MemBackend>,
    pub(super) shared: Arc<Shared>,
    pub(super) state: Arc<Mutex<GateState>>,
    /// The name of the process, for the trace.
    pub(super) name: Arc<str>,
}

/// Removes a request from the gate when its future is dropped.
struct Entry<'a> {
    gate: &'a RequestGate,
    id: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut state = sync::lock(&self.gate.state);
        state.waiting.retain(|waiting| waiting.id != self.id);
        if state.admitted == Some(self.id) {
            state.admitted = None;
        }
    }
}

impl RequestGate {
    pub(super) fn new(store: &MemBackend, shared: &Arc<Shared>, name: Arc<str>) -> Self {
        Self {
            member: StaleMember::new(store.clone()),
            shared: Arc::clone(shared),
            state: Arc::default(),
            name,
        }
    }

    /// Whether a request waits for a turn.
    pub(super) fn has_waiting(&self) -> bool {
        !sync::lock(&self.state).waiting.is_empty()
    }

    /// A hash of the next request.
    pub(super) fn next_hash(&self) -> Option<u64> {
        Some(sync::lock(&self.state).waiting.front()?.hash)
    }

    /// How many requests wait for a turn.
    pub(super) fn waiting(&self) -> usize {
        sync::lock(&self.state).waiting.len()
    }

    /// Whether a request has got its turn and was not yet sent to the store.
    pub(super) fn is_admitting(&self) -> bool {
        sync::lock(&self.state).admitted.is_some()
    }

    /// The next request, if any member may serve it.
    pub(super) fn next_local_read(&self) -> Option<LocalRead> {
        sync::lock(&self.state).waiting.front()?.read.clone()
    }

    /// Lets the next request through, to a member that is `behind` revisions behind. Returns
    /// whether it is the first request of a transaction.
    pub(super) fn admit(&self, behind: u32) -> bool {
        match behind {
            0 => self.member.catch_up(),
            _ => self.member.fall_behind(Revision(self.shared.revision().0 - i64::from(behind))),
        }
        let now = self.shared.now();
        let mut state = sync::lock(&self.state);
        state.behind = behind;
        let begins = state.transactions > 0 && state.first_request.is_none();
        if begins {
            state.first_request = Some(now);
        }
        if let Some(next) = state.waiting.pop_front() {
            state.admitted = Some(next.id);
            next.waker.wake();
        }
        begins
    }

    /// What a member would return that has reached `revision`.
    pub(super) fn response_at(&self, read: &LocalRead, revision: Revision) -> LocalResponse {
        if revision == self.shared.revision() {
            self.member.catch_up();
        } else {
            self.member.fall_behind(revision);
        }
        // The store does no I/O, so a future that is not ready does not exist here.
        let response = match read.clone() {
            LocalRead::Range(range) => {
                let response = KvBackend::range(&self.member, range).now_or_never();
                response.and_then(Result::ok).map(|read| LocalResponse::Range(read.kvs))
            }
            LocalRead::Txn(txn) => {
                let response = KvBackend::txn(&self.member, txn).now_or_never();
                response.and_then(Result::ok).map(LocalResponse::Txn)
            }
        };
        self.member.catch_up();
        response.unwrap_or(LocalResponse::Refused)
    }

    async fn wait(&self, request: &(impl Hash + Sync), read: Option<LocalRead>) {
        let mut hasher = DefaultHasher::new();
        request.hash(&mut hasher);
        let hash = hasher.finish();
        let mut read = Some(read);
        let mut entry: Option<Entry<'_>> = None;
        poll_fn(|cx| {
            let mut state = sync::lock(&self.state);
            let Some(Entry { id, .. }) = entry else {
                let id = state.next_id;
                state.next_id += 1;
                let read = read.take().flatten();
                state.waiting.push_back(Waiting { id, hash, read, waker: cx.waker().clone() });
                entry = Some(Entry { gate: self, id });
                return Poll::Pending;
            };
            if state.admitted == Some(id) {
                state.admitted = None;
                return Poll::Ready(());
            }
            if let Some(waiting) = state.waiting.iter_mut().find(|waiting| waiting.id == id) {
                waiting.waker.clone_from(cx.waker());
            }
            Poll::Pending
        })
        .await;
    }

    fn trace(&self, text: impl FnOnce() -> String) {
        let Some(trace) = &self.shared.trace else { return };
        let member = match sync::lock(&self.state).behind {
            0 => String::new(),
            behind => format!(", from a member that is {behind} behind"),
        };
        sync::lock(trace).push(format!("{} {}{member}", self.name, text()));
    }
}

#[async_trait]
impl Layer for RequestGate {
    type Inner = StaleMember<MemBackend>;

    fn inner(&self) -> &Self::Inner {
        &self.member
    }

    async fn range(&self, request: Range) -> Result<RangeResponse> {
        let read = request.serializable.then(|| LocalRead::Range(request.clone()));
        self.wait(&request, read).await;
        let traced = self.shared.trace.is_some().then(|| request.clone());
        let response = KvBackend::range(&self.member, request).await;
        if let Some(request) = traced {
            self.trace(|| describe::range(&request, &response));
        }
        response
    }

    async fn txn(&self, request: Txn) -> Result<TxnResponse> {
        let read = is_serializable(&request).then(|| LocalRead::Txn(request.clone()));
        self.wait(&request, read).await;
        let traced = self.shared.trace.is_some().then(|| request.clone());
        let response = KvBackend::txn(&self.member, request).await;
        if let Ok(response) = &response {
            self.shared.note_revision(response.header.revision);
        }
        if let Some(request) = traced {
            self.trace(|| describe::txn(&request, &response));
        }
        response
    }

    async fn put(&self, request: Put) -> Result<PutResponse> {
        self.wait(&request, None).await;
        let key = request.key.clone();
        let response = KvBackend::put(&self.member, request).await;
        if let Ok(response) = &response {
            self.shared.note_revision(response.header.revision);
        }
        self.trace(|| describe::put(&key, response.as_ref().map(|response| &response.header)));
        response
    }

    async fn delete(&self, request: Delete) -> Result<DeleteResponse> {
        self.wait(&request, None).await;
        let keys = request.keys.clone();
        let response = KvBackend::delete(&self.member, request).await;
        if let Ok(response) = &response {
            self.shared.note_revision(response.header.revision);
        }
        self.trace(|| describe::delete(&keys, response.as_ref().map(|response| &response.header)));
        response
    }
}
