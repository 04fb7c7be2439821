//! Tests of the program `coord` on every etcd release of this machine.
//!
//! They run the binary with real processes, signals and terminals, beside `etcdctl` and two Python
//! clients. Each test gets an empty server of its own, and waits for the output that it expects.

mod connection;
mod elect;
mod etcdctl;
mod interop;
mod list_break;
mod lock;
mod loss;
mod members;
mod min_hold;
mod observe_who;
mod processes;
mod program;
mod python;
mod serve;
mod slots;
mod terminal;

use std::process::ExitCode;

use coord_etcd_tests::{Pool, Release};
use futures_util::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Builder;

use program::Server;

/// A test: its name and its function.
type Test = (&'static str, fn(Server) -> LocalBoxFuture<'static, ()>);

/// Lists the tests of a module by the names of their functions.
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        pub(crate) const TESTS: &[$crate::Test] =
            &[$((stringify!($test), |server| Box::pin($test(server)))),+];
    };
}
pub(crate) use tests;

fn main() -> ExitCode {
    Release::run_on_all(run)
}

fn run(releases: &[Release]) -> ExitCode {
    let pools: Vec<_> = releases.iter().cloned().map(Pool::new).collect();
    let trials = releases.iter().zip(&pools).flat_map(|(release, pool)| trials_on(release, pool));
    // The longest tests first, so that they do not run alone at the end.
    let trials = trials_without_etcd(releases).chain(trials).collect();
    let code = libtest_mimic::run(&Arguments::from_args(), trials).exit_code();
    pools.iter().for_each(Pool::close);
    code
}

/// Every test, on a server of this release.
fn trials_on(release: &Release, pool: &Pool) -> impl Iterator<Item = Trial> {
    let all = [
        elect::TESTS,
        etcdctl::TESTS,
        interop::TESTS,
        lock::TESTS,
        observe_who::TESTS,
        loss::TESTS,
        list_break::TESTS,
        processes::TESTS,
        connection::TESTS,
        members::TESTS,
        min_hold::TESTS,
        serve::TESTS,
        slots::TESTS,
        terminal::TESTS,
    ];
    let tests = all.into_iter().flatten().map(move |&(name, test)| {
        let (pool, release) = (pool.clone(), release.clone());
        trial(&test_prefix(&release), name, async move || {
            test(Server::new(&pool, release).await).await;
        })
    });
    let scripts = etcdctl::scripts().map(move |script| {
        let (pool, release) = (pool.clone(), release.clone());
        trial(&test_prefix(&release), &format!("etcdctl::{script}"), async move || {
            etcdctl::compare_outputs(&script, &pool, &release).await;
        })
    });
    let clients = python::CLIENTS.into_iter().map(move |client| {
        let pool = pool.clone();
        trial(&test_prefix(release), &format!("python::{client}"), async move || {
            let server = pool.take_empty().await;
            python::assert_passes(client, server[0].endpoint().trim_start_matches("http://")).await;
        })
    });
    tests.chain(scripts).chain(clients)
}

/// The tests of `coord serve` that need no etcd server.
fn trials_without_etcd(releases: &[Release]) -> impl Iterator<Item = Trial> {
    let newest = releases.last().cloned().expect("there is a release");
    let check = trial("serve", "etcdctl::check_perf_passes", async move || {
        etcdctl::check_perf_passes(&newest).await;
    });
    let clients = python::CLIENTS.into_iter().map(|client| {
        trial("serve", &format!("python::{client}"), async move || {
            let (_serve, address) = serve::start_serve(&[]).await;
            python::assert_passes(client, &address).await;
        })
    });
    std::iter::once(check).chain(clients)
}

/// The prefix of the test names of a release.
fn test_prefix(release: &Release) -> String {
    format!("etcd-{}", release.minor())
}

fn trial(prefix: &str, name: &str, test: impl AsyncFnOnce() + Send + 'static) -> Trial {
    Trial::test(format!("{prefix}::{name}"), move || {
        Builder::new_current_thread().enable_all().build()?.block_on(test());
        Ok(())
    })
}
