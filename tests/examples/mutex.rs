//! A lock and two sessions: the second session waits until the first unlocks.
//!
//! It is a port of Go's `ExampleMutex_Lock`, and prints the same lines.
//!
//! In memory: `cargo run --example mutex`
//!
//! On etcd: `cargo run --example mutex --features etcd -- --endpoints 127.0.0.1:2379`
#![expect(clippy::print_stdout, reason = "an example prints its results")]

mod store;

use std::process::ExitCode;

use coord_core::{Mutex, Session};
use store::{Result, Store};

const USAGE: &str = "\
usage: cargo run --example mutex
       cargo run --example mutex --features etcd -- --endpoints HOST:PORT[,HOST:PORT...]";

fn main() -> ExitCode {
    store::run(USAGE, |[], store| lock_twice(store))
}

#[tokio::main(flavor = "current_thread")]
async fn lock_twice(store: Store) -> Result<()> {
    let kv = store.connect().await?;
    let s1 = Session::builder(&kv).open().await?;
    let s2 = Session::builder(&kv).open().await?;
    let (m1, m2) = (Mutex::new(&s1, "/my-lock/"), Mutex::new(&s2, "/my-lock/"));

    let first = m1.lock().await?;
    println!("acquired lock for s1");

    // The second session calls `lock` before the first calls `unlock`.
    let unlock = async {
        first.unlock().await?;
        println!("released lock for s1");
        Ok(())
    };
    let (second, ()) = tokio::try_join!(m2.lock(), unlock)?;
    println!("acquired lock for s2");

    second.unlock().await?;
    s1.close().await?;
    s2.close().await?;
    Ok(())
}
