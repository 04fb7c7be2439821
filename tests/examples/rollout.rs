//! A rollout: four hosts restart with a new version, two at a time, and start to serve it together.
//!
//! | recipe | what for |
//! |---|---|
//! | shared value | the version: the operator sets it, and every host watches it |
//! | semaphore | at most two hosts restart at a time |
//! | read-write lock | the configuration does not change while a host restarts with it |
//! | latch | the operator waits until all hosts have restarted |
//! | double barrier | all hosts serve the new version before any host continues |
//! | counter | how many restarts there were |
//!
//! Version 2 fails to start once, on `host-3`. Its guards are dropped, so that another host gets
//! the permit at once. While version 2 is rolled out, the operator changes the configuration.
//!
//! `cargo run --example rollout` runs it on a store in memory, on virtual time.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::error::Error;
use std::time::Duration;

use coord_core::kv::{Put, Txn};
use coord_core::recipes::{Counter, DoubleBarrier, Latch, RwLock, Semaphore, SharedValue};
use coord_core::{Client, Session};
use coord_mem::MemBackend;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const HOSTS: usize = 4;
const RESTARTS_AT_ONCE: u32 = 2;
const LAST_VERSION: u64 = 2;

/// The key of the version.
const VERSION_KEY: &str = "rollout/version";
/// The key of the configuration, and the name of the lock that guards it.
const MEMORY_KEY: &str = "config/memory";
const CONFIG_LOCK: &str = "locks/config";

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<()> {
    let store = MemBackend::new();
    let log = Log { start: Instant::now() };
    let mut processes = JoinSet::new();
    // Each process has a client of its own.
    processes.spawn(operate(Client::new(store.clone()), log));
    for number in 1..=HOSTS {
        processes.spawn(run_host(Client::new(store.clone()), number, log));
    }
    while let Some(ended) = processes.join_next().await {
        ended??;
    }
    let restarts = Counter::new(&Client::new(store), "rollout/restarts");
    println!("{} restarts", restarts.get().await?);
    Ok(())
}

/// The operator rolls out one version after the other.
async fn operate(client: Client, log: Log) -> Result<()> {
    let session = Session::builder(&client).open().await?;
    let version = SharedValue::<i64>::new(&client, VERSION_KEY);

    set_memory(&session, "2 GB").await?;
    version.set(&1).await?;
    restarted(&client, 1)?.wait().await?;
    log.print("operator", "all hosts have restarted with version 1");

    version.set(&2).await?;
    sleep(Duration::from_secs(1)).await;
    log.print("operator", "changes the memory, as soon as no host restarts with it");
    set_memory(&session, "3 GB").await?;
    log.print("operator", "has changed the memory to 3 GB");
    restarted(&client, 2)?.wait().await?;
    log.print("operator", "all hosts have restarted with version 2");

    session.close().await?;
    Ok(())
}

/// Changes the configuration while no host reads it. Hosts that come later wait.
async fn set_memory(session: &Session, memory: &str) -> Result<()> {
    let writer = RwLock::new(session, CONFIG_LOCK).write().await?;
    // Applied only if the lock is still held.
    writer.txn(Txn::new().and_then([Put::new(MEMORY_KEY, memory.to_owned())])).await?;
    writer.unlock().await?;
    Ok(())
}

/// The latch that opens when all hosts have restarted with a version.
fn restarted(client: &Client, version: u64) -> Result<Latch> {
    Ok(Latch::new(client, format!("rollout/{version}/restarted"), HOSTS)?)
}

/// A host follows the version, until the last one.
async fn run_host(client: Client, number: usize, log: Log) -> Result<()> {
    let host = Host::start(client, number, log).await?;
    let all = DoubleBarrier::new(&host.session, "rollout/serving", HOSTS)?;
    let mut versions = SharedValue::<i64>::new(&host.client, VERSION_KEY).watch();
    while let Some(version) = versions.next().await {
        let Some(version) = version? else { continue };
        let version = u64::try_from(version)?;
        let mut attempt = 1;
        while let Err(error) = host.restart(version, attempt).await {
            log.print(&host.name, &format!("fails: {error}"));
            attempt += 1;
        }
        // A host counts once, however often it has restarted.
        restarted(&host.client, version)?.count_down(host.name.clone()).await?;

        let serving = all.enter(version).await?;
        log.print(&host.name, &format!("serves version {version}"));
        serving.leave().await?;
        if version == LAST_VERSION {
            break;
        }
    }
    host.session.close().await?;
    Ok(())
}

/// One host, with its handles to what the hosts share.
struct Host {
    number: usize,
    name: String,
    client: Client,
    session: Session,
    permits: Semaphore,
    config: RwLock,
    restarts: Counter,
    log: Log,
}

impl Host {
    async fn start(client: Client, number: usize, log: Log) -> Result<Self> {
        let session = Session::builder(&client).open().await?;
        Ok(Self {
            number,
            name: format!("host-{number}"),
            permits: Semaphore::new(&session, "rollout/permits", RESTARTS_AT_ONCE),
            config: RwLock::new(&session, CONFIG_LOCK),
            restarts: Counter::new(&client, "rollout/restarts").exactly_once(&session),
            client,
            session,
            log,
        })
    }

    /// Restarts with the version. If that fails, the guards are dropped, and so released.
    async fn restart(&self, version: u64, attempt: u32) -> Result<()> {
        // Every host takes the permit first and then the lock, and the operator only the lock, so
        // that no two processes wait for each other.
        let permit = self.permits.acquire(1).await?;
        let reader = self.config.read().await?;
        let memory = self.client.get(MEMORY_KEY).await?.ok_or("there is no configuration")?;
        let memory = String::from_utf8(memory.value.to_vec())?;
        self.log.print(&self.name, &format!("restarts with version {version} and {memory}"));

        self.restarts.add(1).await?;
        // Stops if the session is lost, and with it the permit and the lock.
        permit.run_while_held(reader.run_while_held(self.boot(version, attempt))).await???;
        reader.unlock().await?;
        permit.release().await?;
        Ok(())
    }

    /// The work of a restart.
    async fn boot(&self, version: u64, attempt: u32) -> Result<()> {
        let is_slow = self.number.is_multiple_of(2);
        sleep(Duration::from_millis(if is_slow { 2_500 } else { 2_000 })).await;
        match (self.number, version, attempt) {
            (3, 2, 1) => Err("the health check is red".into()),
            _ => Ok(()),
        }
    }
}

/// Prints lines with the time since the start.
#[derive(Clone, Copy)]
struct Log {
    start: Instant,
}

impl Log {
    fn print(self, process: &str, what: &str) {
        println!("{:4.1} s  {process:<8}  {what}", self.start.elapsed().as_secs_f64());
    }
}
