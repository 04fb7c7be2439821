//! The differential target [`Stores`]: the responses of `MemBackend` and of etcd behind the
//! adapter, compared by a [`Mirror`].
//!
//! The limits of the stores are low, so that scenarios reach them: 12 operations in a transaction,
//! 16 KiB in a request.

use coord_core::kv::Limits;
use coord_etcd::EtcdBackend;
use coord_mem::MemBackend;
use coord_testkit::Mirror;
use coord_testkit::mirror::Tally;
use coord_testkit::strategy::{self, Clock, Hazards, Operation, Options};
use proptest::strategy::{BoxedStrategy, ValueTree as _};

use super::{Pair, tombstones, tree};
use crate::cluster::{Cluster, ClusterBuilder};
use crate::release::Release;

/// The limits of both stores.
const LIMITS: Limits = Limits { max_txn_ops: 12, max_request_bytes: 16 * 1024 };

/// A `MemBackend` and a real etcd. Dropping it stops the server.
pub(super) struct Stores {
    mirror: Mirror<MemBackend, EtcdBackend>,
    _server: Cluster,
}

impl Pair for Stores {
    type Scenario = Vec<Operation>;

    fn scenarios() -> BoxedStrategy<Vec<Operation>> {
        let options = Options { hazards: Hazards::Exclude, clock: Clock::Real, length: 1..=60 };
        strategy::operations(&options)
    }

    async fn start(release: &Release) -> Self {
        let builder = ClusterBuilder::new(release.clone())
            .argument(&format!("--max-txn-ops={}", LIMITS.max_txn_ops))
            .argument(&format!("--max-request-bytes={}", LIMITS.max_request_bytes));
        let server = builder.start().await;
        let etcd = EtcdBackend::builder(server.endpoints()).limits(LIMITS).connect().await;
        let etcd = etcd.expect("the server is ready");
        let mirror = Mirror::new(store(), etcd).tombstones(tombstones(release));
        Self { mirror, _server: server }
    }

    async fn run(&mut self, scenario: &Vec<Operation>) -> Result<(), String> {
        self.mirror.run(scenario).await.map_err(|difference| difference.to_string())
    }

    fn tally(&self) -> Tally {
        self.mirror.tally()
    }
}

/// An empty `MemBackend` with the same limits as the real servers.
#[must_use]
pub fn store() -> MemBackend {
    MemBackend::builder().limits(LIMITS).build()
}

/// The scenario with this seed. Its operations are safe for a real server.
#[must_use]
pub fn sequence(seed: u64) -> Vec<Operation> {
    tree::<Stores>(seed).current()
}
