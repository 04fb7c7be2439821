//! An election with two candidates: the second is elected when the first resigns.
//!
//! It is a port of Go's `ExampleElection_Campaign`, and prints the same lines.
//!
//! In memory: `cargo run --example election`
//!
//! On etcd: `cargo run --example election --features etcd -- --endpoints 127.0.0.1:2379`
#![expect(clippy::print_stdout, reason = "an example prints its results")]

mod store;

use std::process::ExitCode;

use coord_core::{Election, Session};
use store::{Result, Store};
use tokio::task::JoinSet;

const USAGE: &str = "\
usage: cargo run --example election
       cargo run --example election --features etcd -- --endpoints HOST:PORT[,HOST:PORT...]";

fn main() -> ExitCode {
    store::run(USAGE, |[], store| elect(store))
}

#[tokio::main(flavor = "current_thread")]
async fn elect(store: Store) -> Result<()> {
    let kv = store.connect().await?;
    let s1 = Session::builder(&kv).open().await?;
    let s2 = Session::builder(&kv).open().await?;
    let (e1, e2) = (Election::new(&s1, "/my-election/"), Election::new(&s2, "/my-election/"));
    let mut leaders = e1.observe();

    let mut elected = JoinSet::new();
    elected.spawn(async move { e2.campaign("e2").await });
    // Wait until e2 leads, so that e1 is the second.
    while leaders.next().await.ok_or("the stream of leaders has ended")??.is_none() {}
    elected.spawn({
        let e1 = e1.clone();
        async move { e1.campaign("e1").await }
    });

    for which in ["first", "second"] {
        let leadership = elected.join_next().await.ok_or("both campaigns have completed")???;
        let leader = e1.leader().await?.ok_or("there is no leader")?;
        let name = String::from_utf8_lossy(leader.value());
        println!("completed {which} election with {name}");
        // So that the next candidate can be elected.
        leadership.resign().await?;
    }
    s1.close().await?;
    s2.close().await?;
    Ok(())
}
