//! A pool of clusters that tests use one after the other, emptied in between.
//!
//! A server starts in half a second, and is emptied in a few milliseconds. An emptied server has a
//! history: its revision is higher than that of a new one, and it may be compacted.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use etcd_client::{Client, DeleteOptions};

use crate::cluster::{Cluster, Setup};
use crate::release::Release;

/// A pool of idle servers. Clones share them.
#[derive(Clone, Debug)]
pub struct Pool {
    setup: Setup,
    /// `None` after the pool was closed.
    idle: Arc<Mutex<Option<Vec<Cluster>>>>,
}

impl Pool {
    /// An empty pool, whose servers have [usual ids](Setup::usual_ids).
    #[must_use]
    pub fn new(release: Release) -> Self {
        Self::of(Setup::new(release).usual_ids())
    }

    /// An empty pool, whose servers have this setup.
    #[must_use]
    pub fn of(setup: Setup) -> Self {
        Self { setup, idle: Arc::new(Mutex::new(Some(Vec::new()))) }
    }

    /// A server without keys and without leases. It returns to the pool when it is dropped.
    ///
    /// # Panics
    /// If no server starts or an idle one cannot be emptied.
    pub async fn emptied(&self) -> Lent {
        let idle = self.with_idle(|idle| idle.and_then(Vec::pop));
        let server = match idle {
            Some(server) => {
                empty(&server).await.unwrap_or_else(|error| {
                    panic!("{} cannot be emptied: {error}", server.release())
                });
                server
            }
            None => self.setup.start().await,
        };
        Lent { server: Some(server), pool: self.clone() }
    }

    /// A new server.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn fresh(&self) -> Lent {
        Lent { server: Some(self.setup.start().await), pool: self.clone() }
    }

    /// Stops all idle servers, and those in use when they are returned.
    pub fn close(&self) {
        let all = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(all);
    }

    fn with_idle<T>(&self, act: impl FnOnce(Option<&mut Vec<Cluster>>) -> T) -> T {
        act(self.idle.lock().unwrap_or_else(PoisonError::into_inner).as_mut())
    }
}

/// A server in use from a [`Pool`]. Dropping it returns the server.
#[derive(Debug)]
#[must_use = "dropping it returns the server to the pool"]
pub struct Lent {
    /// `None` only while it is dropped.
    server: Option<Cluster>,
    pool: Pool,
}

impl Deref for Lent {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.server.as_ref().expect("the server is there until the drop")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // After a panic the state of the server is unknown.
        if let Some(server) = self.server.take()
            && !std::thread::panicking()
        {
            self.pool.with_idle(|idle| idle.map(|idle| idle.push(server)));
        }
    }
}

/// Deletes all keys and leases, with etcd-client, because tests test the adapter.
async fn empty(server: &Cluster) -> Result<(), etcd_client::Error> {
    let mut client = Client::connect(server.endpoints(), None).await?;
    for lease in client.leases().await?.leases() {
        // It may have expired meanwhile.
        let _ = client.lease_revoke(lease.id()).await;
    }
    client.delete("", Some(DeleteOptions::new().with_all_keys())).await?;
    Ok(())
}
