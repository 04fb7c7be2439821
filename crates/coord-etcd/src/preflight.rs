//! The pre-flight check: refuses invalid requests before they are sent, and derives the request
//! context for errors.

use std::collections::BTreeSet;
use std::time::Duration;

use coord_core::{
    Error, Result,
    kv::{Compact, Delete, LeaseGrant, LeaseId, Limits, Op, Put, Range, Revision, Txn},
};
use etcd_client::proto::{PbDeleteRequest, PbPutRequest, PbRangeRequest, PbTxnRequest};
use prost::Message as _;

use crate::error::RequestContext;
use crate::wire::send;

/// The largest number of nesting levels below a transaction.
///
/// prost decodes up to 100 levels of messages. Each level of nesting takes two of them, and a key
/// in the response to the innermost range takes three. The store would apply a deeper transaction,
/// and the client could not decode its response.
pub(crate) const MAX_TXN_NESTING: usize = 48;

/// The pre-flight check of a backend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Preflight {
    pub(crate) limits: Limits,
    /// The request timeout, for errors.
    pub(crate) timeout: Duration,
}

impl Preflight {
    /// The context of a request that does not change the store.
    pub(crate) fn read(&self) -> RequestContext {
        RequestContext { limits: self.limits, timeout: self.timeout, ..RequestContext::default() }
    }

    /// The context of a request that may change the store.
    pub(crate) fn change(&self) -> RequestContext {
        RequestContext { is_change: true, ..self.read() }
    }

    /// Checks a range, and derives its context.
    pub(crate) fn range(&self, request: &Range) -> Result<RequestContext> {
        check_key(request.keys.start())?;
        Ok(RequestContext {
            revision: request.revision.filter(|revision| revision.0 > 0),
            ..self.read()
        })
    }

    /// Checks a put, and derives its context.
    pub(crate) fn put(&self, request: &Put) -> Result<RequestContext> {
        request.check()?;
        let key = Some(request.key.clone());
        Ok(RequestContext { key, lease: request.lease, ..self.change() })
    }

    /// Checks a delete, and derives its context.
    pub(crate) fn delete(&self, request: &Delete) -> Result<RequestContext> {
        check_key(request.keys.start())?;
        Ok(self.change())
    }

    /// Checks a transaction, and derives its context.
    pub(crate) fn txn(&self, request: &Txn) -> Result<RequestContext> {
        // First, because the check of the core crate recurses into as many levels as the configured
        // `max_txn_ops` permits.
        check_depth(request, MAX_TXN_NESTING)?;
        request.check(&self.limits)?;
        let mut candidates = Candidates::default();
        candidates.collect(request);
        let context = if request.is_read_only() { self.read() } else { self.change() };
        Ok(RequestContext {
            key: single_element(candidates.keys).cloned(),
            lease: single_element(candidates.leases),
            revision: single_element(candidates.revisions),
            ops: request.compares.len().max(request.success.len()).max(request.failure.len()),
            ..context
        })
    }

    /// Derives the context of a compaction, which needs no check.
    pub(crate) fn compact(&self, request: Compact) -> RequestContext {
        RequestContext { revision: Some(request.revision), ..self.change() }
    }

    /// Checks a lease grant, and derives its context.
    pub(crate) fn grant(&self, request: LeaseGrant) -> Result<RequestContext> {
        request.check()?;
        Ok(RequestContext { ttl: request.ttl, lease: request.id, ..self.change() })
    }
}

fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// Refuses a transaction with more than `limit` levels of nesting.
fn check_depth(txn: &Txn, limit: usize) -> Result<()> {
    if has_at_most(limit, txn) {
        return Ok(());
    }
    Err(Error::TxnTooDeep { depth: depth(txn), limit })
}

/// Whether a transaction has at most `levels` levels of nesting.
fn has_at_most(levels: usize, txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match op {
        Op::Txn(nested) => levels.checked_sub(1).is_some_and(|levels| has_at_most(levels, nested)),
        Op::Range(_) | Op::Put(_) | Op::Delete(_) => true,
    })
}

/// The number of levels of nesting. Iterative, because a recursion could exhaust the stack.
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

/// The keys, leases and revisions that an error of a transaction may be about. The error names a
/// candidate if it is the only one.
#[derive(Default)]
struct Candidates<'a> {
    /// The keys of puts that keep the value or the lease.
    keys: BTreeSet<&'a bytes::Bytes>,
    leases: BTreeSet<LeaseId>,
    revisions: BTreeSet<Revision>,
}

