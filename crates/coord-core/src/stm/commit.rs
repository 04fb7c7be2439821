//! What is sent to commit an attempt, and what the answer tells.
//!
//! One transaction: *if* nothing that was read has changed, *then* the writes, *else* read again
//! all that was read. So a conflict costs one request, and brings what the next attempt needs, as
//! of one revision. "Nothing has changed" is, at the strong levels:
//!
//! - each key that was read was last changed when it was seen to be, or is still not there;
//! - in each range that was read nothing has been changed since the base. That catches what came
//!   and what changed; what went is caught by its own key, above;
//! - at `SerializableSnapshot`, each key that is written unread has not been changed since the
//!   first base either: it is read before the commit, as of that, for only so is a deletion seen.
//!
//! A transaction that only reads has at the strong levels seen the store as it was at its base, and
//! that is all there is to it: nothing is sent.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::error::Conflict;
use super::seen::{Seen, Stored, kvs, modified, one, unchanged};
use super::transaction::{Known, Transaction, Write};
use super::turns::Ticket;
use super::{Isolation, Slot};
use crate::error::{Error, Result};
use crate::kv::{
    Compare, CompareOp, Delete, LeaseId, Op, OpResponse, Range, Revision, Txn, TxnResponse,
};

impl Transaction {
    /// Checks that the attempt can commit, and reads what has to be compared though the closure
    /// did not ask for it.
    pub(super) async fn prepare(&mut self, marked: bool) -> Result<()> {
        if let Some(error) = self.doom.take() {
            return Err(error);
        }
        if self.is_settled() || self.newer.is_some() {
            return Ok(());
        }
        self.check_size(marked)?;
        match self.began_at.or(self.base) {
            Some(began_at) if self.isolation == Isolation::SerializableSnapshot => {
                self.read_blind_writes(began_at).await
            }
            _ => Ok(()),
        }
    }

    /// Whether the commit will have no more operations than the backend takes.
    fn check_size(&self, marked: bool) -> Result<()> {
        let read = match self.isolation {
            Isolation::ReadCommitted => 0,
            _ => self.reads.len() + self.ranges.len(),
        };
        let unread = match self.isolation {
            Isolation::SerializableSnapshot if self.base.is_some() => {
                self.writes.keys().filter(|key| !self.reads.contains_key(*key)).count()
            }
            _ => 0,
        };
        let marker = usize::from(marked && !self.writes.is_empty());
        let count = (read + unread).max(self.writes.len()) + marker;
        let limit = self.backend.limits().max_txn_ops;
        if count > limit { Err(Error::TooManyOps { count, limit }) } else { Ok(()) }
    }

    /// Whether the attempt is over without a commit: all that it has read was true at one moment.
    pub(super) fn is_settled(&self) -> bool {
        self.writes.is_empty()
            && match self.isolation {
                Isolation::RepeatableReads => self.reads.len() <= 1 && self.ranges.is_empty(),
                _ => true,
            }
    }

    /// Whether it puts a key on a lease that is not this one.
    pub(super) fn puts_on_other_lease_than(&self, lease: LeaseId) -> bool {
        self.writes.values().any(|write| match write {
            Write::Put(put) => put.lease.is_some_and(|other| other != lease),
            Write::Delete => false,
        })
    }

    /// What others will want to read and this attempt has not, as far as there is room for it.
    pub(super) fn wanted_by(&self, others: &[Arc<Ticket>]) -> BTreeSet<Bytes> {
        let room = self.backend.limits().max_txn_ops.saturating_sub(self.writes.len() + 1);
        let wanted = others.iter().flat_map(|other| other.wanted());
        let unknown = wanted.filter(|key| self.left(key, Revision::ZERO).is_none());
        let unknown: BTreeSet<_> = unknown.cloned().collect();
        if unknown.len() > room { BTreeSet::new() } else { unknown }
    }

    /// Tells those who come next how things stand, after the commit was applied.
    pub(super) fn hand_on(
        &self,
        next: &[Arc<Ticket>],
        read: BTreeSet<Bytes>,
        answer: &TxnResponse,
    ) {
        if next.is_empty() {
            return;
        }
        let revision = answer.header.revision;
        let own = self.reads.keys().chain(self.writes.keys());
        let left = own.filter_map(|key| Some((key.clone(), self.left(key, revision)?)));
        // What was read for them comes last.
        let answers = &answer.responses[answer.responses.len() - read.len()..];
        let read = read.into_iter().zip(answers.iter().cloned().map(one));
        let known = Known { revision, keys: left.chain(read).collect(), ranges: Vec::new() };
        for ticket in next {
            ticket.hand(known.clone());
        }
    }

    /// What the commit leaves of a key, if that is known: if it is applied at `revision`.
    fn left(&self, key: &Bytes, revision: Revision) -> Option<Seen> {
        match self.writes.get(key) {
            Some(Write::Put(put)) if put.ignore_value => None,
            Some(Write::Put(put)) => {
                Some(Some(Stored { value: put.value.clone(), modified: revision }))
            }
            Some(Write::Delete) => Some(None),
            None if self.isolation == Isolation::ReadCommitted => None,
            None => self.reads.get(key).cloned(),
        }
    }

    /// What commits the attempt, and reads some keys for others if it does.
    pub(super) fn commit(&self, slot: Option<&mut Slot>, for_others: &BTreeSet<Bytes>) -> Txn {
        let mut commit = Txn::new().and_then(self.writes.iter().map(|(key, write)| match write {
            Write::Put(put) => Op::Put(put.clone()),
            Write::Delete => Op::Delete(Delete::new(key)),
        }));
        if self.isolation != Isolation::ReadCommitted {
            commit = commit.when(self.compared().map(unchanged)).or_else(self.read_again());
        }
        if let Some(base) = self.base {
            let untouched = |range| Compare::mod_revision(range, CompareOp::Less, base.next());
            commit = commit.when(self.ranges.iter().map(untouched));
        }
        if let Some(slot) = slot {
            commit = slot.mark(commit);
        }
        commit.and_then(for_others.iter().map(Range::new))
    }

    /// The keys that the commit compares one by one, with what they must still be.
    fn compared(&self) -> impl Iterator<Item = (&Bytes, &Seen)> {
        self.reads.iter().chain(&self.blind)
    }

    fn read_again(&self) -> impl Iterator<Item = Range> {
        self.compared().map(|(key, _)| Range::new(key)).chain(self.ranges.iter().map(Range::new))
    }

    /// What the answer of a commit that failed tells about the store.
    pub(super) fn found(&self, revision: Revision, answers: Vec<OpResponse>) -> Known {
        let mut answers = answers.into_iter();
        let compared = self.compared().map(|(key, _)| key.clone());
        let keys = compared.zip(answers.by_ref().map(one)).collect();
        let ranges = self.ranges.iter().cloned().zip(answers.map(kvs)).collect();
        Known { revision, keys, ranges }
    }

    /// What had changed.
    pub(super) fn conflicts(&self, found: &Known) -> Vec<Conflict> {
        let mut conflicts: Vec<_> = self
            .compared()
            .filter_map(|(key, seen)| {
                let (seen, found) = (modified(seen), modified(found.keys.get(key)?));
                (seen != found).then(|| Conflict { key: key.clone(), seen, found })
            })
            .collect();
        let in_ranges = found.ranges.iter().flat_map(|(_, kvs)| kvs);
        for kv in in_ranges.filter(|kv| !self.reads.contains_key(&kv.key)) {
            let found = kv.mod_revision;
            conflicts.push(Conflict { key: kv.key.clone(), seen: Revision::ZERO, found });
        }
        conflicts
    }
}
