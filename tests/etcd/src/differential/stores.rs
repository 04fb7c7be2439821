//! Differential test of `MemBackend` and etcd behind the adapter, with a [`Mirror`].
//!
//! The stores have low limits, so that scenarios reach them: 12 operations in a transaction, 16 KiB
//! in a request.

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

/// Limits that scenarios reach.
const LIMITS: Limits = Limits { max_txn_ops: 12, max_request_bytes: 16 * 1024 };

/// A store and a server, with the server's guard.
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

    async fn run(&mut self, scenario: &Vec<Operation>) -> Result<(), String> {
        self.mirror.run(scenario).await.map_err(|difference| difference.to_string())
    }

    fn tally(&self) -> Tally {
        self.mirror.tally()
    }
}

/// A store with the same limits as the servers.
#[must_use]
pub fn store() -> MemBackend {
    MemBackend::builder().limits(LIMITS).build()
}

/// The scenario with this seed, for a real server.
#[must_use]
pub fn sequence(seed: u64) -> Vec<Operation> {
    tree::<Stores>(seed).current()
}
