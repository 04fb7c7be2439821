//! Ten concurrent transactions move money between five accounts and keep the sum.
//!
//! It is a port of Go's `ExampleSTM_apply`, and prints the same line. In Go the accounts are
//! random.
//!
//! In memory: `cargo run --example transfer`
//!
//! On etcd: `cargo run --example transfer --features etcd -- --endpoints 127.0.0.1:2379`
#![expect(clippy::print_stdout, reason = "an example prints its results")]

mod store;

use std::process::ExitCode;

use coord_core::Stm;
use coord_core::stm::Transaction;
use store::{Result, Store};
use tokio::task::JoinSet;

const ACCOUNTS: usize = 5;

const USAGE: &str = "\
usage: cargo run --example transfer
       cargo run --example transfer --features etcd -- --endpoints HOST:PORT[,HOST:PORT...]";

fn main() -> ExitCode {
    store::run(USAGE, |[], store| transfer(store))
}

#[tokio::main]
async fn transfer(store: Store) -> Result<()> {
    let kv = store.connect().await?;
    for n in 0..ACCOUNTS {
        kv.put(account(n), "100").await?;
    }

    let stm = Stm::new(&kv);
    let mut exchanges = JoinSet::new();
    for n in 0..10 {
        let (stm, from, to) = (stm.clone(), n % ACCOUNTS, (3 * n + 1) % ACCOUNTS);
        // The closure is retried if another transaction has changed an account that it has read.
        exchanges.spawn(async move { stm.run(async move |tx| exchange(tx, from, to).await).await });
    }
    for committed in exchanges.join_all().await {
        committed?;
    }

    let mut sum = 0;
    for kv in kv.get_prefix("accts/").await? {
        sum += std::str::from_utf8(&kv.value)?.parse::<u64>()?;
    }
    println!("account sum is {sum}");
    Ok(())
}

/// Moves half of the balance of one account to another.
async fn exchange(tx: &mut Transaction, from: usize, to: usize) -> Result<()> {
    if from == to {
        return Ok(());
    }
    let (source, target) = (balance(tx, from).await?, balance(tx, to).await?);
    let amount = source / 2;
    tx.put(account(from), (source - amount).to_string());
    tx.put(account(to), (target + amount).to_string());
    Ok(())
}

async fn balance(tx: &mut Transaction, n: usize) -> Result<u64> {
    let balance: Option<String> = tx.get_as(account(n)).await?;
    Ok(balance.ok_or("the account does not exist")?.parse()?)
}

fn account(n: usize) -> String {
    format!("accts/{n}")
}
