//! The conformance suite on every etcd release of this machine, through the adapter.

use std::process::ExitCode;

use coord_etcd::EtcdBackend;
use coord_etcd_tests::{Pool, PooledCluster, Release};
use coord_testkit::conformance::{self, Capability, Clock, Suite};

fn main() -> ExitCode {
    Release::run_on_all(run)
}

fn run(releases: &[Release]) -> ExitCode {
    let pools: Vec<_> = releases.iter().cloned().map(Pool::new).collect();
    let suites = releases.iter().zip(&pools).map(|(release, pool)| suite(release, pool));
    let code = conformance::main(suites.collect::<Vec<_>>());
    for pool in &pools {
        pool.close();
    }
    code
}

fn suite(release: &Release, pool: &Pool) -> Suite {
    let (emptied, new) = (pool.clone(), pool.clone());
    Suite::new(format!("etcd-{}", release.minor()), Clock::Real, move || {
        let pool = emptied.clone();
        async move { connect(pool.take_empty().await).await }
    })
    .fresh(move || {
        let pool = new.clone();
        async move { connect(pool.start_new().await).await }
    })
    .claims(claims(release))
}

async fn connect(server: PooledCluster) -> (PooledCluster, EtcdBackend) {
    let backend = EtcdBackend::connect(server.endpoints()).await;
    (server, backend.expect("the server is ready"))
}

/// The capabilities of a release.
fn claims(release: &Release) -> Vec<Capability> {
    let mut claims =
        vec![Capability::ExactRequestSize, Capability::UnboundedDeletes, Capability::OwnPutCall];
    let (_, minor, patch) = release.version;
    if minor > 5 || (minor == 5 && patch >= 16) || (minor == 4 && patch >= 34) {
        claims.push(Capability::RetainedTombstone);
    }
    if minor <= 5 {
        claims.push(Capability::PutsCheckedFirst);
    }
    claims
}
