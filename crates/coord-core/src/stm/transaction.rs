//! One attempt of a transaction, as the closure sees it: its reads and its write set.
//!
//! No key is written before the commit. A read returns the key from the first of these that has it:
//! the write set, the read set, the prefetched keys, the store. The prefetched keys are the keys of
//! [`Stm::prefetch`], the keys that an earlier attempt has read, the response to a failed commit,
//! or a post-image of a conflict queue.
//!
//! At the two strong levels all reads of an attempt are as of one *snapshot revision*. The first
//! read sets it to the current revision. A later read *extends* the snapshot to the current
//! revision if the whole read set is unchanged, because otherwise the attempt could miss a change
//! of the key that it reads next. If the read set has changed, the attempt continues to read at the
//! old snapshot: a read-only attempt still succeeds.
//!
//! ```text
//! get x           linearizable: x at revision 17, the snapshot revision
//!                                            another client puts y at 18
//! get y           serializable, if x is unchanged: it is, so the snapshot is extended: y at 18
//!                                            another client puts y and z at 19
//! get z           y has changed: z at 18; x, y and z at 19 for the next attempt
//! put x, get x    from the write set
//! commit          nothing is sent; the next attempt starts with x, y and z at 19
//! ```
//!
//! This is the lazy snapshot algorithm, with old versions for read-only attempts. Source: Riegel,
//! Felber, Fetzer: A Lazy Snapshot Algorithm with Eager Validation, DISC 2006.
//!
//! [`Stm::prefetch`]: super::Stm::prefetch

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::Isolation;
use super::read_set::{ReadSet, Snapshot, mod_revision};
use super::record::Recording;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::kv::{IntoBytes, KeyRange, Put, Revision, Value};

/// What a transaction writes to a key.
#[derive(Clone, Debug)]
pub(super) enum Write {
    Put(Put),
    Delete,
}

/// The revision of the reads of an attempt.
#[derive(Clone, Debug)]
pub(super) enum SnapshotRevision {
    /// No key was read yet. At the weak levels always, because their reads share no revision.
    Unset,
    /// All reads are as of this revision.
    At(Revision),
    /// The snapshot was extended: all reads are as of `at`, and the first read was as of `from`.
    Extended { from: Revision, at: Revision },
    /// The read set has changed since `at`. Reads continue as of `at`, but the attempt cannot
    /// commit writes. The next attempt starts with `newer`, the read set as of a later revision.
    Stale { at: Revision, newer: Snapshot },
}

/// Whether an attempt yields to the conflict queues of the keys that it reads.
#[derive(Clone, Debug)]
pub(super) enum Yielding {
    /// The attempt does not yield: it has sent a request, its transaction has yielded often enough,
    /// or its isolation level is `ReadCommitted`.
    No,
    /// The attempt has sent no request, so it can start again without cost. It holds these queues.
    BeforeFirstRequest { held: Vec<Bytes> },
    /// The attempt has ended, because other transactions hold or wait for the queues of these keys.
    For(Vec<Bytes>),
}

/// One attempt of a transaction, as the closure sees it.
///
/// Return the error of a read with `?`. An attempt with a failed read never commits, whatever its
/// closure returns.
#[derive(Debug)]
pub struct Transaction {
    pub(super) client: Client,
    pub(super) isolation: Isolation,
    /// The number of this attempt, from 1.
    pub(super) attempt: u32,
    pub(super) yielding: Yielding,
    pub(super) snapshot: SnapshotRevision,
    /// The newest revision of a read at the weak levels.
    pub(super) newest_read: Option<Revision>,
    /// Keys that the next reads return without a request; at the strong levels as of the snapshot
    /// revision. A key that is read moves to the read set.
    pub(super) prefetched: Snapshot,
    pub(super) read_set: ReadSet,
    pub(super) ranges: Vec<KeyRange>,
    /// The keys of blind writes as of the first snapshot revision. Only the commit compares them:
    /// the snapshot may have been extended since, so the closure must not see them.
    pub(super) blind_writes: ReadSet,
    pub(super) write_set: BTreeMap<Bytes, Write>,
    /// The first error. The attempt cannot commit after it.
    pub(super) failure: Option<Error>,
    /// The record of this attempt, if the client has a recorder. It is made by `drop`.
    pub(super) recording: Option<Box<Recording>>,
}

