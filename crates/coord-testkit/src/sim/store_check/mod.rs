//! The store check: an oracle that compares the response to every read and change of keys, and
//! every batch of a watch, with the store of the run.
//!
//! In general it takes a search to decide whether responses are linearizable. Here it takes none,
//! because each response has the revision at which the store applied its request. So the check is
//! one for each request, and needs no history of the run:
//!
//! ```text
//! revision     5      6             7          8
//! process a    |-- put k=1 --|                 the point of the put is 6: k must be 1 at 6
//! process b                     |-- get k ---| the point of the read is 6 or 7, not 5, because a
//!                                              response of revision 6 was received before
//! store               |6|           |7|        between two points, one change is one revision
//! ```
//!
//! What is checked, for the requests `range`, `put`, `delete` and `txn`:
//!
//! - the *point* of a request, its revision, lies between its delivery to the store and the
//!   response, and is not before the revision of a response that any process had received before
//!   the request was sent. A serializable read has no lower bound;
//! - the *response* is the one that the store gives at this point: keys, counts, previous keys, and
//!   which branch of a transaction was taken;
//! - the *effect*: a key that was put has its value, its lease, its version and its revisions; a
//!   key that was deleted does not exist;
//! - the *number of changes*: a change that took effect adds one revision, also if the response is
//!   lost; a read, and an error whose outcome is *not applied*, add none.
//!
//! What is checked of a watch of a process: it delivers each event of its keys exactly once, in the
//! order of the revisions, all events of one revision in one batch, and no progress notification
//! before the events that it covers.
//!
//! What is not checked:
//!
//! - leases, whose rules are about time: [`Sim::exclusive`](super::Sim::exclusive) and the check of
//!   the leases that are left behind find a lease that ends early or late;
//! - the end of a watch, and events that a watch has not delivered at the end of the run: no time
//!   limit would be right for them. A skipped event is noticed at the next batch;
//! - operations of a nested transaction, and an operation on keys that another operation of the
//!   same transaction changes, where the state in between is not readable afterwards;
//! - the number of changes, if the store takes time for a request; anything about a request during
//!   which the store is restored from a backup; and a watch whose first events are compacted before
//!   its process receives the response.
//!
//! `requests.rs` compares the response of one request, `process.rs` and `watch.rs` what a process
//! receives.
//!
//! Source: Herlihy and Wing, "Linearizability: A Correctness Condition for Concurrent Objects",
//! TOPLAS 1990, §2; `docs/etcd-contract.md` §2 to §4 and §6.

mod process;
mod requests;
mod watch;

use std::sync::{Arc, Mutex};
use std::task::Poll;

use async_trait::async_trait;
use coord_core::kv::{
    Delete, DeleteResponse, Put, PutResponse, Range, RangeResponse, Revision, Txn, TxnResponse,
};
use coord_core::layer::Layer;
use coord_core::{Client, Result, sync};
use coord_mem::MemBackend;
use futures_util::FutureExt as _;
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use super::failure::Failure;
use super::world::Oracle;
use crate::Call;
use crate::stale_member::current_revision;
pub(crate) use process::CheckedProcess;
use requests::{CheckResult, Observed};

/// The name of the oracle in the failure of a request.
const LINEARIZABILITY: &str = "linearizability";

/// The name of the oracle in the failure of a watch.
const WATCH: &str = "watch";

/// The store check of one run.
#[derive(Debug)]
pub(crate) struct StoreCheck {
    /// The store itself, beneath every weakness.
    mem: MemBackend,
    state: Mutex<CheckState>,
}

#[derive(Debug, Default)]
struct CheckState {
    /// The largest revision that a process has received in a response.
    newest: Revision,
    /// How often the store was restored from a backup.
    restorations: u64,
    failure: Option<Failure>,
}

impl StoreCheck {
    pub(crate) fn new(mem: MemBackend) -> Arc<Self> {
        Arc::new(Self { mem, state: Mutex::default() })
    }

    /// Notes that the store was restored from a backup: revisions begin at an older one again.
    pub(crate) fn note_restored(&self) {
        let mut state = sync::lock(&self.state);
        state.restorations += 1;
        state.newest = Revision::ZERO;
    }

    /// The oracle that fails the run after a violation.
    pub(crate) fn oracle(self: &Arc<Self>) -> Box<dyn Oracle> {
        Box::new(StoreOracle(Arc::clone(self)))
    }

    fn fail(&self, oracle: &str, text: String) {
        sync::lock(&self.state).failure.get_or_insert_with(|| Failure::new(oracle, text));
    }

    fn restorations(&self) -> u64 {
        sync::lock(&self.state).restorations
    }
}

/// Fails the run after a violation that the store check has found.
struct StoreOracle(Arc<StoreCheck>);

impl Oracle for StoreOracle {
    fn check(&mut self, _: Instant) -> Option<Failure> {
        sync::lock(&self.0.state).failure.take()
    }
}

/// The result of a request to the store of the run, which responds at once. `None` for an error.
fn respond_now<T>(request: impl Future<Output = Result<T>>) -> Option<T> {
    // Reads of the check do not use up the budget of the task that is checked.
    unconstrained(request).now_or_never()?.ok()
}

/// A layer over the store of a run, which checks each response at the store.
#[derive(Debug)]
pub(crate) struct CheckedStore {
    store: Client,
    check: Arc<StoreCheck>,
}

impl CheckedStore {
    pub(crate) const fn new(store: Client, check: Arc<StoreCheck>) -> Self {
        Self { store, check }
    }

    /// Runs a request, and compares its result.
    async fn checked<T>(
        &self,
        call: Call,
        request: impl Future<Output = Result<T>> + Send,
        verdict: impl FnOnce(&MemBackend, &Call, &T, Observed) -> CheckResult,
    ) -> Result<T> {
        let mem = &self.check.mem;
        let restorations = self.check.restorations();
        let before = respond_now(current_revision(mem));
        let mut request = Box::pin(request);
        let first_poll = futures_util::poll!(request.as_mut());
        let at_once = first_poll.is_ready();
        let result = match first_poll {
            Poll::Ready(result) => result,
            Poll::Pending => request.await,
        };
        let after = respond_now(current_revision(mem));
        let is_restored = self.check.restorations() != restorations;
        if let (Some(before), Some(after), false) = (before, after, is_restored) {
            let observed = Observed { before, after, at_once };
            let verdict = match &result {
                Ok(response) => verdict(mem, &call, response, observed),
                Err(error) => observed.check_error(error),
            };
            if let Err(text) = verdict {
                self.check.fail(LINEARIZABILITY, format!("{call}: {text}"));
            }
        }
        result
    }
}

#[async_trait]
impl Layer for CheckedStore {
    type Inner = Client;

    fn inner(&self) -> &Client {
        &self.store
    }

    async fn range(&self, request: Range) -> Result<RangeResponse> {
        let call = Call::Range(request.clone());
        self.checked(call, self.store.range(request), requests::check_range).await
    }

    async fn put(&self, request: Put) -> Result<PutResponse> {
        let call = Call::Put(request.clone());
        self.checked(call, self.store.put_with(request), requests::check_put).await
    }

    async fn delete(&self, request: Delete) -> Result<DeleteResponse> {
        let call = Call::Delete(request.clone());
        self.checked(call, self.store.delete(request), requests::check_delete).await
    }

    async fn txn(&self, request: Txn) -> Result<TxnResponse> {
        let call = Call::Txn(request.clone());
        self.checked(call, self.store.txn(request), requests::check_txn).await
    }
}
