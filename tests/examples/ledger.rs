//! Eight workers keep a ledger, and one of them is killed while it holds the lock.
//!
//! A hundred accounts, ten thousand transfers in a file, eight workers that share one lock. Each
//! worker is a thread with a runtime and a session of its own, as a process would be. Whoever has
//! the lock applies the next transfers, ten at a time in a *transaction*: it reads the ledger's
//! cursor and the balances, writes what they become, and takes effect only if none of it was
//! changed meanwhile. So every transfer is applied exactly once, whatever happens to the worker,
//! and also if two should believe to have the lock: that only spares them to get in each other's
//! way.
//!
//! Half-way the worker that holds the lock is killed. Nobody unlocks; its lease runs out, the next
//! in line takes over where the cursor stands, and in the end the balances are those of one
//! bookkeeper who applied the file from top to bottom.
//!
//! In memory: `cargo run --example ledger -- tests/data/transfers.csv`
//!
//! On etcd: `cargo run --example ledger --features etcd -- tests/data/transfers.csv --endpoints
//! 127.0.0.1:2379`
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

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
/// How many transfers a worker applies before it gives others a turn.
const TURN: usize = 100;
/// How many transfers are applied together.
const TOGETHER: usize = 10;
const TTL: Duration = Duration::from_secs(2);

const LOCK: &str = "ledger/lock";
/// How many transfers of the file have been applied.
const CURSOR: &str = "ledger/cursor";
const BALANCES: &str = "ledger/balance/";

const USAGE: &str = "\
usage: cargo run --example ledger -- FILE
       cargo run --example ledger --features etcd -- FILE --endpoints HOST:PORT[,HOST:PORT...]

FILE is a CSV file with the columns id, from, to and amount, as tests/data/transfers.csv:
accounts are 00 to 99, and each starts with 1000. Without --endpoints the ledger is kept in memory;
on etcd it is kept under ledger/, and what was there before is deleted.";

type Balances = BTreeMap<String, u64>;

#[derive(Clone, Debug)]
struct Transfer {
    from: String,
    to: String,
    amount: u64,
}

impl Transfer {
    /// What is in the two accounts afterwards, if the money is moved: the account may have too
    /// little.
    fn moved(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        let moves = from >= self.amount && self.from != self.to;
        moves.then(|| (from - self.amount, to + self.amount))
    }
}

/// What all workers share.
struct Ledger {
    store: Store,
    transfers: Vec<Transfer>,
    /// Whether somebody is still to be killed.
    doom: AtomicBool,
}

/// What became of a worker.
struct Report {
    applied: usize,
    killed: bool,
}

fn main() -> ExitCode {
    store::run(USAGE, |[file], store| keep(Path::new(&file), store))
}

