//! Servers that are used again and again, by one at a time, and emptied in between.
//!
//! A server is ready in half a second, and emptied in a few milliseconds. What was done to it
//! leaves it with a past: its revision is higher, and it may have been compacted.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use etcd_client::{Client, DeleteOptions};

use crate::cluster::{Cluster, Setup};
use crate::release::Release;

/// The servers that wait to be used. Clones share them.
#[derive(Clone, Debug)]
pub struct Pool {
    setup: Setup,
    /// `None` once it is closed.
    idle: Arc<Mutex<Option<Vec<Cluster>>>>,
}

impl Pool {
    /// Without servers as yet. They will all have [usual ids](Setup::usual_ids).
    #[must_use]
    pub fn new(release: Release) -> Self {
        Self::of(Setup::new(release).usual_ids())
    }

    /// Without servers as yet. They will all be as `setup` says.
    #[must_use]
    pub fn of(setup: Setup) -> Self {
        Self { setup, idle: Arc::new(Mutex::new(Some(Vec::new()))) }
    }

    /// A server without keys and without leases, until the loan is dropped.
    ///
    /// # Panics
    /// If there is none to be had.
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

    /// A server that nobody has used.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn fresh(&self) -> Lent {
        Lent { server: Some(self.setup.start().await), pool: self.clone() }
    }

    /// Stops all servers, also those that are lent out, when they come back.
    pub fn close(&self) {
        let all = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(all);
    }

    fn with_idle<T>(&self, act: impl FnOnce(Option<&mut Vec<Cluster>>) -> T) -> T {
        act(self.idle.lock().unwrap_or_else(PoisonError::into_inner).as_mut())
    }
}

/// A server of a [`Pool`]: dropped, it goes back.
#[derive(Debug)]
#[must_use = "dropping the loan gives the server back"]
pub struct Lent {
    /// `None` only while it is dropped.
    server: Option<Cluster>,
    pool: Pool,
}

impl Deref for Lent {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.server.as_ref().expect("a loan has its server until it is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // After a panic nobody knows what was done to it.
        if let Some(server) = self.server.take()
            && !std::thread::panicking()
        {
            self.pool.with_idle(|idle| idle.map(|idle| idle.push(server)));
        }
    }
}

/// Deletes everything. With the bare client: the adapter is what is to be tested.
async fn empty(server: &Cluster) -> Result<(), etcd_client::Error> {
    let mut client = Client::connect(server.endpoints(), None).await?;
    for lease in client.leases().await?.leases() {
        // It may have ended in the meantime.
        let _ = client.lease_revoke(lease.id()).await;
    }
    client.delete("", Some(DeleteOptions::new().with_all_keys())).await?;
    Ok(())
}
