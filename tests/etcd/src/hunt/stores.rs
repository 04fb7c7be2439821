//! `MemBackend` against etcd behind the adapter, driven by a [`Mirror`].
//!
//! The stores have low limits, so that they are met: twelve operations in a transaction, 16 KiB in
//! a request.

use coord_core::kv::Limits;
use coord_etcd::EtcdBackend;
use coord_mem::MemBackend;
use coord_testkit::Mirror;
use coord_testkit::mirror::Tally;
use coord_testkit::strategy::{self, Clock, Hazards, Operation, Options};
use proptest::strategy::{BoxedStrategy, ValueTree as _};

use super::{Pair, tombstones, tree};
use crate::cluster::{Cluster, Setup};
use crate::release::Release;

/// Low enough to be met.
const LIMITS: Limits = Limits { max_txn_ops: 12, max_request_bytes: 16 * 1024 };

/// A store beside a server, which lives as long as its guard.
pub(super) struct Stores {
    mirror: Mirror<MemBackend, EtcdBackend>,
    _server: Cluster,
}

impl Pair for Stores {
    type Script = Vec<Operation>;

    fn scripts() -> BoxedStrategy<Vec<Operation>> {
        let options = Options { hazards: Hazards::Exclude, clock: Clock::Real, length: 1..=60 };
        strategy::operations(&options)
    }

    async fn fresh(release: &Release) -> Self {
        let setup = Setup::new(release.clone())
            .argument(&format!("--max-txn-ops={}", LIMITS.max_txn_ops))
            .argument(&format!("--max-request-bytes={}", LIMITS.max_request_bytes));
        let server = setup.start().await;
        let etcd = EtcdBackend::builder(server.endpoints()).limits(LIMITS).connect().await;
        let etcd = etcd.expect("a server that is ready takes connections");
        let mirror = Mirror::new(store(), etcd).tombstones(tombstones(release));
        Self { mirror, _server: server }
    }

    async fn play(&mut self, script: &Vec<Operation>) -> Result<(), String> {
        self.mirror.run(script).await.map_err(|difference| difference.to_string())
    }

    fn tally(&self) -> Tally {
        self.mirror.tally()
    }
}

/// A store with the limits that the servers have.
#[must_use]
pub fn store() -> MemBackend {
    MemBackend::builder().limits(LIMITS).build()
}

/// The sequence with this seed, fit for a real server.
#[must_use]
pub fn sequence(seed: u64) -> Vec<Operation> {
    tree::<Stores>(seed).current()
}
