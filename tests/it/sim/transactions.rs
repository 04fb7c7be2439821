//! Transactions under every fault: transfers keep the sum, and a counter counts each commit once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coord_core::stm::{StmError, Transaction};
use coord_core::{Client, Error, Session, Stm};
use coord_testkit::sim::{Process, Sim, Sweep};

use super::{SEEDS, print};

const ACCOUNTS: [&str; 3] = ["account/1", "account/2", "account/3"];

async fn number(tx: &mut Transaction, key: &'static str) -> coord_core::Result<i64> {
    Ok(tx.get_as::<String>(key).await?.map_or(100, |text| text.parse().unwrap()))
}

/// Moves money from one account to the next, and counts the transfer.
async fn exchange(tx: &mut Transaction, from: usize, amount: i64) -> coord_core::Result<()> {
    let (from, to) = (ACCOUNTS[from], ACCOUNTS[(from + 1) % ACCOUNTS.len()]);
    let (source, target) = (number(tx, from).await?, number(tx, to).await?);
    let count = number(tx, "transfers").await?;
    tx.put(from, (source - amount).to_string());
    tx.put(to, (target + amount).to_string());
    tx.put("transfers", (count + 1).to_string());
    Ok(())
}

/// Moves money in a circle, one transaction per step.
async fn transfer(stm: Stm, amount: i64) -> Result<(), StmError<Error>> {
    for from in 0..ACCOUNTS.len() {
        stm.run(async move |tx| exchange(tx, from, amount).await).await?;
    }
    Ok(())
}

/// How many transfers were started, and how many were confirmed.
#[derive(Default)]
struct Counts {
    started: AtomicU64,
    confirmed: AtomicU64,
}

/// Two tasks of one process, which transfer exactly once.
async fn work(
    process: Process,
    counts: Arc<Counts>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let session = Session::builder(process.client()).open().await?;
    let stm = Stm::new(process.client()).exactly_once(&session);
    let task = |amount| {
        let (stm, counts) = (stm.clone(), Arc::clone(&counts));
        process.spawn(async move {
            counts.started.fetch_add(3, Ordering::Relaxed);
            transfer(stm, amount).await?;
            counts.confirmed.fetch_add(3, Ordering::Relaxed);
            Ok::<_, StmError<Error>>(())
        })
    };
    let (first, second) = (task(1), task(10));
    first.await?;
    second.await?;
    Ok(session.close().await?)
}

async fn stored(client: &Client, key: &str) -> i64 {
    let value = client.get(key).await.unwrap();
    value.map_or(100, |kv| std::str::from_utf8(&kv.value).unwrap().parse().unwrap())
}

async fn transact(sim: Sim) {
    let counts = Arc::<Counts>::default();
    for name in ["a", "b"] {
        let counts = Arc::clone(&counts);
        sim.spawn(name, |process| work(process, counts));
    }
    sim.join().await;
    let mut sum = 0;
    for account in ACCOUNTS {
        sum += stored(sim.client(), account).await;
    }
    assert_eq!(sum, 300, "the sum of the accounts");
    let transfers = u64::try_from(stored(sim.client(), "transfers").await - 100).unwrap();
    let started = counts.started.load(Ordering::Relaxed);
    let confirmed = counts.confirmed.load(Ordering::Relaxed);
    assert!((confirmed..=started).contains(&transfers), "{confirmed}..={started}: {transfers}");
    sim.sometimes("every transfer is confirmed", confirmed == 12);
}

#[test]
fn transactions_keep_the_sum_under_every_fault() {
    let name = "transactions_keep_the_sum_under_every_fault";
    print(name, &Sweep::new(name).seeds(SEEDS).check_store().run(transact));
}