impl<'a> Candidates<'a> {
    fn collect(&mut self, txn: &'a Txn) {
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                Op::Range(range) => {
                    self.revisions.extend(range.revision.filter(|revision| revision.0 != 0));
                }
                Op::Put(put) => {
                    self.leases.extend(put.lease);
                    if put.ignore_value || put.ignore_lease {
                        self.keys.insert(&put.key);
                    }
                }
                Op::Delete(_) => {}
                Op::Txn(nested) => self.collect(nested),
            }
        }
    }
}

/// The element of a set with exactly one element; `None` for any other set.
fn single_element<T: Ord>(mut set: BTreeSet<T>) -> Option<T> {
    if set.len() == 1 { set.pop_first() } else { None }
}

/// A request whose size is known, as etcd counts it.
pub(crate) trait RequestSize {
    /// The size of a range on the wire, or of any other request in the log.
    fn size_bytes(&self) -> usize;

    /// Fills in the size of the request if the error lacks it.
    fn with_size(&self, error: Error) -> Error {
        match error {
            Error::RequestTooLarge { size_bytes: 0, limit_bytes } => {
                Error::RequestTooLarge { size_bytes: self.size_bytes(), limit_bytes }
            }
            error => error,
        }
    }
}

impl RequestSize for Range {
    fn size_bytes(&self) -> usize {
        let (key, options) = send::range(self);
        PbRangeRequest { key, ..PbRangeRequest::from(options) }.encoded_len()
    }
}

impl RequestSize for Put {
    fn size_bytes(&self) -> usize {
        let (key, value, options) = send::put(self);
        size_in_log(PbPutRequest { key, value, ..PbPutRequest::from(options) }.encoded_len())
    }
}

impl RequestSize for Delete {
    fn size_bytes(&self) -> usize {
        let (key, options) = send::delete(self);
        size_in_log(PbDeleteRequest { key, ..PbDeleteRequest::from(options) }.encoded_len())
    }
}

impl RequestSize for Txn {
    fn size_bytes(&self) -> usize {
        size_in_log(PbTxnRequest::from(send::txn(self)).encoded_len())
    }
}

/// The size of a log entry of etcd: a header of 13 bytes with a request id, then the request.
fn size_in_log(size_bytes: usize) -> usize {
    13 + 1 + prost::length_delimiter_len(size_bytes) + size_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> Txn {
        (0..levels).fold(Txn::new(), |inner, _| Txn::new().and_then([inner]))
    }

    fn preflight() -> Preflight {
        Preflight { limits: Limits::default(), timeout: Duration::from_secs(7) }
    }

    #[test]
    fn transaction_nested_too_deep_is_refused() {
        preflight().txn(&nested(MAX_TXN_NESTING)).expect("a transaction at the limit is permitted");
        preflight().txn(&nested(MAX_TXN_NESTING + 1)).expect_err("one level too deep");
        let error = preflight().txn(&nested(MAX_TXN_NESTING + 2)).expect_err("too deep");
        assert!(
            matches!(error, Error::TxnTooDeep { depth: 50, limit: MAX_TXN_NESTING }),
            "{error:?}"
        );
        assert_eq!(error.outcome(), coord_core::error::Outcome::NotApplied);
        let message = error.to_string();
        assert!(message.contains("50 levels deep, the limit is 48"), "{message}");
    }

    #[test]
    fn request_size_equals_the_size_measured_on_etcd() {
        assert_eq!(Put::new("abc", vec![0; 1_572_838]).size_bytes(), 1_572_864);
        let without = Error::RequestTooLarge { size_bytes: 0, limit_bytes: 9 };
        let with = Put::new("abc", vec![0; 1_572_839]).with_size(without);
        assert!(matches!(with, Error::RequestTooLarge { size_bytes: 1_572_865, .. }), "{with:?}");
    }

    #[test]
    fn context_names_a_key_and_a_lease_only_when_unique() {
        let lease = LeaseId::new(7);
        let keep = Put::new("a", "").ignore_value().lease(lease);
        let one = preflight().txn(&Txn::new().and_then([keep.clone()])).expect("it is valid");
        assert_eq!((one.key.as_deref(), one.lease), (Some(&b"a"[..]), lease));
        let other = Put::new("b", "").ignore_value().lease(LeaseId::new(8));
        let two =
            preflight().txn(&Txn::new().and_then([keep]).or_else([other])).expect("it is valid");
        assert_eq!((two.key, two.lease), (None, None));
    }

    #[test]
    fn ttl_too_large_or_fractional_is_refused() {
        let refused =
            |ttl| preflight().grant(LeaseGrant::new(ttl)).expect_err("it is invalid").kind();
        assert_eq!(refused(Duration::MAX), coord_core::error::ErrorKind::TtlTooLarge);
        assert_eq!(refused(Duration::from_millis(1500)), coord_core::error::ErrorKind::InvalidTtl);
        preflight().grant(LeaseGrant::new(coord_core::kv::TTL_MAX)).expect("the largest TTL");
    }
}
