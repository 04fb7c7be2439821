//! A copy of the STM of Go's package over `Client`, with its faults, as a reference for regression
//! tests.
//!
//! It sends the requests of `stm.go` in the same order. Where Go panics on a failed request, this
//! copy returns an error.
//!
//! Source: etcd `client/v3/concurrency/stm.go` at commit 2f59c9f; the facts, not the text.

use std::collections::BTreeMap;

use coord_core::{
    Client, Result,
    kv::{Compare, CompareOp, Delete, KeyValue, Op, Put, Range, Revision, Txn},
    stm::Isolation,
};

type Key = &'static str;

/// A key that was read, and the revision of the read.
#[derive(Clone)]
struct Read {
    at: Revision,
    found: Option<KeyValue>,
}

impl Read {
    fn value(&self) -> String {
        let value = self.found.as_ref().map(|kv| String::from_utf8_lossy(&kv.value).into_owned());
        value.unwrap_or_default()
    }

    fn mod_revision(&self) -> Revision {
        self.found.as_ref().map_or(Revision::ZERO, |kv| kv.mod_revision)
    }
}

/// The type `STM` of Go.
pub(crate) struct GoStm {
    kv: Client,
    isolation: Isolation,
    reads: BTreeMap<Key, Read>,
    writes: BTreeMap<Key, (String, Op)>,
    prefetched: BTreeMap<Key, Read>,
    /// The revision of the first `Get` of the attempt, at the two strong levels.
    snapshot: Option<Revision>,
    pub(crate) attempts: u32,
}

impl GoStm {
    pub(crate) fn new(kv: Client, isolation: Isolation) -> Self {
        let (reads, writes, prefetched) = Default::default();
        Self { kv, isolation, reads, writes, prefetched, snapshot: None, attempts: 0 }
    }

    /// `NewSTM`: retries until the commit succeeds, without backoff and without a limit.
    pub(crate) async fn run<T>(
        &mut self,
        mut apply: impl AsyncFnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        loop {
            self.attempts += 1;
            (self.reads, self.writes) = Default::default();
            let value = apply(self).await?;
            if self.commit().await? {
                return Ok(value);
            }
        }
    }

    /// `Get`: returns one value, whatever the number of keys.
    pub(crate) async fn get(&mut self, keys: &[Key]) -> Result<String> {
        if let Some((value, _)) = keys.iter().find_map(|key| self.writes.get(key)) {
            return Ok(value.clone());
        }
        let first = self.reads.is_empty();
        for key in keys {
            if let Some(read) = self.prefetched.remove(key) {
                self.reads.insert(key, read);
            }
        }
        let read = self.fetch(keys).await?;
        if first && self.is_strong() {
            self.snapshot = Some(read.at);
        }
        Ok(read.value())
    }

    /// `Rev`
    pub(crate) async fn revision_of(&mut self, key: Key) -> Result<Revision> {
        if self.is_strong() {
            self.get(&[key]).await?;
        }
        Ok(self.fetch(&[key]).await?.mod_revision())
    }

    /// `Put`
    pub(crate) fn put(&mut self, key: Key, value: &str) {
        self.writes.insert(key, (value.to_owned(), Op::Put(Put::new(key, value.to_owned()))));
    }

    /// `Del`
    pub(crate) fn delete(&mut self, key: Key) {
        self.writes.insert(key, (String::new(), Op::Delete(Delete::new(key))));
    }

    fn is_strong(&self) -> bool {
        matches!(self.isolation, Isolation::SerializableSnapshot | Isolation::Serializable)
    }

    async fn fetch(&mut self, keys: &[Key]) -> Result<Read> {
        if let Some(read) = keys.iter().find_map(|key| self.reads.get(key)) {
            return Ok(read.clone());
        }
        let range = |key: &Key| match self.snapshot {
            Some(snapshot) => Range::new(*key).at(snapshot).serializable(),
            None if self.is_strong() => Range::new(*key),
            None => Range::new(*key).serializable(),
        };
        let response = self.kv.txn(Txn::new().and_then(keys.iter().map(range))).await?;
        for (key, read) in keys.iter().zip(&response.responses) {
            let read = read.as_range().expect("every operation is a range");
            let found = read.kvs.first().cloned();
            self.reads.insert(key, Read { at: read.header.revision, found });
        }
        Ok(self.reads[keys[0]].clone())
    }

    async fn commit(&mut self) -> Result<bool> {
        let mut commit = Txn::new().and_then(self.writes.values().map(|(_, op)| op.clone()));
        if self.isolation != Isolation::ReadCommitted {
            let same = |(key, read): (&Key, &Read)| {
                Compare::mod_revision(*key, CompareOp::Equal, read.mod_revision())
            };
            commit = commit.when(self.reads.iter().map(same));
        }
        if self.isolation == Isolation::SerializableSnapshot {
            let first = self.reads.values().map(|read| read.at).min();
            let next = first.map_or(Revision(i64::MAX), Revision::next);
            let unseen = |key: &Key| Compare::mod_revision(*key, CompareOp::Less, next);
            commit = commit.when(self.writes.keys().map(unseen));
        }
        if self.is_strong() {
            commit = commit.or_else(self.reads.keys().map(|key| Range::new(*key)));
        }
        let response = self.kv.txn(commit).await?;
        if !response.succeeded && self.is_strong() {
            let reads = response.responses.iter().map(|response| response.as_range());
            let reads = reads.map(|read| read.expect("every operation is a range"));
            let read = |read: &coord_core::kv::RangeResponse| Read {
                at: read.header.revision,
                found: read.kvs.first().cloned(),
            };
            let keys = std::mem::take(&mut self.reads).into_keys();
            self.prefetched = keys.zip(reads.map(read)).collect();
            self.snapshot = None;
        }
        Ok(response.succeeded)
    }
}
