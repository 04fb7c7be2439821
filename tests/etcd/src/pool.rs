//! A pool of clusters that tests use one after the other. The pool empties a cluster in between.
//!
//! A cluster starts in about a second, and is emptied in a few milliseconds. An emptied cluster has
//! history: its revision is higher than that of a new cluster, and it may be compacted.

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use coord_core::sync;
use etcd_client::{Client, DeleteOptions};

use crate::cluster::{Cluster, ClusterBuilder};
use crate::release::Release;

/// A pool of idle clusters. Clones share the clusters.
#[derive(Clone, Debug)]
pub struct Pool {
    builder: ClusterBuilder,
    /// `None` once the pool is closed.
    idle: Arc<Mutex<Option<Vec<Cluster>>>>,
}

impl Pool {
    /// An empty pool. Its clusters have one member, with [nine-byte request
    /// ids](ClusterBuilder::nine_byte_request_ids).
    #[must_use]
    pub fn new(release: Release) -> Self {
        Self::with_builder(ClusterBuilder::new(release).nine_byte_request_ids())
    }

    /// An empty pool, whose clusters `builder` starts.
    #[must_use]
    pub fn with_builder(builder: ClusterBuilder) -> Self {
        Self { builder, idle: Arc::new(Mutex::new(Some(Vec::new()))) }
    }

    /// A cluster without keys and leases: an idle one, or else a new one. Dropping it returns it to
    /// the pool.
    ///
    /// # Panics
    /// If a cluster does not start, or an idle one cannot be emptied.
    pub async fn take_empty(&self) -> PooledCluster {
        let idle = self.with_idle(|idle| idle.and_then(Vec::pop));
        let cluster = match idle {
            Some(cluster) => {
                empty(&cluster).await.unwrap_or_else(|error| {
                    panic!("{} cannot be emptied: {error}", cluster.release())
                });
                cluster
            }
            None => self.builder.start().await,
        };
        PooledCluster { cluster: Some(cluster), pool: self.clone() }
    }

    /// A new cluster. Dropping it returns it to the pool.
    ///
    /// # Panics
    /// If the cluster does not start.
    pub async fn start_new(&self) -> PooledCluster {
        PooledCluster { cluster: Some(self.builder.start().await), pool: self.clone() }
    }

    /// Stops all idle clusters, and each cluster in use when it is returned.
    pub fn close(&self) {
        let all = sync::lock(&self.idle).take();
        drop(all);
    }

    fn with_idle<T>(&self, act: impl FnOnce(Option<&mut Vec<Cluster>>) -> T) -> T {
        act(sync::lock(&self.idle).as_mut())
    }
}

/// A cluster of a [`Pool`] that a test uses. Dropping it returns the cluster to the pool.
#[derive(Debug)]
#[must_use = "dropping it returns the cluster to the pool"]
pub struct PooledCluster {
    /// `None` only during `drop`.
    cluster: Option<Cluster>,
    pool: Pool,
}

impl Deref for PooledCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster.as_ref().expect("only `drop` takes the cluster")
    }
}

impl Drop for PooledCluster {
    fn drop(&mut self) {
        // After a panic the state of the cluster is unknown, so it is not used again.
        if let Some(cluster) = self.cluster.take()
            && !std::thread::panicking()
        {
            self.pool.with_idle(|idle| idle.map(|idle| idle.push(cluster)));
        }
    }
}

/// Deletes all keys and leases, with etcd-client, because the adapter is under test.
async fn empty(cluster: &Cluster) -> Result<(), etcd_client::Error> {
    let mut client = Client::connect(cluster.endpoints(), None).await?;
    for lease in client.leases().await?.leases() {
        // The lease may have expired meanwhile.
        let _ = client.lease_revoke(lease.id()).await;
    }
    client.delete("", Some(DeleteOptions::new().with_all_keys())).await?;
    Ok(())
}