fn keep(file: &Path, store: Store) -> Result<()> {
    let transfers = read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let kv = runtime.block_on(store.connect())?;
    runtime.block_on(open_accounts(&kv))?;
    println!("{ACCOUNTS} accounts, {} transfers, {WORKERS} workers, one lock\n", transfers.len());

    let ledger = Arc::new(Ledger { store, transfers, doom: AtomicBool::new(true) });
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
    for (worker, Report { applied, killed }) in (1..).zip(reports) {
        let end = if killed { ", then was killed" } else { "" };
        println!("worker {worker} applied {applied:5} transfers{end}");
    }

    let balances = runtime.block_on(balances(&kv))?;
    show(&balances);
    check(&balances, &ledger.transfers)?;
    println!(
        "\nRead next: docs/guide/transactions.md, or how this is done: tests/examples/ledger.rs"
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
    let open = accounts.iter().map(put).chain([Put::new(CURSOR, "0")]);
    kv.txn(Txn::new().and_then(open)).await?;
    Ok(())
}

async fn balances(kv: &Client) -> Result<Balances> {
    let mut balances = Balances::new();
    for kv in kv.get_prefix(BALANCES).await? {
        let account = String::from_utf8(kv.key[BALANCES.len()..].to_vec())?;
        balances.insert(account, std::str::from_utf8(&kv.value)?.parse()?);
    }
    Ok(balances)
}

/// Runs a worker as if it were a process: when it is killed, all it had goes with its runtime, the
/// session's keeper included, and nothing is cleaned up.
fn run_worker(worker: usize, ledger: &Arc<Ledger>) -> Result<Report> {
    let process = Builder::new_current_thread().enable_all().build()?;
    process.block_on(async {
        let (die, died) = oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(work(worker, Arc::clone(ledger), die));
        tokio::select! {
            biased;
            Ok(applied) = died => Ok(Report { applied, killed: true }),
            Some(applied) = task.join_next() => Ok(Report { applied: applied??, killed: false }),
        }
    })
}

/// Takes turns with the others until the file is done, and tells how much was applied here.
async fn work(worker: usize, ledger: Arc<Ledger>, die: oneshot::Sender<usize>) -> Result<usize> {
    let Ledger { store, transfers, doom } = &*ledger;
    let kv = store.connect().await?;
    let session = Session::builder(&kv).ttl(TTL).open().await?;
    let (mutex, stm) = (Mutex::new(&session, LOCK), Stm::new(&kv).exactly_once(&session));
    let mut applied = 0;
    loop {
        let began = Instant::now();
        let guard = mutex.lock().await?;
        let mut cursor = cursor(&kv).await?;
        if began.elapsed() > TTL / 2 {
            let waited = began.elapsed().as_secs_f32();
            println!("worker {worker} got the lock after {waited:.1} s, at transfer {cursor}");
        }
        let end = transfers.len().min(cursor + TURN);
        while cursor < end {
            let ledger = Arc::clone(&ledger);
            let next = async move |tx: &mut Transaction| apply_next(tx, &ledger.transfers).await;
            let done = stm.run(next).await?.value;
            (cursor, applied) = (done.end, applied + done.len());
            // In the middle of the file, and of a turn.
            if cursor >= (transfers.len() - TURN) / 2 && doom.swap(false, Ordering::Relaxed) {
                println!("worker {worker} is killed at transfer {cursor}, holding the lock");
                let _ = die.send(applied);
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
    let cursor = kv.get(CURSOR).await?.ok_or("the ledger has not been opened")?;
    Ok(std::str::from_utf8(&cursor.value)?.parse()?)
}

/// Applies the next transfers of the file to the ledger, and tells which they were.
async fn apply_next(tx: &mut Transaction, transfers: &[Transfer]) -> Result<Range<usize>> {
    let cursor = usize::try_from(number(tx, CURSOR).await?)?;
    let done = cursor..transfers.len().min(cursor + TOGETHER);
    let next = &transfers[done.clone()];
    // All balances in one request. What is read again below is there, with what is put.
    tx.get_many(next.iter().flat_map(|transfer| [key(&transfer.from), key(&transfer.to)])).await?;
    for transfer in next {
        let (from, to) = (key(&transfer.from), key(&transfer.to));
        let (source, target) = (number(tx, &from).await?, number(tx, &to).await?);
        if let Some((source, target)) = transfer.moved(source, target) {
            tx.put(from, source.to_string());
            tx.put(to, target.to_string());
        }
    }
    tx.put(CURSOR, done.end.to_string());
    Ok(done)
}

async fn number(tx: &mut Transaction, key: &str) -> Result<u64> {
    let number: Option<String> = tx.get_as(key).await?;
    Ok(number.ok_or_else(|| format!("the ledger has no {key}"))?.parse()?)
}

fn key(account: &str) -> String {
    format!("{BALANCES}{account}")
}

fn show(balances: &Balances) {
    println!("\nbalances of accounts 00 to {:02}", ACCOUNTS - 1);
    let row = |row: &[&u64]| row.iter().map(|balance| format!("{balance:6}")).collect::<String>();
    for balances in balances.values().collect::<Vec<_>>().chunks(10) {
        println!("{}", row(balances));
    }
}

/// Holds the ledger against what one bookkeeper would have written.
fn check(balances: &Balances, transfers: &[Transfer]) -> Result<()> {
    let mut expected = opening_balances();
    for transfer in transfers {
        let Transfer { from, to, .. } = transfer;
        if let Some((source, target)) = transfer.moved(expected[from], expected[to]) {
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
