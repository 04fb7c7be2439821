//! A lock with a wait queue, as etcd's, and its wrong variants.
//!
//! Each contender creates a key of its own and waits until the key of its predecessor, which has
//! the next smaller create revision, is deleted.

use std::time::Duration;

use coord_core::Client;
use coord_core::kv::{
    Compare, CompareOp, Delete, FencingToken, KeyRange, Put, Range, Revision, SortOrder,
    SortTarget, Txn, Watch, WatchFilter,
};
use coord_testkit::sim::{Exclusive, Process, Sim};
use tokio::time::sleep;

use super::lease::{CountedFrom, FlawedLease, SHORT_TTL};
use super::locks::wait_for_delete;
use super::{Family, TaskResult, family, spawn_contenders};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    EndOfWatchIsRelease,
    WatchFromNow,
    OwnKeyUnchecked,
    OrderByName,
    LeaseUnchecked,
}

pub(super) fn queue_lock() -> Family {
    family("lock with a wait queue", contend)
        .mutant("the end of a watch is taken for a release", Flaw::EndOfWatchIsRelease)
        .mutant("the predecessor is watched from now on", Flaw::WatchFromNow)
        .mutant("an evicted waiter acquires", Flaw::OwnKeyUnchecked)
        .mutant("the queue is ordered by name", Flaw::OrderByName)
        .mutant("the holder does not check its lease", Flaw::LeaseUnchecked)
        .done()
}

const QUEUE: &str = "queue/";

/// Waits until the key `own`, which was created at `created`, is first in the queue.
async fn wait_until_first(
    client: &Client,
    own: &str,
    created: Revision,
    flaw: Option<Flaw>,
) -> TaskResult {
    loop {
        let predecessor = match flaw {
            Some(Flaw::OrderByName) => Range::new(KeyRange::between(QUEUE, own))
                .sorted(SortTarget::Key, SortOrder::Descending)
                .limit(1),
            _ => Range::prefix(QUEUE)
                .max_create_revision(Revision(created.0 - 1))
                .sorted(SortTarget::CreateRevision, SortOrder::Descending)
                .limit(1),
        };
        let mut txn = Txn::new().and_then([predecessor]);
        if flaw != Some(Flaw::OwnKeyUnchecked) {
            txn = txn.when([Compare::create_revision(own, CompareOp::Equal, created)]);
        }
        let response = client.txn(txn).await?;
        if !response.succeeded {
            return Err("evicted".into());
        }
        let found = response.responses.first().and_then(|response| response.as_range());
        let Some(predecessor) = found.and_then(|range| range.kvs.first()) else { return Ok(()) };
        let key = String::from_utf8_lossy(&predecessor.key).into_owned();
        let is_deleted = match flaw {
            Some(Flaw::WatchFromNow) => wait_from_now(client, &key).await?,
            _ => wait_for_delete(client, &key, response.header.revision).await?,
        };
        if flaw == Some(Flaw::EndOfWatchIsRelease) && !is_deleted {
            return Ok(());
        }
    }
}

/// Waits until a key is deleted after the registration of the watch.
async fn wait_from_now(client: &Client, key: &str) -> TaskResult<bool> {
    let watch = Watch::new(key).filter(WatchFilter::NoPut);
    let mut watch = client.watch(watch).await?;
    Ok(matches!(watch.next().await, Some(Ok(_))))
}

/// Acquires the lock, works with it, and releases it.
async fn work_alone(
    process: &Process,
    round: u32,
    inside: &Exclusive,
    flaw: Option<Flaw>,
) -> TaskResult {
    let client = process.client();
    let lease = FlawedLease::keep(process, SHORT_TTL, CountedFrom::Sending).await?;
    let own = format!("{QUEUE}{round}-{}", process.name());
    let put = Put::new(&own, "").lease(lease.id);
    let created = client.txn(Txn::new().and_then([put])).await?.header.revision;
    wait_until_first(client, &own, created, flaw).await?;
    let checks_lease = flaw != Some(Flaw::LeaseUnchecked);
    if checks_lease && !lease.is_alive() {
        return Err("the lease has ended".into());
    }
    let still_held = move || !checks_lease || lease.is_alive();
    let alone = inside.enter_while(process, FencingToken(created), still_held);
    let is_own = Compare::create_revision(&own, CompareOp::Equal, created);
    sleep(Duration::from_millis(500)).await;
    let progress = Put::new(&own, "half done").ignore_lease();
    client.txn(Txn::new().when([is_own.clone()]).and_then([progress])).await?;
    sleep(Duration::from_millis(500)).await;
    drop(alone);
    client.txn(Txn::new().when([is_own]).and_then([Delete::new(&own)])).await?;
    Ok(())
}

/// An operator that may delete the key of the second contender, a waiter, at several times.
pub(super) fn spawn_operator(sim: &Sim) {
    let operator = sim.clone();
    sim.spawn("operator", move |process| async move {
        for _ in 0..4 {
            sleep(Duration::from_millis(500)).await;
            if operator.buggify("evict") {
                evict(process.client()).await?;
            }
        }
        TaskResult::Ok(())
    });
}

async fn evict(client: &Client) -> TaskResult {
    let queue = Range::prefix(QUEUE).sorted(SortTarget::CreateRevision, SortOrder::Ascending);
    let queue = client.range(queue).await?.kvs;
    if let [first, second, ..] = &queue[..] {
        let is_first =
            Compare::create_revision(&first.key, CompareOp::Equal, first.create_revision);
        client.txn(Txn::new().when([is_first]).and_then([Delete::new(&second.key)])).await?;
    }
    Ok(())
}

/// Processes that acquire the lock twice each, and an operator that may evict a waiter.
async fn contend(sim: Sim, flaw: Option<Flaw>) {
    spawn_contenders(&sim, |process, inside| async move {
        work_alone(&process, 1, &inside, flaw).await?;
        work_alone(&process, 2, &inside, flaw).await
    });
    spawn_operator(&sim);
    sim.join().await;
}
