//! The `rwlock-*` workloads: lock for reading or for writing, and unlock.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, ensure};
use coord_core::Session;
use coord_core::error::PrimitiveError;
use coord_core::recipes::{ReadGuard, RwLock, WriteGuard};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::lock_cycle::LockLike;
use super::split_mix::SplitMix;
use super::{ReportFields, Worker, Workload};
use crate::bench::flags::MixedFlags;
use crate::bench::samples::Samples;
use crate::bench::store::Store;

/// The percentage of operations of `rwlock-mixed` that read.
const READS_PERCENT: u64 = 90;

/// A read-write lock that its worker locks for reading.
pub(crate) struct Reader(pub(crate) RwLock);

impl LockLike for Reader {
    const ACQUIRE_SERIES: &'static str = "read";
    const RELEASE_SERIES: &'static str = "unlock";

    type Held = ReadGuard;

    async fn acquire(&self) -> Result<ReadGuard> {
        Ok(self.0.read().await?)
    }

    async fn release(guard: ReadGuard) -> Result<()> {
        Ok(guard.unlock().await.map_err(PrimitiveError::from)?)
    }
}

/// A read-write lock that its worker locks for writing.
pub(crate) struct Writer(pub(crate) RwLock);

impl LockLike for Writer {
    const ACQUIRE_SERIES: &'static str = "write";
    const RELEASE_SERIES: &'static str = "unlock";

    type Held = WriteGuard;

    async fn acquire(&self) -> Result<WriteGuard> {
        Ok(self.0.write().await?)
    }

    async fn release(guard: WriteGuard) -> Result<()> {
        Ok(guard.unlock().await.map_err(PrimitiveError::from)?)
    }
}

/// All workers share one lock, and each operation reads or writes, at random.
pub(crate) struct MixedWorkload {
    flags: MixedFlags,
    holders: Arc<Mutex<Holders>>,
}

pub(crate) struct MixedWorker {
    session: Session,
    lock: RwLock,
    rng: SplitMix,
    holders: Arc<Mutex<Holders>>,
    hold: Duration,
}

impl MixedWorkload {
    pub(crate) fn new(flags: MixedFlags) -> Self {
        Self { flags, holders: Arc::default() }
    }
}

impl Workload for MixedWorkload {
    type Worker = MixedWorker;

    async fn worker(&self, store: &Store, number: usize) -> Result<MixedWorker> {
        let MixedFlags { hold, seed } = &self.flags;
        let builder = Session::builder(store.connection(number)).ttl(hold.session.ttl());
        let session = builder.open().await?;
        let lock = RwLock::new(&session, store.key("shared"));
        let (rng, holders) = (SplitMix::of_worker(*seed, number), Arc::clone(&self.holders));
        Ok(MixedWorker { session, lock, rng, holders, hold: hold.hold })
    }

    async fn check(&self, _: &Store, _: u64) -> Result<ReportFields> {
        let violations = self.holders.lock().expect("no worker panics").violations;
        ensure!(violations == 0, "{violations} exclusion violations");
        let fields = [
            ("hold_us".to_owned(), json!(self.flags.hold.hold.as_micros())),
            ("reads_percent".to_owned(), json!(READS_PERCENT)),
            ("exclusion_violations".to_owned(), json!(violations)),
        ];
        Ok(fields.into_iter().collect())
    }
}

impl Worker for MixedWorker {
    async fn step(&mut self, samples: &mut Samples) -> Result<()> {
        let is_read = self.rng.next() % 100 < READS_PERCENT;
        let start = Instant::now();
        let held = match is_read {
            true => Held::Reader(self.lock.read().await?),
            false => Held::Writer(self.lock.write().await?),
        };
        let acquired = Instant::now();
        self.holders().enter(&held);
        if !self.hold.is_zero() {
            sleep(self.hold).await;
        }
        self.holders().leave(&held);
        let release_start = Instant::now();
        match held {
            Held::Reader(guard) => Reader::release(guard).await?,
            Held::Writer(guard) => Writer::release(guard).await?,
        }
        let released = Instant::now();

        samples.add("cycle", released - start);
        samples.add(if is_read { "read" } else { "write" }, acquired - start);
        samples.add("unlock", released - release_start);
        Ok(())
    }

    async fn tear_down(self) -> Result<()> {
        Ok(self.session.close().await?)
    }
}

impl MixedWorker {
    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().expect("no worker panics")
    }
}

/// The guard of a reader or of a writer.
enum Held {
    Reader(ReadGuard),
    Writer(WriteGuard),
}

/// The current holders, and how often a writer was not alone.
#[derive(Debug, Default)]
struct Holders {
    readers: usize,
    writers: usize,
    violations: u64,
}

impl Holders {
    /// Counts a holder, and a violation if a writer is not alone.
    fn enter(&mut self, held: &Held) {
        *self.like(held) += 1;
        if self.writers > 0 && self.writers + self.readers > 1 {
            self.violations += 1;
        }
    }

    fn leave(&mut self, held: &Held) {
        *self.like(held) -= 1;
    }

    /// The number of holders like this one.
    const fn like(&mut self, held: &Held) -> &mut usize {
        match held {
            Held::Reader(_) => &mut self.readers,
            Held::Writer(_) => &mut self.writers,
        }
    }
}

#[cfg(test)]
mod tests {
    use coord_core::Client;
    use coord_mem::MemBackend;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn writer_beside_another_holder_is_a_violation() {
        let session = Session::builder(&Client::new(MemBackend::new())).open().await;
        let session = session.expect("the store is in memory");
        let (one, other) = (RwLock::new(&session, "one"), RwLock::new(&session, "other"));
        let reader = || async { Held::Reader(one.read().await.expect("no writer holds it")) };
        let (first, second) = (reader().await, reader().await);
        let writer = Held::Writer(other.write().await.expect("it is free"));

        let mut holders = Holders::default();
        holders.enter(&first);
        holders.enter(&second);
        assert_eq!(holders.violations, 0, "readers hold it together");
        holders.enter(&writer);
        assert_eq!(holders.violations, 1);
        holders.leave(&first);
        holders.leave(&second);
        holders.leave(&writer);
        holders.enter(&writer);
        assert_eq!(holders.violations, 1, "the writer is alone");
        holders.enter(&first);
        assert_eq!(holders.violations, 2);
    }
}
