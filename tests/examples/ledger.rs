//! A ledger that eight workers keep under one lock. One worker is killed while it holds the lock.
//!
//! A file has 10,000 transfers between 100 accounts. Each worker is a thread with its own runtime
//! and session, like a process. The holder of the lock applies the next transfers, ten in each
//! *transaction*, which reads the ledger's cursor and the balances and writes their new values. It
//! commits only if nothing that it read has changed. So each transfer is applied exactly once, also
//! when a worker crashes, and even if two workers act as holder at the same time: the lock only
//! avoids conflicts.
//!
//! Half-way, the worker that holds the lock is killed, and does not unlock. When its lease expires,
//! the next waiter acquires the lock and continues at the cursor. At the end the balances are
//! compared with those of a sequential run.
//!
//! In memory: `cargo run --example ledger -- tests/data/transfers.csv`
//!
//! On etcd: `cargo run --example ledger --features etcd -- tests/data/transfers.csv --endpoints
//! 127.0.0.1:2379`
#![expect(clippy::print_stdout, reason = "an example prints its results")]

mod store;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coord_core::stm::Transaction;
use coord_core::{
    Client, Mutex, Session, Stm,
    kv::{Put, Txn},
};
use store::{Result, Store};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

const WORKERS: usize = 8;
const ACCOUNTS: usize = 100;
const OPENING_BALANCE: u64 = 1_000;
/// The number of transfers that a worker applies each time it holds the lock.
const TRANSFERS_PER_HOLD: usize = 100;
/// The number of transfers in one transaction.
const TRANSFERS_PER_TXN: usize = 10;
/// The TTL of the sessions.
const TTL: Duration = Duration::from_secs(2);

const LOCK_NAME: &str = "ledger/lock";
/// The key with the number of applied transfers.
const CURSOR_KEY: &str = "ledger/cursor";
/// The prefix of the keys with the balances.
const BALANCE_PREFIX: &str = "ledger/balance/";

const USAGE: &str = "\
usage: cargo run --example ledger -- FILE
       cargo run --example ledger --features etcd -- FILE --endpoints HOST:PORT[,HOST:PORT...]

FILE is a CSV file with the columns id, from, to and amount, like tests/data/transfers.csv. The
accounts are 00 to 99, each with an opening balance of 1000. Without --endpoints, the ledger is in
memory. With it, the ledger is on etcd under the prefix ledger/, whose keys are deleted first.";

type Balances = BTreeMap<String, u64>;

#[derive(Clone, Debug)]
struct Transfer {
    from: String,
    to: String,
    amount: u64,
}

impl Transfer {
    /// The balances of both accounts after the transfer. `None` if the balance is too low or the
    /// accounts are equal, in which case nothing is transferred.
    fn new_balances(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        let is_valid = from >= self.amount && self.from != self.to;
        is_valid.then(|| (from - self.amount, to + self.amount))
    }
}

/// The state that all workers share.
struct Ledger {
    store: Store,
    transfers: Vec<Transfer>,
    /// Whether a worker is still to be killed.
    kill_pending: AtomicBool,
}

/// The result of a worker.
struct WorkerReport {
    applied: usize,
    killed: bool,
}

fn main() -> ExitCode {
    store::run(USAGE, |[file], store| run_workers(Path::new(&file), store))
}

fn run_workers(file: &Path, store: Store) -> Result<()> {
    let transfers = read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let kv = runtime.block_on(store.connect())?;
    runtime.block_on(open_accounts(&kv))?;
    println!("{ACCOUNTS} accounts, {} transfers, {WORKERS} workers, one lock\n", transfers.len());

    let ledger = Arc::new(Ledger { store, transfers, kill_pending: AtomicBool::new(true) });
    let start = |worker| {
        let ledger = Arc::clone(&ledger);
        std::thread::spawn(move || run_worker(worker, &ledger))
    };
    let workers: Vec<_> = (1..=WORKERS).map(start).collect();
    let mut reports = Vec::new();
    for worker in workers {
        reports.push(worker.join().map_err(|_| "a worker panicked")??);
    }
    println!();
    for (worker, WorkerReport { applied, killed }) in (1..).zip(reports) {
        let end = if killed { ", then was killed" } else { "" };
        println!("worker {worker} applied {applied:5} transfers{end}");
    }

    let balances = runtime.block_on(balances(&kv))?;
    show(&balances);
    check(&balances, &ledger.transfers)?;
    println!(
        "\nRead next: docs/guide/transactions.md, or the source of this example: tests/examples/ledger.rs"
    );
    Ok(())
}

fn read(file: &Path) -> Result<Vec<Transfer>> {
    let mut transfers = Vec::new();
    for row in csv::Reader::from_path(file)?.records() {
        let row = row?;
        let field = |i: usize| row.get(i).ok_or("a row has too few columns");
        let amount = field(3)?.parse().map_err(|error| format!("{:?}: {error}", field(3)))?;
        transfers.push(Transfer { from: field(1)?.to_owned(), to: field(2)?.to_owned(), amount });
    }
    Ok(transfers)
}

fn opening_balances() -> Balances {
    (0..ACCOUNTS).map(|account| (format!("{account:02}"), OPENING_BALANCE)).collect()
}

async fn open_accounts(kv: &Client) -> Result<()> {
    let accounts = opening_balances();
    let put = |(account, balance): (&String, &u64)| Put::new(key(account), balance.to_string());
    kv.delete_prefix("ledger/").await?;
    let open = accounts.iter().map(put).chain([Put::new(CURSOR_KEY, "0")]);
    kv.txn(Txn::new().and_then(open)).await?;
    Ok(())
}

