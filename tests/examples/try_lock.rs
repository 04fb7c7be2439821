//! `try_lock` and two sessions: the second session does not wait for a held lock.
//!
//! It is a port of Go's `ExampleMutex_TryLock`, and prints the same lines.
//!
//! In memory: `cargo run --example try_lock`
//!
//! On etcd: `cargo run --example try_lock --features etcd -- --endpoints 127.0.0.1:2379`
#![expect(clippy::print_stdout, reason = "an example prints its results")]

mod store;

use std::process::ExitCode;

use coord_core::{Mutex, Session};
use store::{Result, Store};

const USAGE: &str = "\
usage: cargo run --example try_lock
       cargo run --example try_lock --features etcd -- --endpoints HOST:PORT[,HOST:PORT...]";

fn main() -> ExitCode {
    store::run(USAGE, |[], store| try_lock_twice(store))
}

#[tokio::main(flavor = "current_thread")]
async fn try_lock_twice(store: Store) -> Result<()> {
    let kv = store.connect().await?;
    let s1 = Session::builder(&kv).open().await?;
    let s2 = Session::builder(&kv).open().await?;
    let (m1, m2) = (Mutex::new(&s1, "/my-lock"), Mutex::new(&s2, "/my-lock"));

    let first = m1.lock().await?;
    println!("acquired lock for s1");

    // A lock that another session holds is a result, not an error.
    match m2.try_lock().await? {
        None => println!("cannot acquire lock for s2, as already locked in another session"),
        Some(_) => return Err("s2 acquired a lock that s1 holds".into()),
    }

    first.unlock().await?;
    println!("released lock for s1");

    let second = m2.try_lock().await?.ok_or("the lock is still held")?;
    println!("acquired lock for s2");

    second.unlock().await?;
    s1.close().await?;
    s2.close().await?;
    Ok(())
}
