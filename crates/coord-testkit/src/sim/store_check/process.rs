//! The process's side of the store check: a layer over the backend of a process, which checks what
//! the process receives.

use std::sync::Arc;

use async_trait::async_trait;
use coord_core::kv::{
    Delete, DeleteResponse, Put, PutResponse, Range, RangeResponse, Revision, Txn, TxnResponse,
    Watch, Watcher,
};
use coord_core::layer::Layer;
use coord_core::{KvBackend, Result, sync};

use super::watch::CheckedWatch;
use super::{LINEARIZABILITY, StoreCheck, respond_now};
use crate::Call;
use crate::sim::network::Response;
use crate::stale_member::is_serializable;

/// A layer over the backend of a process, which checks each response when the process receives it.
#[derive(Debug)]
pub(crate) struct CheckedProcess<B> {
    backend: B,
    check: Arc<StoreCheck>,
    process: Arc<str>,
}

impl<B: KvBackend> CheckedProcess<B> {
    pub(crate) const fn new(backend: B, check: Arc<StoreCheck>, process: Arc<str>) -> Self {
        Self { backend, check, process }
    }

    /// Runs a request, and checks that its response is not older than a response that any process
    /// had received before.
    async fn checked<T: Response>(
        &self,
        call: Call,
        is_linearizable: bool,
        request: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let (newest, restorations) = {
            let state = sync::lock(&self.check.state);
            (state.newest, state.restorations)
        };
        let result = request.await;
        let Ok(response) = &result else { return result };
        let revision = response.header().revision;
        {
            let mut state = sync::lock(&self.check.state);
            if state.restorations != restorations {
                return result;
            }
            state.newest = state.newest.max(revision);
        }
        if is_linearizable && revision < newest {
            let process = &self.process;
            let text = format!(
                "{process} received revision {revision} for {call}, which it sent after a response \
                 of revision {newest} had been received"
            );
            self.check.fail(LINEARIZABILITY, text);
        }
        result
    }
}

#[async_trait]
impl<B: KvBackend> Layer for CheckedProcess<B> {
    type Inner = B;

    fn inner(&self) -> &B {
        &self.backend
    }

    async fn range(&self, request: Range) -> Result<RangeResponse> {
        let (call, is_linearizable) = (Call::Range(request.clone()), !request.serializable);
        self.checked(call, is_linearizable, self.backend.range(request)).await
    }

    async fn put(&self, request: Put) -> Result<PutResponse> {
        let call = Call::Put(request.clone());
        self.checked(call, true, self.backend.put(request)).await
    }

    async fn delete(&self, request: Delete) -> Result<DeleteResponse> {
        let call = Call::Delete(request.clone());
        self.checked(call, true, self.backend.delete(request)).await
    }

    async fn txn(&self, request: Txn) -> Result<TxnResponse> {
        let (call, is_linearizable) = (Call::Txn(request.clone()), !is_serializable(&request));
        self.checked(call, is_linearizable, self.backend.txn(request)).await
    }

    async fn watch(&self, request: Watch) -> Result<Watcher> {
        let restorations = self.check.restorations();
        let watch = self.backend.watch(request.clone()).await?;
        let header = watch.header();
        let start = request.start_revision.filter(|start| *start > Revision::ZERO);
        let start = start.unwrap_or_else(|| header.revision.next());
        let expected = Watch { progress_notify: false, ..request.start_at(start) };
        let expected = respond_now(self.check.mem.watch(expected));
        let expected = expected.filter(|_| self.check.restorations() == restorations);
        let (check, process) = (Arc::clone(&self.check), Arc::clone(&self.process));
        Ok(Watcher::new(header, CheckedWatch::new(watch, expected, check, process)))
    }
}

#[cfg(test)]
mod tests {
    use coord_core::Client;
    use coord_mem::MemBackend;
    use tokio::time::Instant;

    use super::*;
    use crate::sim::Weaken;

    /// Two processes on one store; the reads of the second one are stale.
    fn processes() -> (Client, Client, Arc<StoreCheck>, MemBackend) {
        let mem = MemBackend::new();
        let check = StoreCheck::new(mem.clone());
        let process = |store: Client, name: &str| {
            Client::new(CheckedProcess::new(store, Arc::clone(&check), name.into()))
        };
        let a = process(Client::new(mem.clone()), "a");
        let b = process(Weaken::StaleReads.wrap(mem.clone()), "b");
        (a, b, check, mem)
    }

    #[tokio::test]
    async fn response_older_than_one_received_before_fails_the_run() {
        let (a, b, check, _) = processes();
        let mut oracle = check.oracle();
        b.get("k").await.unwrap();
        assert_eq!(oracle.check(Instant::now()), None, "nothing newer was received");
        a.put("k", "1").await.unwrap();
        b.range(Range::new("k").serializable()).await.unwrap();
        assert_eq!(oracle.check(Instant::now()), None, "a serializable read may be stale");
        b.get("k").await.unwrap();
        let failure = oracle.check(Instant::now()).expect("the read is stale");
        let text = "linearizability: b received revision 1 for range \"k\", which it sent after a \
                    response of revision 2 had been received";
        assert_eq!(failure.to_string(), text);
    }

    #[tokio::test]
    async fn restored_store_may_respond_with_an_older_revision() {
        let (a, b, check, mem) = processes();
        let backup = mem.backup();
        for value in ["1", "2"] {
            a.put("k", value).await.unwrap();
        }
        mem.restore(&backup);
        check.note_restored();
        b.get("k").await.unwrap();
        assert_eq!(check.oracle().check(Instant::now()), None);
    }
}
