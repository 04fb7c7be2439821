//! The `raw-*` workloads: single requests, the baseline for the primitives.
//!
//! Each worker cycles over its own keys, so that workers do not contend.

use std::num::NonZeroUsize;

use anyhow::{Result, ensure};
use bytes::Bytes;
use coord_core::{
    Client,
    kv::{Compare, CompareOp, Op, Put, Range, Revision, Txn},
};
use serde_json::json;
use tokio::time::Instant;

use super::{ReportFields, Worker, Workload};
use crate::bench::samples::Samples;
use crate::bench::store::Store;

/// How many keys one transaction of the setup puts: fewer than 128 operations, etcd's default limit
/// of a transaction.
const KEYS_PER_SETUP_TXN: usize = 100;

/// The request to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RawRequest {
    Put,
    Get,
    /// A serializable read, which any member serves from its own state.
    GetStale,
    /// A transaction that puts and reads a key if it exists.
    Txn,
}

impl RawRequest {
    /// The name of the latency series.
    const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::GetStale => "get-stale",
            Self::Txn => "txn",
        }
    }
}

/// Sends one kind of request.
#[derive(Debug)]
pub(crate) struct RawWorkload {
    pub(crate) request: RawRequest,
    /// The number of keys of each worker.
    pub(crate) keys: NonZeroUsize,
    /// The size of the values in bytes.
    pub(crate) val_size: usize,
}

pub(crate) struct RawWorker {
    client: Client,
    request: RawRequest,
    keys: std::iter::Cycle<std::vec::IntoIter<Bytes>>,
    value: Bytes,
}

impl Workload for RawWorkload {
    type Worker = RawWorker;

    async fn worker(&self, store: &Store, number: usize) -> Result<RawWorker> {
        let client = store.connection(number).clone();
        let keys = (0..self.keys.get()).map(|i| Bytes::from(store.key(&format!("{number}/{i}"))));
        let keys: Vec<Bytes> = keys.collect();
        let value = Bytes::from(vec![b'v'; self.val_size]);
        for batch in keys.chunks(KEYS_PER_SETUP_TXN) {
            let puts = batch.iter().map(|key| Put::new(key.clone(), value.clone()));
            client.txn(Txn::new().and_then(puts)).await?;
        }
        Ok(RawWorker { client, request: self.request, keys: keys.into_iter().cycle(), value })
    }

    async fn check(&self, _: &Store, _: u64) -> Result<ReportFields> {
        let fields = [
            ("val_size".to_owned(), json!(self.val_size)),
            ("keys_per_worker".to_owned(), json!(self.keys)),
        ];
        Ok(fields.into_iter().collect())
    }
}

impl Worker for RawWorker {
    async fn step(&mut self, samples: &mut Samples) -> Result<()> {
        let key = self.keys.next().expect("a cycle over at least one key");
        let start = Instant::now();
        match self.request {
            RawRequest::Put => {
                self.client.put(key, self.value.clone()).await?;
            }
            RawRequest::Get => {
                self.client.get(key).await?;
            }
            RawRequest::GetStale => {
                self.client.range(Range::new(key).serializable()).await?;
            }
            RawRequest::Txn => {
                let read = Range::new(key.clone());
                let put = Put::new(key.clone(), self.value.clone());
                let exists = Compare::create_revision(key, CompareOp::Greater, Revision::ZERO);
                let txn = Txn::new()
                    .when([exists])
                    .and_then([Op::Put(put), Op::Range(read.clone())])
                    .or_else([read]);
                ensure!(self.client.txn(txn).await?.succeeded, "a key that was put does not exist");
            }
        }
        samples.add(self.request.name(), start.elapsed());
        Ok(())
    }

    async fn tear_down(self) -> Result<()> {
        Ok(())
    }
}