async fn balances(kv: &Client) -> Result<Balances> {
    let mut balances = Balances::new();
    for kv in kv.get_prefix(BALANCE_PREFIX).await? {
        let account = String::from_utf8(kv.key[BALANCE_PREFIX.len()..].to_vec())?;
        balances.insert(account, std::str::from_utf8(&kv.value)?.parse()?);
    }
    Ok(balances)
}

/// Runs a worker like a process: when it is killed, its runtime is dropped with all tasks, the
/// session task included, and nothing is cleaned up.
fn run_worker(worker: usize, ledger: &Arc<Ledger>) -> Result<WorkerReport> {
    let process = Builder::new_current_thread().enable_all().build()?;
    process.block_on(async {
        let (kill, killed) = oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(work(worker, Arc::clone(ledger), kill));
        tokio::select! {
            biased;
            Ok(applied) = killed => Ok(WorkerReport { applied, killed: true }),
            Some(applied) = task.join_next() => {
                Ok(WorkerReport { applied: applied??, killed: false })
            }
        }
    })
}

/// Applies transfers, alternately with the other workers, until all are applied. Returns the number
/// that this worker has applied.
async fn work(worker: usize, ledger: Arc<Ledger>, kill: oneshot::Sender<usize>) -> Result<usize> {
    let Ledger { store, transfers, kill_pending } = &*ledger;
    let kv = store.connect().await?;
    let session = Session::builder(&kv).ttl(TTL).open().await?;
    let (mutex, stm) = (Mutex::new(&session, LOCK_NAME), Stm::new(&kv).exactly_once(&session));
    let mut applied = 0;
    loop {
        let began = Instant::now();
        let guard = mutex.lock().await?;
        let mut cursor = cursor(&kv).await?;
        if began.elapsed() > TTL / 2 {
            let waited = began.elapsed().as_secs_f32();
            println!("worker {worker} acquired the lock after {waited:.1} s, at transfer {cursor}");
        }
        let end = transfers.len().min(cursor + TRANSFERS_PER_HOLD);
        while cursor < end {
            let ledger = Arc::clone(&ledger);
            let next = async move |tx: &mut Transaction| apply_next(tx, &ledger.transfers).await;
            let done = stm.run(next).await?.value;
            (cursor, applied) = (done.end, applied + done.len());
            // In the middle of the file, and while the lock is held.
            if cursor >= transfers.len().saturating_sub(TRANSFERS_PER_HOLD) / 2
                && kill_pending.swap(false, Ordering::Relaxed)
            {
                println!("worker {worker} is killed at transfer {cursor}, holding the lock");
                let _ = kill.send(applied);
                return std::future::pending().await;
            }
        }
        guard.unlock().await?;
        if cursor == transfers.len() {
            session.close().await?;
            return Ok(applied);
        }
    }
}

async fn cursor(kv: &Client) -> Result<usize> {
    let cursor = kv.get(CURSOR_KEY).await?.ok_or("the ledger does not exist")?;
    Ok(std::str::from_utf8(&cursor.value)?.parse()?)
}

/// Applies the next transfers of the file to the ledger, and returns their range.
async fn apply_next(tx: &mut Transaction, transfers: &[Transfer]) -> Result<Range<usize>> {
    let cursor = usize::try_from(number(tx, CURSOR_KEY).await?)?;
    let done = cursor..transfers.len().min(cursor + TRANSFERS_PER_TXN);
    let next = &transfers[done.clone()];
    // Read all balances in one request. The reads below need no request, and see the puts.
    tx.get_many(next.iter().flat_map(|transfer| [key(&transfer.from), key(&transfer.to)])).await?;
    for transfer in next {
        let (from, to) = (key(&transfer.from), key(&transfer.to));
        let (source, target) = (number(tx, &from).await?, number(tx, &to).await?);
        if let Some((source, target)) = transfer.new_balances(source, target) {
            tx.put(from, source.to_string());
            tx.put(to, target.to_string());
        }
    }
    tx.put(CURSOR_KEY, done.end.to_string());
    Ok(done)
}

async fn number(tx: &mut Transaction, key: &str) -> Result<u64> {
    let number: Option<String> = tx.get_as(key).await?;
    Ok(number.ok_or_else(|| format!("the ledger has no {key}"))?.parse()?)
}

fn key(account: &str) -> String {
    format!("{BALANCE_PREFIX}{account}")
}

fn show(balances: &Balances) {
    println!("\nbalances of accounts 00 to {:02}", ACCOUNTS - 1);
    let row = |row: &[&u64]| row.iter().map(|balance| format!("{balance:6}")).collect::<String>();
    for balances in balances.values().collect::<Vec<_>>().chunks(10) {
        println!("{}", row(balances));
    }
}

/// Compares the balances with those of a sequential run.
fn check(balances: &Balances, transfers: &[Transfer]) -> Result<()> {
    let mut expected = opening_balances();
    for transfer in transfers {
        let Transfer { from, to, .. } = transfer;
        if let Some((source, target)) = transfer.new_balances(expected[from], expected[to]) {
            expected.insert(from.clone(), source);
            expected.insert(to.clone(), target);
        }
    }
    if *balances != expected {
        return Err("the balances are not those of a sequential run".into());
    }
    let total: u64 = balances.values().sum();
    println!("\ntotal {total}; every balance is that of a sequential run");
    Ok(())
}
