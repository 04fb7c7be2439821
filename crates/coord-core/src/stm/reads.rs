//! The reads of an attempt: from prefetched keys, or from the store at the snapshot revision.

use bytes::Bytes;

use super::read_set::{ReadSet, Snapshot, Versioned, kvs, single, unchanged_compare};
use super::transaction::{SnapshotRevision, Transaction, Yielding};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::kv::{KeyRange, KeyValue, Range, Revision, Txn, TxnResponse};

/// The largest number of operations of a snapshot extension. A larger extension costs more than the
/// conflict that it may avoid.
const EXTENSION_OPS_MAX: usize = 32;

/// The revision of the store at a response, and the keys of each range that was read.
type Fetched = (Revision, Vec<Vec<KeyValue>>);

impl Transaction {
    /// Reads keys that the closure may read later. A key enters the read set when the closure reads
    /// it.
    pub(super) async fn prefetch(&mut self, keys: &[Bytes]) -> Result<()> {
        self.yielding = Yielding::No;
        self.read(keys).await?;
        self.prefetched.keys = std::mem::take(&mut self.read_set);
        Ok(())
    }

    /// Reads keys into the read set.
    pub(super) async fn read(&mut self, keys: &[Bytes]) -> Result<()> {
        self.yield_if_contended(keys)?;
        let missing = self.read_prefetched(keys);
        if let Some(at) = self.extendable_from(&missing) {
            return self.read_and_extend(at, &missing).await;
        }
        for missing in missing.chunks(self.keys_per_request()) {
            let read = self.fetch(missing.iter().map(Range::new).collect()).await?;
            self.read_set.extend(to_read_set(missing, read));
        }
        Ok(())
    }

    /// Ends an attempt that has sent no request yet and reads a key whose conflict queue it does
    /// not hold.
    fn yield_if_contended(&mut self, keys: &[Bytes]) -> Result<()> {
        let Yielding::BeforeFirstRequest { held } = &self.yielding else { return Ok(()) };
        let keys = keys.iter().filter(|key| !held.contains(key));
        let contended = self.client.conflict_queues().contended_keys(keys);
        if let Some(key) = contended.first().cloned() {
            self.yielding = Yielding::For(contended);
            self.failure = Some(Error::AttemptYielded { key });
        }
        self.check_failure()
    }

    /// Moves prefetched keys into the read set, and returns the keys that were not prefetched.
    fn read_prefetched(&mut self, keys: &[Bytes]) -> Vec<Bytes> {
        let mut missing = Vec::new();
        for key in keys {
            if self.read_set.contains_key(key) || missing.contains(key) {
                continue;
            }
            match self.prefetched.keys.remove(key) {
                Some(read) => drop(self.read_set.insert(key.clone(), read)),
                None => missing.push(key.clone()),
            }
        }
        missing
    }

    /// Reads the keys of blind writes as of the first snapshot revision, `at`.
    pub(super) async fn read_blind_writes(&mut self, at: Revision, keys: Vec<Bytes>) -> Result<()> {
        let mut missing = Vec::new();
        for key in keys {
            match self.prefetched.keys.remove(&key) {
                // The snapshot is not extended while a prefetched key is unread.
                Some(read) => drop(self.blind_writes.insert(key, read)),
                None => missing.push(key),
            }
        }
        for missing in missing.chunks(self.keys_per_request()) {
            let ranges = missing.iter().map(Range::new).collect();
            let (_, read) = self.fetch_as_of(at, ranges).await?;
            self.blind_writes.extend(to_read_set(missing, read));
        }
        Ok(())
    }

    fn keys_per_request(&self) -> usize {
        self.client.limits().max_txn_ops.max(1)
    }

    /// The snapshot revision, if one request can extend the snapshot and read the `missing` keys.
    ///
    /// A snapshot is not extended while a range, or a prefetched key that was not read yet, belongs
    /// to it: the extension would have to compare it as well.
    fn extendable_from(&self, missing: &[Bytes]) -> Option<Revision> {
        let (SnapshotRevision::At(at) | SnapshotRevision::Extended { at, .. }) = self.snapshot
        else {
            return None;
        };
        let ops_max = self.client.limits().max_txn_ops.min(EXTENSION_OPS_MAX);
        let extendable = !missing.is_empty()
            && !self.read_set.is_empty()
            && self.ranges.is_empty()
            && self.prefetched.keys.is_empty()
            && self.prefetched.ranges.is_empty()
            && self.read_set.len() + 2 * missing.len() <= ops_max;
        extendable.then_some(at)
    }

