//! What is refused before anything is sent, and what is noted for errors that come back.

use std::collections::BTreeSet;
use std::time::Duration;

use coord_core::{
    Error, Result,
    kv::{Compact, Delete, LeaseGrant, LeaseId, Limits, Op, Put, Range, Revision, Txn},
};
use etcd_client::proto::{PbDeleteRequest, PbPutRequest, PbRangeRequest, PbTxnRequest};
use prost::Message as _;

use crate::error::Asked;
use crate::wire::send;

/// How deep transactions may be nested.
///
/// Answers are decoded by prost, which gives up below a hundred messages in one another: two for
/// each level of nesting, and three for a key of a range at the bottom. A deeper transaction would
/// be applied, and then its answer could not be read.
pub(crate) const NESTING_MAX: usize = 48;

/// Makes the notes on requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Desk {
    pub(crate) limits: Limits,
    pub(crate) waited: Duration,
}

impl Desk {
    /// A request that changes nothing.
    pub(crate) fn read(&self) -> Asked {
        Asked { limits: self.limits, waited: self.waited, ..Asked::default() }
    }

    /// A request that may change the store.
    pub(crate) fn change(&self) -> Asked {
        Asked { changes: true, ..self.read() }
    }

    pub(crate) fn range(&self, request: &Range) -> Result<Asked> {
        some_key(request.keys.start())?;
        Ok(Asked { revision: request.revision.filter(|revision| revision.0 > 0), ..self.read() })
    }

    pub(crate) fn put(&self, request: &Put) -> Result<Asked> {
        request.check()?;
        let key = Some(request.key.clone());
        Ok(Asked { key, lease: request.lease, ..self.change() })
    }

    pub(crate) fn delete(&self, request: &Delete) -> Result<Asked> {
        some_key(request.keys.start())?;
        Ok(self.change())
    }

    pub(crate) fn txn(&self, request: &Txn) -> Result<Asked> {
        // The check of core is recursive too, but no deeper than the limit of operations.
        check_depth(request, NESTING_MAX)?;
        request.check(&self.limits)?;
        let mut notes = Notes::default();
        notes.take(request);
        let asked = if request.is_read_only() { self.read() } else { self.change() };
        Ok(Asked {
            key: only(notes.keepers).cloned(),
            lease: only(notes.leases),
            revision: only(notes.revisions),
            ops: request.compares.len().max(request.success.len()).max(request.failure.len()),
            ..asked
        })
    }

    pub(crate) fn compact(&self, request: Compact) -> Asked {
        Asked { revision: Some(request.revision), ..self.change() }
    }

    pub(crate) fn grant(&self, request: LeaseGrant) -> Result<Asked> {
        request.check()?;
        Ok(Asked { ttl: request.ttl, lease: request.id, ..self.change() })
    }
}

fn some_key(key: &[u8]) -> Result<()> {
    if key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Refuses a transaction with more than `limit` levels below its first.
fn check_depth(txn: &Txn, limit: usize) -> Result<()> {
    if has_at_most(limit, txn) {
        return Ok(());
    }
    Err(Error::TxnTooDeep { depth: depth(txn), limit })
}

fn has_at_most(levels: usize, txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match op {
        Op::Txn(nested) => levels.checked_sub(1).is_some_and(|levels| has_at_most(levels, nested)),
        Op::Range(_) | Op::Put(_) | Op::Delete(_) => true,
    })
}

/// How many levels there are below the first. Without recursion, because nothing bounds them.
fn depth(txn: &Txn) -> usize {
    let (mut deepest, mut unseen) = (0, vec![(txn, 0)]);
    while let Some((txn, level)) = unseen.pop() {
        deepest = deepest.max(level);
        for op in txn.success.iter().chain(&txn.failure) {
            if let Op::Txn(nested) = op {
                unseen.push((nested, level + 1));
            }
        }
    }
    deepest
}

/// What a complaint about a transaction can be about: known if there is but one candidate.
#[derive(Default)]
struct Notes<'a> {
    keepers: BTreeSet<&'a bytes::Bytes>,
    leases: BTreeSet<LeaseId>,
    revisions: BTreeSet<Revision>,
}

impl<'a> Notes<'a> {
    fn take(&mut self, txn: &'a Txn) {
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                Op::Range(range) => {
                    self.revisions.extend(range.revision.filter(|revision| revision.0 != 0));
                }
                Op::Put(put) => {
                    self.leases.extend(put.lease);
                    if put.ignore_value || put.ignore_lease {
                        self.keepers.insert(&put.key);
                    }
                }
                Op::Delete(_) => {}
                Op::Txn(nested) => self.take(nested),
            }
        }
    }
}

