//! Telling, after the answer to a commit was lost, whether the commit was applied.
//!
//! Each commit also puts a *marker*, one small key with a number that is used once. When the answer
//! does not come, the marker is asked. But a request that was not applied may be yet: so asking
//! changes the marker, on the condition that the commit has not, and the commit has the condition
//! that the marker is as it was before. Only one of the two can happen:
//!
//! ```text
//! marker 4@20                                               (the attempt before was number 4)
//! commit 5, if the marker was changed at 20: no answer
//! put "fence 5", if the marker was changed at 20
//!   succeeded: the commit was not applied, and never will be. Try again.
//!   failed:    the marker says "5": it was applied, at the marker's revision.
//! ```
//!
//! Markers are keys on the session's lease, used again by one transaction after the other, so there
//! are as many as transactions were ever under way at once, and one more for each that was cut off
//! while it committed. They go with the session.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::backend::KvBackend;
use crate::error::{Error, Result};
use crate::kv::{Compare, CompareOp, OpResponse, Put, Range, Revision, Txn};
use crate::retry::patiently;
use crate::session::Session;

/// The markers of a session.
#[derive(Clone)]
pub(super) struct Markers {
    session: Session,
    free: Arc<Mutex<Vec<Marker>>>,
}

/// A marker that one transaction has for itself, and gives back when it is dropped; unless a commit
/// that was sent with it may still be on its way.
#[derive(Debug)]
pub(super) struct Slot {
    markers: Markers,
    marker: Marker,
    /// Whether the marker may be changed by a commit that nobody waits for any more.
    in_doubt: bool,
}

/// A marker.
#[derive(Clone, Debug)]
struct Marker {
    key: Bytes,
    /// When it was put last; zero if never.
    modified: Revision,
    /// The number of the commit that is under way.
    number: u64,
}

/// What became of a commit.
#[derive(Debug)]
pub(super) enum Resolved {
    Applied(Revision),
    NotApplied,
    /// The marker is gone, with the session's lease.
    Unknown,
}

impl Markers {
    pub(super) fn new(session: &Session) -> Self {
        Self { session: session.clone(), free: Arc::default() }
    }

    pub(super) const fn session(&self) -> &Session {
        &self.session
    }

    /// What the keys of all markers of the session begin with.
    pub(super) fn prefix(&self) -> Bytes {
        format!("coord/stm/{}", self.session.lease_id()).into()
    }

    /// A marker that nobody else uses.
    pub(super) fn take(&self) -> Slot {
        let free = self.free().pop();
        let marker = free.unwrap_or_else(|| {
            // Never given back: a late commit may still put its marker.
            let mut number = self.session.number();
            number.burn();
            let key = [&self.prefix()[..], format!("-{number}").as_bytes()].concat().into();
            Marker { key, modified: Revision::ZERO, number: 0 }
        });
        Slot { markers: self.clone(), marker, in_doubt: false }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Marker>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Makes a commit leave its mark, and depend on the mark before. The commit is sent next.
    pub(super) fn mark(&mut self, commit: Txn) -> Txn {
        self.marker.number += 1;
        self.in_doubt = true;
        let mark = self.put(self.marker.number.to_string());
        commit.when([self.untouched()]).and_then([mark])
    }

    /// After a commit was applied.
    pub(super) const fn committed(&mut self, revision: Revision) {
        self.marker.modified = revision;
        self.in_doubt = false;
    }

    /// After a commit was surely not applied.
    pub(super) const fn refused(&mut self) {
        self.in_doubt = false;
    }

    /// Does not give the marker back.
    pub(super) const fn discard(&mut self) {
        self.in_doubt = true;
    }

    fn untouched(&self) -> Compare {
        Compare::mod_revision(&self.marker.key, CompareOp::Equal, self.marker.modified)
    }

    fn put(&self, value: String) -> Put {
        Put::new(&self.marker.key, value).lease(self.markers.session.lease_id())
    }

    /// Finds out what became of the commit that was begun last, however often that takes.
    ///
    /// It asks the backend that the commit was sent to: the session's own may know its keys by
    /// other names, and find no marker where there is one.
    pub(super) async fn resolve(&mut self, backend: &dyn KvBackend) -> Result<Resolved> {
        let fence = format!("fence {}", self.marker.number);
        let ask = Txn::new()
            .when([self.untouched()])
            .and_then([self.put(fence.clone())])
            .or_else([Range::new(&self.marker.key)]);
        // It may be repeated: once it was applied, its condition does not hold any more.
        let answer = match patiently(|| backend.txn(ask.clone())).await {
            Ok(answer) => answer,
            Err(Error::LeaseNotFound { .. }) => return Ok(Resolved::Unknown),
            Err(error) => return Err(error),
        };
        if answer.succeeded {
            self.committed(answer.header.revision);
            return Ok(Resolved::NotApplied);
        }
        let marker = answer.responses.first().and_then(OpResponse::as_range);
        let Some(marker) = marker.and_then(|read| read.kvs.first()) else {
            return Ok(Resolved::Unknown);
        };
        let resolved = if marker.value == fence {
            Resolved::NotApplied
        } else if marker.value == self.marker.number.to_string() {
            Resolved::Applied(marker.mod_revision)
        } else {
            return Ok(Resolved::Unknown);
        };
        self.committed(marker.mod_revision);
        Ok(resolved)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.in_doubt {
            self.markers.free().push(self.marker.clone());
        }
    }
}

impl fmt::Debug for Markers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Markers").field("session", &self.session).finish_non_exhaustive()
    }
}