impl SnapshotRevision {
    /// The revision of the next read.
    pub(super) const fn current(&self) -> Option<Revision> {
        match self {
            Self::Unset => None,
            Self::At(at) | Self::Extended { at, .. } | Self::Stale { at, .. } => Some(*at),
        }
    }

    /// The revision of the first read, while the attempt can commit writes.
    pub(super) const fn first(&self) -> Option<Revision> {
        match self {
            Self::Unset | Self::Stale { .. } => None,
            Self::At(first) | Self::Extended { from: first, .. } => Some(*first),
        }
    }
}

impl Transaction {
    /// Attempt number `attempt` of a transaction. It starts with `start` instead of reading.
    pub(super) fn new(
        client: Client,
        isolation: Isolation,
        attempt: u32,
        yielding: Yielding,
        start: Option<Snapshot>,
    ) -> Self {
        let newest_read = start.as_ref().map(|start| start.revision);
        Self {
            client,
            isolation,
            attempt,
            yielding,
            snapshot: match newest_read {
                Some(revision) if isolation.is_strong() => SnapshotRevision::At(revision),
                _ => SnapshotRevision::Unset,
            },
            newest_read,
            prefetched: start.unwrap_or_default(),
            read_set: ReadSet::new(),
            ranges: Vec::new(),
            blind_writes: ReadSet::new(),
            write_set: BTreeMap::new(),
            failure: None,
            recording: None,
        }
    }

    /// Reads a key; `None` if it does not exist.
    ///
    /// # Errors
    /// The error of the backend. The attempt ends. It is retried if the error is retryable, or if
    /// the snapshot revision was compacted.
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    pub async fn get(&mut self, key: impl IntoBytes + Send) -> Result<Option<Bytes>> {
        let key = key.into_bytes();
        if self.written_value(&key).is_none() {
            self.read(std::slice::from_ref(&key)).await?;
        }
        Ok(self.value(&key))
    }