/// The element of a set that has one.
fn only<T: Ord>(mut set: BTreeSet<T>) -> Option<T> {
    if set.len() == 1 { set.pop_first() } else { None }
}

/// Requests whose size in bytes etcd counts.
pub(crate) trait Measured {
    /// As etcd counts it: a read as it is sent, a change as it lies in the log.
    fn size(&self) -> usize;

    /// Says how large the request was, where the store did not.
    fn tell(&self, error: Error) -> Error {
        match error {
            Error::RequestTooLarge { size_bytes: 0, limit_bytes } => {
                Error::RequestTooLarge { size_bytes: self.size(), limit_bytes }
            }
            error => error,
        }
    }
}

impl Measured for Range {
    fn size(&self) -> usize {
        let (key, options) = send::range(self);
        PbRangeRequest { key, ..PbRangeRequest::from(options) }.encoded_len()
    }
}

impl Measured for Put {
    fn size(&self) -> usize {
        let (key, value, options) = send::put(self);
        logged(PbPutRequest { key, value, ..PbPutRequest::from(options) }.encoded_len())
    }
}

impl Measured for Delete {
    fn size(&self) -> usize {
        let (key, options) = send::delete(self);
        logged(PbDeleteRequest { key, ..PbDeleteRequest::from(options) }.encoded_len())
    }
}

impl Measured for Txn {
    fn size(&self) -> usize {
        logged(PbTxnRequest::from(send::txn(self)).encoded_len())
    }
}

/// The envelope of a log entry: a header with a request id, thirteen bytes, then the request.
fn logged(size_bytes: usize) -> usize {
    13 + 1 + prost::length_delimiter_len(size_bytes) + size_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> Txn {
        (0..levels).fold(Txn::new(), |inner, _| Txn::new().and_then([inner]))
    }

    fn desk() -> Desk {
        Desk { limits: Limits::default(), waited: Duration::from_secs(7) }
    }

    #[test]
    fn transactions_are_nested_as_deep_as_answers_can_be_read() {
        desk().txn(&nested(NESTING_MAX)).expect("deep enough");
        desk().txn(&nested(NESTING_MAX + 1)).expect_err("one level too deep");
        let error = desk().txn(&nested(NESTING_MAX + 2)).expect_err("too deep");
        assert!(matches!(error, Error::TxnTooDeep { depth: 50, limit: NESTING_MAX }), "{error:?}");
        assert_eq!(error.outcome(), coord_core::error::Outcome::NotApplied);
        let message = error.to_string();
        assert!(message.contains("50 levels deep, the limit is 48"), "{message}");
    }

    #[test]
    fn sizes_are_those_measured_on_etcd() {
        assert_eq!(Put::new("abc", vec![0; 1_572_838]).size(), 1_572_864);
        let blind = Error::RequestTooLarge { size_bytes: 0, limit_bytes: 9 };
        let told = Put::new("abc", vec![0; 1_572_839]).tell(blind);
        assert!(matches!(told, Error::RequestTooLarge { size_bytes: 1_572_865, .. }), "{told:?}");
    }

    #[test]
    fn only_what_leaves_no_doubt_is_noted() {
        let lease = LeaseId::new(7);
        let keep = Put::new("a", "").ignore_value().lease(lease);
        let one = desk().txn(&Txn::new().and_then([keep.clone()])).expect("fine");
        assert_eq!((one.key.as_deref(), one.lease), (Some(&b"a"[..]), lease));
        let other = Put::new("b", "").ignore_value().lease(LeaseId::new(8));
        let two = desk().txn(&Txn::new().and_then([keep]).or_else([other])).expect("fine");
        assert_eq!((two.key, two.lease), (None, None));
    }

    #[test]
    fn times_to_live_are_compared_before_they_are_cast() {
        let refused = |ttl| desk().grant(LeaseGrant::new(ttl)).expect_err("refused").kind();
        assert_eq!(refused(Duration::MAX), coord_core::error::ErrorKind::TtlTooLarge);
        assert_eq!(refused(Duration::from_millis(1500)), coord_core::error::ErrorKind::InvalidTtl);
        desk().grant(LeaseGrant::new(coord_core::kv::TTL_MAX)).expect("the most there is");
    }
}
