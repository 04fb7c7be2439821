//! What `coord lock`, `elect`, `observe`, `who` and `serve` promise, on every etcd of this machine:
//! the program itself, with real processes and real signals, and with other people's clients.
//!
//! A story gets a server of its own, and waits for what it wants to see.

mod elect;
mod etcdctl;
mod interop;
mod lock;
mod look;
mod loss;
mod manage;
mod processes;
mod program;
mod python;
mod reach;
mod rest;
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
    // What takes longest comes first.
    let trials = on_ours(releases).chain(trials).collect();
    let code = libtest_mimic::run(&Arguments::from_args(), trials).exit_code();
    pools.iter().for_each(Pool::close);
    code
}

/// Every story, on a server of this release.
fn on(release: &Release, pool: &Pool) -> impl Iterator<Item = Trial> {
    let all = [
        elect::STORIES,
        etcdctl::STORIES,
        interop::STORIES,
        lock::STORIES,
        look::STORIES,
        loss::STORIES,
        manage::STORIES,
        processes::STORIES,
        reach::STORIES,
        rest::STORIES,
        serve::STORIES,
        terminal::STORIES,
    ];
    let stories = all.into_iter().flatten().map(move |&(name, story)| {
        let (pool, release) = (pool.clone(), release.clone());
        trial(&place(&release), name, async move || {
            story(Server::of(&pool, release).await).await;
        })
    });
    let scripts = etcdctl::scripts().map(move |script| {
        let (pool, release) = (pool.clone(), release.clone());
        trial(&place(&release), &format!("etcdctl::{script}"), async move || {
            etcdctl::same_on_both(&script, &pool, &release).await;
        })
    });
    let clients = python::CLIENTS.into_iter().map(move |client| {
        let pool = pool.clone();
        trial(&place(release), &format!("python::{client}"), async move || {
            let server = pool.emptied().await;
            python::passes(client, server[0].endpoint().trim_start_matches("http://")).await;
        })
    });
    stories.chain(scripts).chain(clients)
}

/// What needs no etcd to be compared with.
fn on_ours(releases: &[Release]) -> impl Iterator<Item = Trial> {
    let newest = releases.last().cloned().expect("there is one");
    let check = trial("serve", "etcdctl::check_perf_passes", async move || {
        etcdctl::check_perf_passes(&newest).await;
    });
    let clients = python::CLIENTS.into_iter().map(|client| {
        trial("serve", &format!("python::{client}"), async move || {
            let (_serve, address) = serve::serving(&[]).await;
            python::passes(client, &address).await;
        })
    });
    std::iter::once(check).chain(clients)
}

fn place(release: &Release) -> String {
    format!("etcd-{}", release.minor())
}

fn trial(place: &str, name: &str, story: impl AsyncFnOnce() + Send + 'static) -> Trial {
    Trial::test(format!("{place}::{name}"), move || {
        Builder::new_current_thread().enable_all().build()?.block_on(story());
        Ok(())
    })
}
