//! Streams to `etcd grpc-proxy`, which deviates from etcd in five ways.
//!
//! - *It numbers the watches of a stream from 0*, whatever id the client gives: the ids are
//!   translated.
//! - *It confirms watches in any order*: one is created at a time.
//! - *A confirmation may have no revision*: a watch from now on starts at a revision that was read
//!   before.
//! - *It ignores progress requests, and crashes on them up to 3.4*: none is sent.
//! - *It refuses an empty range without a revision*: it is recognized by that.

use std::collections::BTreeMap;

use super::{LaneName, Machine, Request};

/// The ids of a proxied stream.
#[derive(Debug, Default)]
pub(super) struct Proxied {
    /// Ours, by those of the proxy.
    ours: BTreeMap<i64, i64>,
}

impl Proxied {
    /// The proxy has given the watch that is being created this id.
    pub(super) fn created(&mut self, theirs: i64, ours: i64) {
        self.ours.insert(theirs, ours);
    }

    /// Our id for one of the proxy's.
    pub(super) fn ours(&self, theirs: i64) -> Option<i64> {
        self.ours.get(&theirs).copied()
    }

    /// The proxy's id for our id. The watch is gone after that.
    fn remove(&mut self, ours: i64) -> Option<i64> {
        let theirs = self.ours.iter().find(|(_, id)| **id == ours).map(|(theirs, _)| *theirs)?;
        self.ours.remove(&theirs).map(|_| theirs)
    }
}

impl Machine {
    /// Whether the stream goes to `etcd grpc-proxy`.
    pub(super) fn is_proxied(&self, name: LaneName) -> bool {
        matches!(&self.lanes[name as usize].state, super::LaneState::Open(o) if o.proxied.is_some())
    }

    /// The request that cancels a watch, by the id that the server knows. A proxied watch that is
    /// not confirmed yet has none; it is cancelled when it is confirmed.
    pub(super) fn cancel_of(&mut self, name: LaneName, id: i64) -> Option<Request> {
        let open = self.lane(name).open()?;
        match &mut open.proxied {
            Some(proxied) => proxied.remove(id).map(|id| Request::Cancel { id }),
            None => Some(Request::Cancel { id }),
        }
    }
}
