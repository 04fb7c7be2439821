//! Go's tests of sessions, locks, elections and transactions, on every etcd of this machine.

#[path = "../go/mod.rs"]
mod go;

use std::process::ExitCode;

use coord_core::Client;
use coord_etcd::EtcdBackend;
use coord_etcd_tests::{Lent, Pool, Release, Setup};
use libtest_mimic::{Arguments, Trial};

use crate::go::{Store, TESTS};

fn main() -> ExitCode {
    Release::run_on_all(run)
}

fn run(releases: &[Release]) -> ExitCode {
    let pools: Vec<_> = releases.iter().map(Pools::of).collect();
    let trials = releases.iter().zip(&pools).flat_map(|(release, pools)| on(release, pools));
    let code = libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code();
    for pools in &pools {
        pools.one.close();
        pools.three.close();
    }
    code
}

/// Servers of one release, alone and in threes.
#[derive(Clone)]
struct Pools {
    one: Pool,
    three: Pool,
}

impl Pools {
    fn of(release: &Release) -> Self {
        let three = Setup::new(release.clone()).members(3);
        Self { one: Pool::new(release.clone()), three: Pool::of(three) }
    }
}

/// Every test, on the servers of a release: as many members as in Go.
fn on(release: &Release, pools: &Pools) -> impl Iterator<Item = Trial> {
    TESTS.iter().map(|test| {
        let pools = pools.clone();
        test.trial(&format!("etcd-{}", release.minor()), false, async move |members| {
            let pool = if members == 3 { &pools.three } else { &pools.one };
            let servers = pool.emptied().await;
            let store = store(&servers);
            (servers, store)
        })
    })
}

/// Clients of their own, with connections of their own, that each know one member.
fn store(servers: &Lent) -> Store {
    let endpoints = servers.endpoints();
    Store::new(move |member| {
        let endpoint = endpoints[member % endpoints.len()].clone();
        Box::pin(async move {
            let backend = EtcdBackend::connect([endpoint]).await;
            Client::new(backend.expect("the server is ready"))
        })
    })
}
