//! How an attempt reads: from what is known, or from the store, all as of one revision.

use bytes::Bytes;

use super::seen::{Seen, Stored, kvs, one, unchanged};
use super::transaction::{Known, Transaction};
use crate::backend::KvBackend;
use crate::error::{Error, Result};
use crate::kv::{KeyRange, KeyValue, Range, Revision, Txn, TxnResponse};

/// Up to how many keys are read again to move the base: beyond it costs more than a conflict.
const READ_AGAIN_MAX: usize = 32;

impl Transaction {
    /// Reads keys that the closure will perhaps ask for.
    pub(super) async fn prefetch(&mut self, keys: &[Bytes]) -> Result<()> {
        self.read(keys).await?;
        self.known.keys = std::mem::take(&mut self.reads);
        Ok(())
    }

    /// Sees to it that these keys have been read.
    pub(super) async fn read(&mut self, keys: &[Bytes]) -> Result<()> {
        let missing = self.unknown(keys);
        if missing.is_empty() {
            Ok(())
        } else if self.may_move_base(&missing) {
            self.read_and_move_base(&missing).await
        } else {
            self.read_at_base(&missing).await
        }
    }

    /// Takes what is known of these keys for read, and tells of which nothing is.
    fn unknown(&mut self, keys: &[Bytes]) -> Vec<Bytes> {
        let mut missing = Vec::new();
        for key in keys {
            if self.reads.contains_key(key) || missing.contains(key) {
                continue;
            }
            match self.known.keys.get(key) {
                Some(seen) => {
                    self.reads.insert(key.clone(), seen.clone());
                }
                None => missing.push(key.clone()),
            }
        }
        missing
    }

    /// Reads keys as of the base, if there is one.
    async fn read_at_base(&mut self, missing: &[Bytes]) -> Result<()> {
        // The base keeps them together.
        for missing in missing.chunks(self.at_once()) {
            let answers = self.ask(missing.iter().map(Range::new).collect()).await?;
            self.reads.extend(pairs(missing, answers));
        }
        Ok(())
    }

    /// Reads the blind writes as of `revision`, which may be older than the snapshot: only the
    /// commit compares them, and neither this attempt nor the next one sees their values.
    pub(super) async fn read_blind_writes(&mut self, revision: Revision) -> Result<()> {
        let mut missing = Vec::new();
        for key in self.writes.keys().filter(|key| !self.reads.contains_key(*key)) {
            match self.known.keys.get(key) {
                // The snapshot does not move before all that is known of it was read.
                Some(seen) => drop(self.blind.insert(key.clone(), seen.clone())),
                None => missing.push(key.clone()),
            }
        }
        for missing in missing.chunks(self.at_once()) {
            let ranges = missing.iter().map(Range::new).collect();
            let (_, answers) = self.ask_as_of(revision, ranges).await?;
            self.blind.extend(pairs(missing, answers));
        }
        Ok(())
    }

    /// How many keys can be read in one request.
    fn at_once(&self) -> usize {
        self.backend.limits().max_txn_ops.max(1)
    }

    /// Whether it can be told in one request that all which has been read is still so.
    fn may_move_base(&self, missing: &[Bytes]) -> bool {
        let known = &self.known.keys;
        let ops_max = self.backend.limits().max_txn_ops.min(READ_AGAIN_MAX);
        self.base.is_some()
            && self.newer.is_none()
            && !self.reads.is_empty()
            && self.ranges.is_empty()
            && self.known.ranges.is_empty()
            && known.keys().all(|key| self.reads.contains_key(key))
            && self.reads.len() + 2 * missing.len() <= ops_max
    }

    /// Reads keys as they are now and moves the base up to now, if what has been read before is
    /// still so. Else reads them as of the base; and also everything as it is now, for it is known
    /// then that this attempt cannot write.
    async fn read_and_move_base(&mut self, missing: &[Bytes]) -> Result<()> {
        if let Some(error) = &self.doom {
            return Err(error.clone());
        }
        let answer = self.ask_whether_unchanged(missing).await;
        let answer = answer.inspect_err(|error| self.doom = Some(error.clone()))?;
        let revision = answer.header.revision;
        let mut seen = answer.responses.into_iter().map(one);
        self.reads.extend(missing.iter().cloned().zip(seen.by_ref()));
        if answer.succeeded {
            self.began_at = self.began_at.or(self.base);
            (self.base, self.read_at) = (Some(revision), revision);
        } else {
            let keys = self.reads.keys().cloned().zip(seen).collect();
            self.newer = Some(Known { revision, keys, ranges: Vec::new() });
        }
        Ok(())
    }

