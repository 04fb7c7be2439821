//! Validation: rejects requests that etcd rejects and a backend's types cannot express.
//!
//! A backend checks transactions too, but two errors have no representation in its types: an
//! operation without content, and an unknown sort option. etcd reports the first error of a
//! transaction in order, so this module checks all errors in that order, except for duplicate keys,
//! which are the last and which the backend checks.
//!
//! Source: etcd 3.5 `checkTxnRequest` in `server/etcdserver/api/v3rpc/key.go`; sort options: etcd
//! 3.6.

use bytes::Bytes;
use coord_core::Error;
use etcd_client::proto::{PbPutRequest, PbRangeRequest, PbTxnOpRequest, PbTxnRequest};
use tonic::Status;

use crate::status::status;

/// Rejects a transaction for its first error, in etcd's order. The list of compares and the two
/// lists of operations may each have `limit` entries. The longest of them reduces the limit of the
/// nested transactions.
pub(crate) fn check_txn(txn: &PbTxnRequest, limit: usize) -> Result<(), Status> {
    let PbTxnRequest { compare, success, failure } = txn;
    let count = compare.len().max(success.len()).max(failure.len());
    let Some(left) = limit.checked_sub(count) else {
        return Err(status(&Error::TooManyOps { count, limit }));
    };
    compare.iter().try_for_each(|compare| check_key(&compare.key))?;
    let ops = success.iter().chain(failure);
    ops.map(|op| &op.request).try_for_each(|op| match op {
        Some(PbTxnOpRequest::RequestRange(range)) => {
            check_key(&range.key)?;
            check_sort(range)
        }
        Some(PbTxnOpRequest::RequestPut(put)) => check_put(put),
        Some(PbTxnOpRequest::RequestDeleteRange(delete)) => check_key(&delete.key),
        Some(PbTxnOpRequest::RequestTxn(nested)) => check_txn(nested, left),
        // An operation without content, for which etcd returns this error.
        None => Err(status(&Error::KeyNotFound { key: None })),
    })
}

/// Rejects an unknown sort option, as etcd 3.6 does; an unknown sort target crashes etcd 3.5.
pub(crate) fn check_sort(range: &PbRangeRequest) -> Result<(), Status> {
    if (0..=2).contains(&range.sort_order) && (0..=4).contains(&range.sort_target) {
        return Ok(());
    }
    Err(Status::invalid_argument("etcdserver: invalid sort option"))
}

/// Rejects a put for its first error, in etcd's order.
fn check_put(put: &PbPutRequest) -> Result<(), Status> {
    let key = || Bytes::copy_from_slice(&put.key);
    check_key(&put.key)?;
    if put.ignore_value && !put.value.is_empty() {
        return Err(status(&Error::ValueProvided { key: key() }));
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(status(&Error::LeaseProvided { key: key() }));
    }
    Ok(())
}

fn check_key(key: &[u8]) -> Result<(), Status> {
    if key.is_empty() { Err(status(&Error::EmptyKey)) } else { Ok(()) }
}
