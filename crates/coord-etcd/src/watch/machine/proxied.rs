//! Watch streams to `etcd grpc-proxy`, which deviates from etcd in five ways.
//!
//! | `etcd grpc-proxy` | the client |
//! |---|---|
//! | ignores the requested id, and numbers the watches of a stream from 0 | translates the ids |
//! | confirms watches in any order | creates one watch at a time |
//! | may confirm a watch without a revision | reads a revision, and starts the watch after it |
//! | ignores progress requests, and crashes on them up to 3.4 | sends none |
//! | refuses an empty range without a revision | recognizes the proxy by that |

use std::collections::BTreeMap;

use super::{Machine, Request, StreamRole};

/// The ids of a proxied stream.
#[derive(Debug, Default)]
pub(super) struct Proxied {
    /// The client's ids, by the ids of the proxy.
    client_ids: BTreeMap<i64, i64>,
}

impl Proxied {
    /// Adds the ids of a confirmed watch.
    pub(super) fn insert(&mut self, proxy_id: i64, client_id: i64) {
        self.client_ids.insert(proxy_id, client_id);
    }

    /// The client's id for an id of the proxy; `None` if the watch was cancelled.
    pub(super) fn client_id(&self, proxy_id: i64) -> Option<i64> {
        self.client_ids.get(&proxy_id).copied()
    }

    /// Removes the ids of a watch. Returns the proxy's id.
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

    /// The request that cancels a watch, with the server's id. `None` for a proxied watch without a
    /// confirmation: its id is unknown, and it is cancelled when it is confirmed.
    pub(super) fn cancel_request(&mut self, role: StreamRole, id: i64) -> Option<Request> {
        let open = self.stream(role).open()?;
        match &mut open.proxied {
            Some(proxied) => proxied.remove(id).map(|id| Request::Cancel { id }),
            None => Some(Request::Cancel { id }),
        }
    }
}