    /// Extends the snapshot: reads keys at the current revision, which becomes the snapshot
    /// revision, if the read set is unchanged. Otherwise reads them at the old snapshot revision,
    /// and also reads all keys at the current revision for the next attempt, because this attempt
    /// can no longer write.
    async fn read_and_extend(&mut self, at: Revision, missing: &[Bytes]) -> Result<()> {
        self.check_failure()?;
        self.yielding = Yielding::No;
        let response = self.fetch_if_unchanged(at, missing).await;
        let response = response.inspect_err(|error| self.failure = Some(error.clone()))?;
        let revision = response.header.revision;
        let mut read = response.responses.into_iter().map(single);
        self.read_set.extend(missing.iter().cloned().zip(read.by_ref()));
        self.snapshot = if response.succeeded {
            let from = self.snapshot.first().unwrap_or(at);
            SnapshotRevision::Extended { from, at: revision }
        } else {
            let keys = self.read_set.keys().cloned().zip(read).collect();
            let newer = Snapshot { revision, keys, ranges: Vec::new() };
            SnapshotRevision::Stale { at, newer }
        };
        Ok(())
    }

    async fn fetch_if_unchanged(&self, at: Revision, missing: &[Bytes]) -> Result<TxnResponse> {
        let request = |serializable| {
            let range = |key| Range::new(key);
            let current = missing.iter().map(range);
            let at_snapshot = missing.iter().map(range).map(|range| range.at(at));
            let mut all: Vec<_> = self.read_set.keys().chain(missing).collect();
            all.sort_unstable();
            let read = |range: Range| if serializable { range.serializable() } else { range };
            Txn::new()
                .when(self.read_set.iter().map(unchanged_compare))
                .and_then(current.map(read))
                .or_else(at_snapshot.chain(all.into_iter().map(range)).map(read))
        };
        // Any member that has reached the snapshot revision may respond.
        match self.client.txn(request(true)).await {
            Ok(response) if response.header.revision >= at => Ok(response),
            Ok(_) | Err(Error::FutureRevision { .. }) => self.client.txn(request(false)).await,
            Err(error) => Err(error),
        }
    }

    /// Reads the keys of a range, without the writes of this transaction.
    pub(super) async fn read_range(&mut self, range: &KeyRange) -> Result<Vec<KeyValue>> {
        let prefetched = self.prefetched.ranges.iter().find(|(prefetched, _)| prefetched == range);
        let found = match prefetched {
            Some((_, found)) => found.clone(),
            None => self.fetch(vec![Range::new(range)]).await?.pop().unwrap_or_default(),
        };
        if !self.ranges.contains(range) {
            self.ranges.push(range.clone());
        }
        Ok(found)
    }

    /// Sends one request that reads at the snapshot revision. Sets that revision if it is unset.
    async fn fetch(&mut self, ranges: Vec<Range>) -> Result<Vec<Vec<KeyValue>>> {
        self.check_failure()?;
        self.yielding = Yielding::No;
        let response = match self.snapshot.current() {
            Some(at) => self.fetch_as_of(at, ranges).await,
            // A retry at a weak level must not read from the same stale member again: it would
            // conflict until that member has caught up.
            None if self.isolation.is_strong() || self.attempt > 1 => {
                send(&self.client, ranges).await
            }
            None => send(&self.client, serializable(ranges)).await,
        };
        let (revision, found) = response.inspect_err(|error| self.failure = Some(error.clone()))?;
        if !self.isolation.is_strong() {
            self.newest_read = self.newest_read.max(Some(revision));
        } else if self.snapshot.current().is_none() {
            self.snapshot = SnapshotRevision::At(revision);
        }
        Ok(found)
    }

    /// Reads as of a revision, from any member that has reached it.
    async fn fetch_as_of(&self, at: Revision, ranges: Vec<Range>) -> Result<Fetched> {
        let ranges: Vec<_> = ranges.into_iter().map(|range| range.at(at)).collect();
        match send(&self.client, serializable(ranges.clone())).await {
            Err(Error::FutureRevision { .. }) => send(&self.client, ranges).await,
            response => response,
        }
    }

    /// A failed attempt sends no further request.
    fn check_failure(&self) -> Result<()> {
        self.failure.clone().map_or(Ok(()), Err)
    }
}

/// The keys, each with what its read returned.
fn to_read_set(keys: &[Bytes], found: Vec<Vec<KeyValue>>) -> ReadSet {
    let read = found.into_iter().map(|kvs| kvs.into_iter().next().map(Versioned::from));
    keys.iter().cloned().zip(read).collect()
}

fn serializable(ranges: Vec<Range>) -> Vec<Range> {
    ranges.into_iter().map(Range::serializable).collect()
}

/// Reads ranges in one request, all as of one revision.
async fn send(client: &Client, mut ranges: Vec<Range>) -> Result<Fetched> {
    if ranges.len() == 1 {
        let read = client.range(ranges.remove(0)).await?;
        return Ok((read.header.revision, vec![read.kvs]));
    }
    let read = client.txn(Txn::new().and_then(ranges)).await?;
    Ok((read.header.revision, read.responses.into_iter().map(kvs).collect()))
}
