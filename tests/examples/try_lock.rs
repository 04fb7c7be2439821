//! Two sessions, one lock: the second does not wait, and is told that it is held.
//!
//! The story of Go's `ExampleMutex_TryLock`, and the same lines.
//!
//! In memory: `cargo run --example try_lock`
//!
//! On etcd: `cargo run --example try_lock --features etcd -- --endpoints 127.0.0.1:2379`
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

mod store;

use std::process::ExitCode;

use coord_core::{Mutex, Session};
use store::{Result, Store};

const USAGE: &str = "\
usage: cargo run --example try_lock
       cargo run --example try_lock --features etcd -- --endpoints HOST:PORT[,HOST:PORT...]";

fn main() -> ExitCode {
    store::run(USAGE, |[], store| try_twice(store))
}

#[tokio::main(flavor = "current_thread")]
async fn try_twice(store: Store) -> Result<()> {
    let kv = store.connect().await?;
    let s1 = Session::builder(&kv).open().await?;
    let s2 = Session::builder(&kv).open().await?;
    let (m1, m2) = (Mutex::new(&s1, "/my-lock"), Mutex::new(&s2, "/my-lock"));

    let first = m1.lock().await?;
    println!("acquired lock for s1");

    // That somebody else holds it is an answer, not an error.
    match m2.try_lock().await? {
        None => println!("cannot acquire lock for s2, as already locked in another session"),
        Some(_) => return Err("s2 must not have what s1 holds".into()),
    }

    first.unlock().await?;
    println!("released lock for s1");

    let second = m2.try_lock().await?.ok_or("nobody holds it any more")?;
    println!("acquired lock for s2");

    second.unlock().await?;
    s1.close().await?;
    s2.close().await?;
    Ok(())
}
