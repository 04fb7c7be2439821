//! One attempt of a transaction: what it has read, and what it is going to write.
//!
//! Nothing is written before the commit. A read asks, in this order: what this attempt writes, what
//! it has read, what the last failed commit brought along, the store. At the two strong levels the
//! closure sees the store as it was at one revision, the *base* of the attempt. The first read of
//! all takes the newest there is. A later one moves it up to now, if all that was read before is
//! still so, for that saves the attempt if what it reads next has changed meanwhile; else it reads
//! as of the base, and whoever only reads is done with that:
//!
//! ```text
//! get x            asks a majority: x as of 17, which is the base
//!                                            y is put at 18
//! get y            asks any member: is x as it was? It is, and y as of 18; the base is 18
//!                                            y and z are put at 19
//! get z            y is not as it was. z as of 18; and besides, x, y and z as of 19
//! put x, get x     its own
//! commit           nothing to ask: the next attempt begins with x, y and z as of 19
//! ```
//!
//! This is the lazy snapshot algorithm, with old versions for those who only read. Source: Riegel,
//! Felber, Fetzer: A Lazy Snapshot Algorithm with Eager Validation, DISC 2006.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::seen::{Seen, modified};
use super::{Isolation, Value};
use crate::backend::KvBackend;
use crate::error::{Error, Result};
use crate::kv::{IntoBytes, KeyRange, KeyValue, Put, Revision};

/// What a transaction does to a key.
#[derive(Clone, Debug)]
pub(super) enum Write {
    Put(Put),
    Delete,
}

/// What is known of the store before an attempt begins: all of it as of one revision.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) revision: Revision,
    pub(super) keys: BTreeMap<Bytes, Seen>,
    pub(super) ranges: Vec<(KeyRange, Vec<KeyValue>)>,
}

/// One attempt of a transaction, as the closure sees it.
///
/// Reads may fail; hand the error on with `?`. Whatever the closure then returns, the attempt does
/// not commit.
pub struct Transaction {
    pub(super) backend: Arc<dyn KvBackend>,
    pub(super) isolation: Isolation,
    /// Whether this is another attempt: its reads ask a majority although the level may not, for
    /// what a member that lags behind says would only conflict again.
    pub(super) fresh: bool,
    pub(super) known: Known,
    /// At the strong levels, the revision that all reads are as of.
    pub(super) base: Option<Revision>,
    /// The first base, if it has moved.
    pub(super) began_at: Option<Revision>,
    pub(super) reads: BTreeMap<Bytes, Seen>,
    pub(super) ranges: Vec<KeyRange>,
    /// The keys that are written unread, as of the first base: compared by the commit, and never
    /// shown to the closure, for the base may have moved since.
    pub(super) blind: BTreeMap<Bytes, Seen>,
    pub(super) writes: BTreeMap<Bytes, Write>,
    /// The newest revision that anything was read at.
    pub(super) read_at: Revision,
    /// What is known since it is known that something which was read has changed.
    pub(super) newer: Option<Known>,
    /// Why this attempt cannot commit, if it cannot.
    pub(super) doom: Option<Error>,
}

impl Transaction {
    pub(super) fn new(
        backend: Arc<dyn KvBackend>,
        isolation: Isolation,
        known: Option<Known>,
        fresh: bool,
    ) -> Self {
        let known = known.unwrap_or_default();
        let base =
            (isolation.is_strong() && known.revision != Revision::ZERO).then_some(known.revision);
        Self {
            backend,
            isolation,
            fresh,
            read_at: known.revision,
            known,
            base,
            began_at: None,
            reads: BTreeMap::new(),
            ranges: Vec::new(),
            blind: BTreeMap::new(),
            writes: BTreeMap::new(),
            newer: None,
            doom: None,
        }
    }

