//! How an attempt reads: from what is known, or from the store, all as of one revision.

use bytes::Bytes;

use super::transaction::{Stored, Transaction};
use super::turns::latest;
use crate::backend::KvBackend;
use crate::error::{Error, Result};
use crate::kv::{KeyRange, KeyValue, OpResponse, Range, Revision, Txn};

impl Transaction {
    /// Reads keys that the closure will perhaps ask for.
    pub(super) async fn prefetch(&mut self, keys: &[Bytes]) -> Result<()> {
        self.read(keys).await?;
        self.known.keys = std::mem::take(&mut self.reads);
        Ok(())
    }

    /// Sees to it that these keys have been read.
    pub(super) async fn read(&mut self, keys: &[Bytes]) -> Result<()> {
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
        if !missing.is_empty() && self.begin_with_latest(&missing) {
            return Box::pin(self.read(keys)).await;
        }
        // More than a transaction can read are read in several; the base keeps them together.
        let at_once = self.backend.limits().max_txn_ops.max(1);
        for missing in missing.chunks(at_once) {
            let ranges = missing.iter().map(Range::new).collect();
            let answers = self.ask(ranges).await?;
            for (key, kvs) in missing.iter().zip(answers) {
                self.reads.insert(key.clone(), kvs.into_iter().next().map(Stored::from));
            }
        }
        Ok(())
    }

    /// Takes what was handed on last in this process for what is known, if this would be the first
    /// read.
    fn begin_with_latest(&mut self, keys: &[Bytes]) -> bool {
        if self.fresh || self.base.is_some() || !self.isolation.is_strong() {
            return false;
        }
        let Some(latest) = latest(&self.backend, keys) else { return false };
        (self.base, self.read_at) = (Some(latest.revision), latest.revision);
        self.known = latest;
        self.unconfirmed = true;
        true
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

/// What a range among the steps of a transaction found.
pub(super) fn kvs(response: OpResponse) -> Vec<KeyValue> {
    match response {
        OpResponse::Range(read) => read.kvs,
        other => unreachable!("a range was answered with {other:?}"),
    }
}