    /// Reads several keys. The values are in the order of the keys.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    pub async fn get_many<K: IntoBytes>(
        &mut self,
        keys: impl IntoIterator<Item = K> + Send,
    ) -> Result<Vec<Option<Bytes>>> {
        let keys: Vec<_> = keys.into_iter().map(IntoBytes::into_bytes).collect();
        let unwritten: Vec<_> =
            keys.iter().filter(|key| self.written_value(key).is_none()).cloned().collect();
        self.read(&unwritten).await?;
        Ok(keys.iter().map(|key| self.value(key)).collect())
    }

    /// Reads the keys of a range and their values, in key order, with the writes of this
    /// transaction applied.
    ///
    /// At the strong levels the transaction conflicts if a key in the range is created, deleted or
    /// changed before the commit. The range, and each key in it, counts against the backend's limit
    /// of operations.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    pub async fn range(&mut self, keys: impl Into<KeyRange>) -> Result<Vec<(Bytes, Bytes)>> {
        let range = keys.into();
        for kv in self.read_range(&range).await? {
            // A key that was read before keeps the value of that read.
            self.read_set.entry(kv.key.clone()).or_insert_with(|| Some(kv.into()));
        }
        self.note_range(&range);
        let keys = self.read_set.keys().chain(self.write_set.keys());
        let keys: BTreeSet<_> = keys.filter(|key| range.contains(key)).collect();
        Ok(keys.into_iter().filter_map(|key| Some((key.clone(), self.value(key)?))).collect())
    }

    /// Reads a key and returns its mod revision in the store, also if this transaction has written
    /// the key; `None` if it does not exist there.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    pub async fn revision_of(&mut self, key: impl IntoBytes + Send) -> Result<Option<Revision>> {
        let key = key.into_bytes();
        self.read(std::slice::from_ref(&key)).await?;
        Ok(self.read_set.get(&key).and_then(mod_revision))
    }

    /// Sets a key, without a lease.
    pub fn put(&mut self, key: impl IntoBytes, value: impl IntoBytes) {
        self.put_with(Put::new(key, value));
    }

    /// Sets a key, with all options of a [`Put`] except `prev_kv`, which is ignored.
    ///
    /// A put with `ignore_value` or `ignore_lease` keeps what an earlier put of this transaction
    /// has set. After a delete in this transaction it fails the attempt with `KeyNotFound`.
    pub fn put_with(&mut self, mut put: Put) {
        put.prev_kv = false;
        match self.write_set.get(&put.key) {
            Some(Write::Put(earlier)) => {
                if put.ignore_value && put.value.is_empty() {
                    (put.value, put.ignore_value) = (earlier.value.clone(), earlier.ignore_value);
                }
                if put.ignore_lease && put.lease.is_none() {
                    (put.lease, put.ignore_lease) = (earlier.lease, earlier.ignore_lease);
                }
            }
            Some(Write::Delete) if put.ignore_value || put.ignore_lease => {
                self.failure.get_or_insert(Error::KeyNotFound { key: Some(put.key.clone()) });
            }
            Some(Write::Delete) | None => {}
        }
        self.write_set.insert(put.key.clone(), Write::Put(put));
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: impl IntoBytes) {
        self.write_set.insert(key.into_bytes(), Write::Delete);
    }

    /// Reads a range and deletes each key in it. Returns the number of keys.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Cancel safety
    /// If the future is dropped, the attempt deletes no key of the range.
    pub async fn delete_range(&mut self, keys: impl Into<KeyRange>) -> Result<usize> {
        let found = self.range(keys.into()).await?;
        for (key, _) in &found {
            self.delete(key);
        }
        Ok(found.len())
    }

    /// Reads a key and decodes its value; `None` if the key does not exist.
    ///
    /// # Errors
    /// As [`get`](Self::get), and `InvalidValue` if the bytes cannot be decoded.
    ///
    /// # Cancel safety
    /// Safe: a read changes nothing.
    pub async fn get_as<V: Value>(&mut self, key: impl IntoBytes + Send) -> Result<Option<V>> {
        let key = key.into_bytes();
        let decode = |bytes| V::decode(bytes).map_err(|error| invalid(&key, error));
        self.get(&key).await?.map(decode).transpose()
    }

    /// Encodes a value and sets a key to it, without a lease.
    ///
    /// # Errors
    /// `InvalidValue` if the value cannot be encoded. The key is not set.
    pub fn put_as<V: Value>(&mut self, key: impl IntoBytes, value: &V) -> Result<()> {
        let key = key.into_bytes();
        let value = value.encode().map_err(|error| invalid(&key, error))?;
        self.put(key, value);
        Ok(())
    }

    /// The read set as a snapshot that the next attempt can start with. At the weak levels there is
    /// none.
    pub(super) fn take_read_set(&mut self) -> Option<Snapshot> {
        let revision = self.snapshot.current()?;
        let keys = match self.recording {
            Some(_) => self.read_set.clone(),
            None => std::mem::take(&mut self.read_set),
        };
        Some(Snapshot { revision, keys, ranges: Vec::new() })
    }

    /// The value of a key in the write set; `None` if the transaction has not set its value.
    fn written_value(&self, key: &Bytes) -> Option<Option<Bytes>> {
        match self.write_set.get(key)? {
            Write::Put(put) if put.ignore_value => None,
            Write::Put(put) => Some(Some(put.value.clone())),
            Write::Delete => Some(None),
        }
    }

    /// The value of a key in the write set, otherwise in the read set.
    fn value(&self, key: &Bytes) -> Option<Bytes> {
        let read = || self.read_set.get(key)?.as_ref().map(|versioned| versioned.value.clone());
        self.written_value(key).unwrap_or_else(read)
    }
}

/// The error of a value of `key` that cannot be encoded or decoded.
pub(crate) fn invalid(key: &Bytes, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidValue { key: key.clone(), source: Arc::new(error) }
}
