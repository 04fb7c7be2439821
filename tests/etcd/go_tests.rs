//! The ported tests of Go's package, on every etcd release of this machine.

#[path = "../go/mod.rs"]
mod go;

use std::process::ExitCode;

use coord_core::Client;
use coord_etcd::EtcdBackend;
use coord_etcd_tests::{ClusterBuilder, Pool, PooledCluster, Release};
use libtest_mimic::{Arguments, Trial};

use crate::go::{Store, TESTS};

fn main() -> ExitCode {
    Release::run_on_all(run)
}

fn run(releases: &[Release]) -> ExitCode {
    let pools: Vec<_> = releases.iter().map(Pools::new).collect();
    let trials = releases.iter().zip(&pools).flat_map(|(release, pools)| trials(release, pools));
    let code = libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code();
    for pools in &pools {
        pools.one.close();
        pools.three.close();
    }
    code
}

/// The pools of one release, with one member and with three.
#[derive(Clone)]
struct Pools {
    one: Pool,
    three: Pool,
}

impl Pools {
    fn new(release: &Release) -> Self {
        let three = ClusterBuilder::new(release.clone()).members(3);
        Self { one: Pool::new(release.clone()), three: Pool::with_builder(three) }
    }
}

/// Every test on a release, with as many members as in Go's test.
fn trials(release: &Release, pools: &Pools) -> impl Iterator<Item = Trial> {
    TESTS.iter().map(|test| {
        let pools = pools.clone();
        test.trial(&format!("etcd-{}", release.minor()), false, async move |members| {
            let pool = if members == 3 { &pools.three } else { &pools.one };
            let servers = pool.take_empty().await;
            let store = store(&servers);
            (servers, store)
        })
    })
}

/// A store whose clients have connections of their own, each to one member.
fn store(servers: &PooledCluster) -> Store {
    let endpoints = servers.endpoints();
    Store::new(move |member| {
        let endpoint = endpoints[member % endpoints.len()].clone();
        Box::pin(async move {
            let client = EtcdBackend::connect([endpoint]).await;
            Client::new(client.expect("the server is ready"))
        })
    })
}
