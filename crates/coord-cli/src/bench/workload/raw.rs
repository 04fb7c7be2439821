//! `raw-*`: single calls, which are what everything else is made of and measured by.
//!
//! Each worker cycles over keys of its own, so that no two of them meet.

use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Result, ensure};
use bytes::Bytes;
use coord_core::{
    Client, KvBackend,
    kv::{Compare, CompareOp, Op, Put, Range, Revision, Txn},
};
use serde_json::json;
use tokio::time::Instant;

use super::{Facts, Worker, Workload};
use crate::bench::notes::Notes;
use crate::bench::store::Store;

/// Keys that are put in one transaction when they are set up: below etcd's limit of 128.
const BATCH: usize = 100;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    Put,
    Get,
    /// A serializable read: whichever member is asked answers from what it has.
    GetStale,
    /// If the key exists, put it and read it.
    Txn,
}

impl Call {
    const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::GetStale => "get-stale",
            Self::Txn => "txn",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) call: Call,
    /// For each worker.
    pub(crate) keys: NonZeroUsize,
    /// In bytes.
    pub(crate) val_size: usize,
}

pub(crate) struct Caller {
    kv: Arc<dyn KvBackend>,
    call: Call,
    keys: std::iter::Cycle<std::vec::IntoIter<Bytes>>,
    value: Bytes,
}

impl Workload for Raw {
    type Worker = Caller;

    async fn worker(&self, store: &Store, number: usize) -> Result<Caller> {
        let kv = Arc::clone(store.of_worker(number));
        let keys = (0..self.keys.get()).map(|i| Bytes::from(store.key(&format!("{number}/{i}"))));
        let keys: Vec<Bytes> = keys.collect();
        let value = Bytes::from(vec![b'v'; self.val_size]);
        for batch in keys.chunks(BATCH) {
            let puts = batch.iter().map(|key| Put::new(key.clone(), value.clone()));
            kv.txn(Txn::new().and_then(puts)).await?;
        }
        Ok(Caller { kv, call: self.call, keys: keys.into_iter().cycle(), value })
    }

    async fn judged(&self, _: &Store, _: u64) -> Result<Facts> {
        let facts = [
            ("val_size".to_owned(), json!(self.val_size)),
            ("keys_per_worker".to_owned(), json!(self.keys)),
        ];
        Ok(facts.into_iter().collect())
    }
}

impl Worker for Caller {
    async fn step(&mut self, notes: &mut Notes) -> Result<()> {
        let key = self.keys.next().expect("there is at least one key, again and again");
        let begun = Instant::now();
        match self.call {
            Call::Put => {
                self.kv.put(key, self.value.clone()).await?;
            }
            Call::Get => {
                self.kv.get(key).await?;
            }
            Call::GetStale => {
                self.kv.range(Range::new(key).serializable()).await?;
            }
            Call::Txn => {
                let read = Range::new(key.clone());
                let put = Put::new(key.clone(), self.value.clone());
                let exists = Compare::create_revision(key, CompareOp::Greater, Revision::ZERO);
                let txn = Txn::new()
                    .when([exists])
                    .and_then([Op::Put(put), Op::Range(read.clone())])
                    .or_else([read]);
                ensure!(self.kv.txn(txn).await?.succeeded, "a key that was put does not exist");
            }
        }
        notes.add(self.call.name(), begun.elapsed());
        Ok(())
    }

    async fn leave(self) -> Result<()> {
        Ok(())
    }
}
