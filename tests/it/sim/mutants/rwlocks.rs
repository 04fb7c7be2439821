//! A read-write lock with a queue, as Go's recipe, and its wrong variants.
//!
//! Readers and writers create keys of their own. A reader may enter when no writer's key is older,
//! a writer when no key is older.

use std::time::Duration;

use coord_core::kv::{Compare, CompareOp, Delete, Put, Range, Revision, Txn, Watch};
use coord_testkit::sim::{Process, Sim};
use tokio::time::sleep;

use super::lease::{CountedFrom, FlawedLease, SHORT_TTL};
use super::{Family, TaskResult, family};
use crate::sim::holders::Holders;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    WriterIgnoresReaders,
    ReaderLooksFirst,
    UpgradeIgnoresReaders,
    UpgradeUnchecked,
    DowngradeInTwoSteps,
}

pub(super) fn readers_and_writers() -> Family {
    family("read-write lock", contend)
        .mutant("a writer waits for writers only", Flaw::WriterIgnoresReaders)
        .mutant("a reader looks for writers before it puts its key", Flaw::ReaderLooksFirst)
        .mutant("an upgrade does not wait for other readers", Flaw::UpgradeIgnoresReaders)
        .mutant("an upgrade waits for another upgrade", Flaw::UpgradeUnchecked)
        .mutant("a downgrade creates a new key", Flaw::DowngradeInTwoSteps)
        .done()
}

const READERS: &str = "lock/read/";
const WRITERS: &str = "lock/write/";
const ALL: &str = "lock/";

/// How a holder uses the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usage {
    Read,
    Write,
}

/// One contender, with its lease.
struct Contender {
    process: Process,
    lease: FlawedLease,
    id: String,
    flaw: Option<Flaw>,
}

impl Contender {
    fn key(&self, queue: &str) -> String {
        format!("{queue}{}", self.id)
    }

    /// Creates a key of this contender, on a condition.
    async fn create(&self, queue: &str, when: Option<Compare>) -> TaskResult<Option<Revision>> {
        let put = Put::new(self.key(queue), "").lease(self.lease.id);
        let txn = Txn::new().when(when).and_then([put]);
        let response = self.process.client().txn(txn).await?;
        Ok(response.succeeded.then_some(response.header.revision))
    }

    /// Waits until no key of `queue` is older than `created`, except `except`.
    async fn wait(&self, queue: &str, created: Revision, except: &str) -> TaskResult {
        let client = self.process.client();
        loop {
            let older = Range::prefix(queue).max_create_revision(created.previous());
            let read = client.range(older).await?;
            if read.kvs.iter().all(|kv| kv.key == except) {
                return Ok(());
            }
            let from = read.header.revision.next();
            let mut watch = client.watch(Watch::prefix(queue).start_at(from)).await?;
            if !matches!(watch.next().await, Some(Ok(_))) {
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    async fn read(&self) -> TaskResult {
        if self.flaw == Some(Flaw::ReaderLooksFirst) {
            self.wait(WRITERS, Revision(i64::MAX), "").await?;
            self.create(READERS, None).await?;
            return Ok(());
        }
        let created = self.create(READERS, None).await?.unwrap_or_default();
        self.wait(WRITERS, created, "").await
    }

    async fn write(&self) -> TaskResult {
        let created = self.create(WRITERS, None).await?.unwrap_or_default();
        let queue = if self.flaw == Some(Flaw::WriterIgnoresReaders) { WRITERS } else { ALL };
        self.wait(queue, created, "").await
    }

    /// Becomes a writer; `false` if there is one.
    async fn upgrade(&self) -> TaskResult<bool> {
        let unchecked = self.flaw == Some(Flaw::UpgradeUnchecked);
        let no_writer = Compare::absent(coord_core::kv::KeyRange::prefix(WRITERS));
        let Some(created) = self.create(WRITERS, (!unchecked).then_some(no_writer)).await? else {
            return Ok(false);
        };
        let ignores = self.flaw == Some(Flaw::UpgradeIgnoresReaders);
        let queue = if ignores { WRITERS } else { ALL };
        self.wait(queue, created, &self.key(READERS)).await?;
        Ok(true)
    }

    /// Becomes a reader, from a writer that has both keys.
    async fn downgrade(&self) -> TaskResult {
        if self.flaw == Some(Flaw::DowngradeInTwoSteps) {
            self.delete(READERS).await?;
            self.delete(WRITERS).await?;
            self.create(READERS, None).await?;
            return Ok(());
        }
        self.delete(WRITERS).await
    }

    async fn delete(&self, queue: &str) -> TaskResult {
        self.process.client().txn(Txn::new().and_then([Delete::new(self.key(queue))])).await?;
        Ok(())
    }

    /// Uses the lock for some time.
    async fn enter(&self, inside: &Holders<(Usage, String)>, usage: Usage) -> TaskResult {
        if !self.lease.is_alive() {
            return Err("the lease has ended".into());
        }
        let lease = self.lease.clone();
        let name = self.process.name().to_owned();
        let used = inside.enter_while(&name, (usage, name.clone()), move || lease.is_alive());
        sleep(Duration::from_millis(500)).await;
        let key = self.key(if usage == Usage::Write { WRITERS } else { READERS });
        // The work fails if the key was deleted.
        let held = Compare::create_revision(key, CompareOp::Greater, Revision::ZERO);
        let work = Put::new("work", self.process.name().to_owned());
        let worked = self.process.client().txn(Txn::new().when([held]).and_then([work])).await;
        drop(used);
        if worked?.succeeded { Ok(()) } else { Err("the key was deleted".into()) }
    }
}

/// Reads, upgrades, writes, downgrades, reads; then writes.
async fn work(
    process: Process,
    inside: Holders<(Usage, String)>,
    flaw: Option<Flaw>,
) -> TaskResult {
    let lease = FlawedLease::keep(&process, SHORT_TTL, CountedFrom::Sending).await?;
    let contender = |id| Contender {
        id: format!("{}-{id}", process.name()),
        process: process.clone(),
        lease: lease.clone(),
        flaw,
    };
    let first = contender(1);
    first.read().await?;
    first.enter(&inside, Usage::Read).await?;
    if first.upgrade().await? {
        first.enter(&inside, Usage::Write).await?;
        first.downgrade().await?;
        first.enter(&inside, Usage::Read).await?;
    }
    first.delete(READERS).await?;
    let second = contender(2);
    second.write().await?;
    second.enter(&inside, Usage::Write).await?;
    second.delete(WRITERS).await
}

async fn contend(sim: Sim, flaw: Option<Flaw>) {
    let inside: Holders<(Usage, String)> = Holders::new(&sim, |(entering, _), inside| {
        let is_excluded = inside.iter().any(|(other, _)| *other == Usage::Write)
            || (*entering == Usage::Write && !inside.is_empty());
        is_excluded.then(|| format!("for {entering:?} beside {inside:?}"))
    });
    for (name, starts) in [("a", 0), ("b", 30), ("c", 600)] {
        let inside = inside.clone();
        sim.spawn(name, move |process| async move {
            sleep(Duration::from_millis(starts)).await;
            work(process, inside, flaw).await
        });
    }
    sim.join().await;
}
