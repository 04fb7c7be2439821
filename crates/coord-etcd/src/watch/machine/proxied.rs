//! Streams to `etcd grpc-proxy`, which deviates from etcd in five ways.
//!
//! - *It numbers the watches of a stream from 0*, whatever id the client requests: the ids are
//!   translated.
//! - *It confirms watches in any order*: one is created at a time.
//! - *A confirmation may have no revision*: a watch from now on starts at a revision that was read
//!   before.
//! - *It ignores progress requests, and crashes on them up to 3.4*: none is sent.
//! - *It refuses an empty range without a revision*: it is recognized by that.

use std::collections::BTreeMap;

use super::{Machine, Request, StreamRole};

/// The ids of a proxied stream.
#[derive(Debug, Default)]
pub(super) struct Proxied {
    /// The client's ids, by those of the proxy.
    client_ids: BTreeMap<i64, i64>,
}

impl Proxied {
    /// Adds the ids of a confirmed watch.
    pub(super) fn insert(&mut self, proxy_id: i64, client_id: i64) {
        self.client_ids.insert(proxy_id, client_id);
    }

    /// The client's id for an id of the proxy.
    pub(super) fn client_id(&self, proxy_id: i64) -> Option<i64> {
        self.client_ids.get(&proxy_id).copied()
    }

    /// Removes a watch, and returns its id of the proxy.
    fn remove(&mut self, client_id: i64) -> Option<i64> {
        let mut ids = self.client_ids.iter();
        let proxy_id = ids.find(|(_, id)| **id == client_id).map(|(proxy_id, _)| *proxy_id)?;
        self.client_ids.remove(&proxy_id).map(|_| proxy_id)
    }
}

impl Machine {
    /// Whether the stream goes to `etcd grpc-proxy`.
    pub(super) fn is_proxied(&self, role: StreamRole) -> bool {
        matches!(
            &self.streams[role as usize].phase,
            super::StreamPhase::Open(open) if open.proxied.is_some()
        )
    }

    /// The request that cancels a watch, with the server's id. A proxied watch without a
    /// confirmation has none yet; it is cancelled when it is confirmed.
    pub(super) fn cancel_of(&mut self, role: StreamRole, id: i64) -> Option<Request> {
        let open = self.stream(role).open()?;
        match &mut open.proxied {
            Some(proxied) => proxied.remove(id).map(|id| Request::Cancel { id }),
            None => Some(Request::Cancel { id }),
        }
    }
}
