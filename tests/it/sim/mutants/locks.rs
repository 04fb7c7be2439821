//! A lock on one key, and its wrong variants.
//!
//! A process acquires the lock by creating the key, and releases it by deleting the key. The
//! fencing token is the create revision.

use std::time::Duration;

use coord_core::Client;
use coord_core::kv::{
    Compare, CompareOp, Delete, EventKind, FencingToken, Put, Range, Revision, Txn, Watch,
};
use coord_testkit::sim::{Exclusive, Process, Sim};
use tokio::time::sleep;

use super::lease::{CountedFrom, FlawedLease, SHORT_TTL};
use super::{Family, TaskResult, family, spawn_contenders};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    CheckThenSet,
    UnguardedDelete,
    NoLease,
    NoKeepAlive,
    DeadlineFromResponse,
    UnlockIgnoresError,
    UnlockKeepsActing,
}

pub(super) fn key_lock() -> Family {
    family("lock on one key", contend)
        .mutant("the lock is checked, then set", Flaw::CheckThenSet)
        .mutant("unlock deletes the key unguarded", Flaw::UnguardedDelete)
        .mutant("the key has no lease", Flaw::NoLease)
        .mutant("the lease has no keep-alive", Flaw::NoKeepAlive)
        .mutant("the deadline is counted from the response", Flaw::DeadlineFromResponse)
        .mutant("unlock ignores an ambiguous error", Flaw::UnlockIgnoresError)
        .mutant("the holder acts after the unlock was sent", Flaw::UnlockKeepsActing)
        .done()
}

const KEY: &str = "lock";

struct KeyLock {
    process: Process,
    flaw: Option<Flaw>,
    lease: Option<FlawedLease>,
}

impl KeyLock {
    async fn open(process: &Process, flaw: Option<Flaw>) -> TaskResult<Self> {
        let lease = match flaw {
            Some(Flaw::NoLease | Flaw::NoKeepAlive) => None,
            Some(Flaw::DeadlineFromResponse) => {
                Some(FlawedLease::keep(process, SHORT_TTL, CountedFrom::Response).await?)
            }
            _ => Some(FlawedLease::keep(process, SHORT_TTL, CountedFrom::Sending).await?),
        };
        Ok(Self { process: process.clone(), flaw, lease })
    }

    fn client(&self) -> &Client {
        self.process.client()
    }

    /// Acquires the lock, and returns the create revision of the key.
    async fn acquire(&self) -> TaskResult<Revision> {
        loop {
            let own = match self.flaw {
                Some(Flaw::NoKeepAlive) => {
                    Some(FlawedLease::grant(&self.process, SHORT_TTL, CountedFrom::Sending).await?)
                }
                _ => self.lease.clone(),
            };
            let put = Put::new(KEY, self.process.name().to_owned());
            let put = put.lease(own.as_ref().map(|lease| lease.id));
            let (revision, is_acquired) = self.try_put(put).await?;
            if !is_acquired {
                wait_for_delete(self.client(), KEY, revision).await?;
            } else if self.may_act() {
                return Ok(revision);
            } else {
                return Err("the lease has ended".into());
            }
        }
    }

    async fn try_put(&self, put: Put) -> TaskResult<(Revision, bool)> {
        if self.flaw == Some(Flaw::CheckThenSet) {
            let found = self.client().range(Range::new(KEY)).await?;
            if !found.kvs.is_empty() {
                return Ok((found.header.revision, false));
            }
            return Ok((self.client().put_with(put).await?.header.revision, true));
        }
        let txn = Txn::new().when([Compare::absent(KEY)]).and_then([put]);
        let response = self.client().txn(txn).await?;
        Ok((response.header.revision, response.succeeded))
    }

    /// Whether the holder may act, by the deadline of its lease.
    fn may_act(&self) -> bool {
        self.lease.as_ref().is_none_or(FlawedLease::is_alive)
    }

    async fn release(&self, created: Revision) {
        let is_own = Compare::create_revision(KEY, CompareOp::Equal, created);
        let unguarded = self.flaw == Some(Flaw::UnguardedDelete);
        let compares = if unguarded { vec![] } else { vec![is_own] };
        let txn = Txn::new().when(compares).and_then([Delete::new(KEY)]);
        while self.client().txn(txn.clone()).await.is_err() {
            if self.flaw == Some(Flaw::UnlockIgnoresError) {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Waits until a key is deleted after `revision`. It may return early: callers check again.
pub(super) async fn wait_for_delete(
    client: &Client,
    key: &str,
    revision: Revision,
) -> TaskResult<bool> {
    let mut watch = client.watch(Watch::new(key).start_at(revision.next())).await?;
    while let Some(Ok(batch)) = watch.next().await {
        if batch.events.iter().any(|event| event.kind == EventKind::Delete) {
            return Ok(true);
        }
    }
    sleep(Duration::from_millis(100)).await;
    Ok(false)
}

/// Processes that acquire the lock twice each, and work for some time with it.
async fn contend(sim: Sim, flaw: Option<Flaw>) {
    spawn_contenders(&sim, |process, inside| async move {
        let lock = KeyLock::open(&process, flaw).await?;
        for _ in 0..2 {
            work_alone(&process, &lock, &inside).await?;
        }
        TaskResult::Ok(())
    });
    sim.join().await;
}

async fn work_alone(process: &Process, lock: &KeyLock, inside: &Exclusive) -> TaskResult {
    let created = lock.acquire().await?;
    let lease = lock.lease.clone();
    let still_held = move || lease.as_ref().is_none_or(FlawedLease::is_alive);
    let alone = inside.enter_while(process, FencingToken(created), still_held);
    sleep(Duration::from_millis(2_000)).await;
    // The lock is released also if the work fails.
    let worked = process.client().put("work", process.name().to_owned()).await;
    if lock.flaw == Some(Flaw::UnlockKeepsActing) {
        lock.release(created).await;
        drop(alone);
    } else {
        drop(alone);
        lock.release(created).await;
    }
    worked?;
    Ok(())
}