    /// The value of a key; `None` if it is not there.
    ///
    /// # Errors
    /// What the backend answered. The attempt is over; if another can help, there is one.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn get(&mut self, key: impl IntoBytes + Send) -> Result<Option<Bytes>> {
        let key = key.into_bytes();
        if let Some(value) = self.written(&key) {
            return Ok(value);
        }
        self.read(std::slice::from_ref(&key)).await?;
        Ok(self.seen(&key))
    }

    /// The values of some keys, in the order of the keys: one request for all that have not been
    /// read before.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn get_many<K: IntoBytes>(
        &mut self,
        keys: impl IntoIterator<Item = K> + Send,
    ) -> Result<Vec<Option<Bytes>>> {
        let keys: Vec<_> = keys.into_iter().map(IntoBytes::into_bytes).collect();
        let unwritten: Vec<_> =
            keys.iter().filter(|key| self.written(key).is_none()).cloned().collect();
        self.read(&unwritten).await?;
        let value = |key| self.written(key).unwrap_or_else(|| self.seen(key));
        Ok(keys.iter().map(value).collect())
    }

    /// The keys of a range with their values, in key order, with what this transaction has written.
    ///
    /// At the strong levels the transaction commits only if by then no key has come into the range,
    /// gone from it, or changed in it. Each key of it counts against the backend's limit of
    /// operations, and so does the range.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn range(&mut self, keys: impl Into<KeyRange>) -> Result<Vec<(Bytes, Bytes)>> {
        let range = keys.into();
        for kv in self.read_range(&range).await? {
            // A key that was read before stays as it was read.
            self.reads.entry(kv.key.clone()).or_insert_with(|| Some(kv.into()));
        }
        let read = self.reads.iter().filter(|(key, _)| range.contains(key));
        let mut found: BTreeMap<_, _> = read
            .filter_map(|(key, seen)| Some((key.clone(), seen.as_ref()?.value.clone())))
            .collect();
        for (key, write) in &self.writes {
            match write {
                Write::Put(put) if range.contains(key) && !put.ignore_value => {
                    found.insert(key.clone(), put.value.clone());
                }
                Write::Put(_) => {}
                Write::Delete => {
                    found.remove(key);
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The revision that last changed the key in the store, whatever this transaction does to it;
    /// zero if it is not there. This reads the key.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn revision_of(&mut self, key: impl IntoBytes + Send) -> Result<Revision> {
        let key = key.into_bytes();
        self.read(std::slice::from_ref(&key)).await?;
        Ok(self.reads.get(&key).map_or(Revision::ZERO, modified))
    }

    /// Sets a key, on no lease.
    pub fn put(&mut self, key: impl IntoBytes, value: impl IntoBytes) {
        self.put_with(Put::new(key, value));
    }

    /// Sets a key, with everything that a [`Put`] can say but `prev_kv`, which has no reader here.
    ///
    /// A put that keeps the value, or the lease, keeps what this transaction has put before. If it
    /// has deleted the key, there is nothing to keep: it fails with `KeyNotFound`.
    pub fn put_with(&mut self, mut put: Put) {
        put.prev_kv = false;
        match self.writes.get(&put.key) {
            Some(Write::Put(before)) => {
                if put.ignore_value && put.value.is_empty() {
                    (put.value, put.ignore_value) = (before.value.clone(), before.ignore_value);
                }
                if put.ignore_lease && put.lease.is_none() {
                    (put.lease, put.ignore_lease) = (before.lease, before.ignore_lease);
                }
            }
            Some(Write::Delete) if put.ignore_value || put.ignore_lease => {
                self.doom.get_or_insert(Error::KeyNotFound { key: Some(put.key.clone()) });
            }
            Some(Write::Delete) | None => {}
        }
        self.writes.insert(put.key.clone(), Write::Put(put));
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: impl IntoBytes) {
        self.writes.insert(key.into_bytes(), Write::Delete);
    }

    /// Deletes the keys of a range: reads it, and deletes each. Returns how many there were.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Safe: some of the keys may be marked as deleted in this attempt.
    pub async fn delete_range(&mut self, keys: impl Into<KeyRange>) -> Result<usize> {
        let found = self.range(keys.into()).await?;
        for (key, _) in &found {
            self.delete(key);
        }
        Ok(found.len())
    }

    /// The value of a key as a type; `None` if the key is not there.
    ///
    /// # Errors
    /// As [`get`](Self::get), and `InvalidValue` if the bytes stand for no such value.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn get_as<V: Value>(&mut self, key: impl IntoBytes + Send) -> Result<Option<V>> {
        let key = key.into_bytes();
        let decode = |bytes| V::decode(bytes).map_err(|error| invalid(&key, error));
        self.get(&key).await?.map(decode).transpose()
    }

    /// Sets a key to a value of a type, on no lease.
    ///
    /// # Errors
    /// `InvalidValue` if the value cannot be written. The key is not set.
    pub fn put_as<V: Value>(&mut self, key: impl IntoBytes, value: &V) -> Result<()> {
        let key = key.into_bytes();
        let value = value.encode().map_err(|error| invalid(&key, error))?;
        self.put(key, value);
        Ok(())
    }

    /// What the next attempt need not read: all that was read as of one revision. At the weak
    /// levels the reads have no revision in common.
    pub(super) fn seen_so_far(&mut self) -> Option<Known> {
        let revision = self.base?;
        Some(Known { revision, keys: std::mem::take(&mut self.reads), ranges: Vec::new() })
    }

    /// Whether nothing was known of the store when the attempt began.
    pub(super) fn knows_nothing(&self) -> bool {
        self.known.revision == Revision::ZERO
    }

    /// What this transaction has made of a key, if anything that a read would see.
    fn written(&self, key: &Bytes) -> Option<Option<Bytes>> {
        match self.writes.get(key)? {
            Write::Put(put) if put.ignore_value => None,
            Write::Put(put) => Some(Some(put.value.clone())),
            Write::Delete => Some(None),
        }
    }

    fn seen(&self, key: &Bytes) -> Option<Bytes> {
        self.reads.get(key)?.as_ref().map(|stored| stored.value.clone())
    }
}

fn invalid(key: &Bytes, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidValue { key: key.clone(), source: Arc::new(error) }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("isolation", &self.isolation)
            .field("base", &self.base)
            .field("reads", &self.reads)
            .field("ranges", &self.ranges)
            .field("writes", &self.writes)
            .finish_non_exhaustive()
    }
}
