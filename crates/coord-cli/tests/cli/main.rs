//! What `coord lock`, `elect`, `observe`, `who` and `serve` promise, on every etcd of this machine: the
//! program itself, with real processes and real signals.
//!
//! A story gets a server of its own, and waits for what it wants to see.

mod elect;
mod interop;
mod lock;
mod look;
mod loss;
mod program;
mod reach;
mod serve;
mod terminal;

use std::process::ExitCode;

use coord_etcd_tests::{Pool, Release};
use futures_util::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Builder;

use program::Server;

/// A promise: its name, and what shows that it is kept.
type Story = (&'static str, fn(Server) -> LocalBoxFuture<'static, ()>);

/// Lists functions by their names.
macro_rules! stories {
    ($($story:ident),+ $(,)?) => {
        pub(crate) const STORIES: &[$crate::Story] =
            &[$((stringify!($story), |server| Box::pin($story(server)))),+];
    };
}
pub(crate) use stories;

fn main() -> ExitCode {
    Release::run_on_all(run)
}

fn run(releases: &[Release]) -> ExitCode {
    let pools: Vec<_> = releases.iter().cloned().map(Pool::new).collect();
    let trials = releases.iter().zip(&pools).flat_map(|(release, pool)| on(release, pool));
    let code = libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code();
    pools.iter().for_each(Pool::close);
    code
}

/// Every story, on a server of this release.
fn on(release: &Release, pool: &Pool) -> impl Iterator<Item = Trial> {
    let all = [
        elect::STORIES,
        interop::STORIES,
        lock::STORIES,
        look::STORIES,
        loss::STORIES,
        reach::STORIES,
        serve::STORIES,
        terminal::STORIES,
    ];
    all.into_iter().flatten().map(move |&(name, story)| {
        let (pool, release) = (pool.clone(), release.clone());
        Trial::test(format!("etcd-{}::{name}", release.minor()), move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                story(Server::of(&pool, release).await).await;
            });
            Ok(())
        })
    })
}