    async fn ask_whether_unchanged(&self, missing: &[Bytes]) -> Result<TxnResponse> {
        let base = self.base.unwrap_or_default();
        let ask = |serializable| {
            let range = |key| Range::new(key);
            let now = missing.iter().map(range);
            let at_base = missing.iter().map(range).map(|range| range.at(base));
            let mut all: Vec<_> = self.reads.keys().chain(missing).collect();
            all.sort_unstable();
            let reads = |range: Range| if serializable { range.serializable() } else { range };
            let unchanged = self.reads.iter().map(unchanged);
            Txn::new()
                .when(unchanged)
                .and_then(now.map(reads))
                .or_else(at_base.chain(all.into_iter().map(range)).map(reads))
        };
        // Any member will do that has got as far as the base.
        match self.backend.txn(ask(true)).await {
            Ok(answer) if answer.header.revision >= base => Ok(answer),
            Ok(_) | Err(Error::FutureRevision { .. }) => self.backend.txn(ask(false)).await,
            Err(error) => Err(error),
        }
    }

    /// The keys of a range as they are in the store.
    pub(super) async fn read_range(&mut self, range: &KeyRange) -> Result<Vec<KeyValue>> {
        let known = self.known.ranges.iter().find(|(known, _)| known == range);
        let found = match known {
            Some((_, found)) => found.clone(),
            None => self.ask(vec![Range::new(range)]).await?.pop().unwrap_or_default(),
        };
        if !self.ranges.contains(range) {
            self.ranges.push(range.clone());
        }
        Ok(found)
    }

    /// Reads, all as of one revision.
    async fn ask(&mut self, ranges: Vec<Range>) -> Result<Vec<Vec<KeyValue>>> {
        if let Some(error) = &self.doom {
            return Err(error.clone());
        }
        let asked = match (self.isolation.is_strong(), self.base) {
            (true, Some(base)) => self.ask_as_of(base, ranges).await,
            (true, None) => send(&*self.backend, ranges).await,
            (false, _) if self.fresh => send(&*self.backend, ranges).await,
            (false, _) => send(&*self.backend, serializable(ranges)).await,
        };
        match asked {
            Ok((revision, found)) => {
                if self.isolation.is_strong() {
                    self.read_at = *self.base.get_or_insert(revision);
                } else {
                    self.read_at = self.read_at.max(revision);
                }
                Ok(found)
            }
            Err(error) => {
                self.doom = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Reads as of the base, from whichever member is asked; if that one has not got so far yet,
    /// from one that has.
    async fn ask_as_of(
        &self,
        base: Revision,
        ranges: Vec<Range>,
    ) -> Result<(Revision, Vec<Vec<KeyValue>>)> {
        let ranges: Vec<_> = ranges.into_iter().map(|range| range.at(base)).collect();
        match send(&*self.backend, serializable(ranges.clone())).await {
            Err(Error::FutureRevision { .. }) => send(&*self.backend, ranges).await,
            answer => answer,
        }
    }
}

/// Each key with what was read of it.
fn pairs(keys: &[Bytes], answers: Vec<Vec<KeyValue>>) -> impl Iterator<Item = (Bytes, Seen)> {
    let seen = answers.into_iter().map(|kvs| kvs.into_iter().next().map(Stored::from));
    keys.iter().cloned().zip(seen)
}

fn serializable(ranges: Vec<Range>) -> Vec<Range> {
    ranges.into_iter().map(Range::serializable).collect()
}

/// Reads in one request.
async fn send(
    backend: &dyn KvBackend,
    mut ranges: Vec<Range>,
) -> Result<(Revision, Vec<Vec<KeyValue>>)> {
    if ranges.len() == 1 {
        let read = backend.range(ranges.remove(0)).await?;
        return Ok((read.header.revision, vec![read.kvs]));
    }
    let read = backend.txn(Txn::new().and_then(ranges)).await?;
    Ok((read.header.revision, read.responses.into_iter().map(kvs).collect()))
}
