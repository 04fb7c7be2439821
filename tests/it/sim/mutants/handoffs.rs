//! A lock whose holder hands it to the next waiter, and its wrong variant.
//!
//! Each contender has an entry in a queue. The key `owner` names the entry of the holder, on the
//! holder's lease. The holder chooses the next owner while it works, so that its release is one
//! request.

use std::time::Duration;

use coord_core::Client;
use coord_core::kv::{
    Compare, CompareOp, Delete, FencingToken, KeyValue, Op, Put, Range, Revision, SortOrder,
    SortTarget, Txn, Watch,
};
use coord_testkit::sim::{Exclusive, Process, Sim};
use tokio::time::sleep;

use super::lease::{CountedFrom, FlawedLease, LONG_TTL};
use super::queues::spawn_operator;
use super::{Family, TaskResult, family, spawn_contenders};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NextUnchecked;

pub(super) fn handoffs() -> Family {
    family("lock that is handed over", contend)
        .mutant("the lock is handed to an evicted waiter", NextUnchecked)
        .done()
}

const QUEUE: &str = "queue/";
const OWNER: &str = "owner";

/// An entry of the queue.
struct Entry {
    key: String,
    lease: FlawedLease,
}

impl Entry {
    async fn enqueue(client: &Client, key: String, lease: &FlawedLease) -> TaskResult<Self> {
        client.put_with(Put::new(&key, "").lease(lease.id)).await?;
        Ok(Self { key, lease: lease.clone() })
    }

    /// Waits until this entry owns the lock, and returns the revision of that. `None` if the entry
    /// was evicted before.
    async fn acquired(&self, client: &Client) -> TaskResult<Option<Revision>> {
        loop {
            let acquire = Txn::new()
                .when([Compare::absent(OWNER), Compare::exists(&self.key)])
                .and_then([Put::new(OWNER, &self.key).lease(self.lease.id)])
                .or_else([Range::new(OWNER), Range::new(&self.key)]);
            let response = client.txn(acquire).await?;
            let now = response.header.revision;
            if response.succeeded {
                return Ok(Some(now));
            }
            let found = |i: usize| response.responses[i].as_range()?.kvs.first();
            match (found(0), found(1)) {
                (Some(owner), Some(_)) if owner.value == self.key => {
                    return Ok(Some(owner.mod_revision));
                }
                (_, None) => return Ok(None),
                _ => {}
            }
            let watch = Watch::new(OWNER).start_at(now.next());
            if !matches!(client.watch(watch).await?.next().await, Some(Ok(_))) {
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Reads the oldest other entry.
    async fn next(&self, client: &Client) -> coord_core::Result<Option<KeyValue>> {
        let queue = Range::prefix(QUEUE).sorted(SortTarget::CreateRevision, SortOrder::Ascending);
        let mut entries = client.range(queue).await?.kvs.into_iter();
        Ok(entries.find(|entry| entry.key != self.key))
    }

    /// Hands the lock to `next`, or releases it if there is none. Returns whether this entry does
    /// not own the lock any more.
    async fn hand_to(
        &self,
        client: &Client,
        owned: Revision,
        next: Option<KeyValue>,
        flaw: Option<NextUnchecked>,
    ) -> coord_core::Result<bool> {
        let mut compares = vec![Compare::mod_revision(OWNER, CompareOp::Equal, owned)];
        let mut ops: Vec<Op> = vec![Delete::new(&self.key).into()];
        match next {
            Some(next) => {
                ops.push(Put::new(OWNER, &next.key).lease(next.lease).into());
                if flaw.is_none() {
                    let created = next.create_revision;
                    compares.push(Compare::create_revision(next.key, CompareOp::Equal, created));
                }
            }
            None => ops.push(Delete::new(OWNER).into()),
        }
        let txn = Txn::new().when(compares).and_then(ops).or_else([Range::new(OWNER)]);
        let response = client.txn(txn).await?;
        let owner = response.responses[0].as_range().and_then(|range| range.kvs.first());
        Ok(response.succeeded || owner.is_none_or(|owner| owner.mod_revision != owned))
    }
}

/// Acquires the lock, works with it, and hands it over.
async fn work_alone(
    process: &Process,
    lease: &FlawedLease,
    entry: Entry,
    inside: &Exclusive,
    flaw: Option<NextUnchecked>,
) -> TaskResult<bool> {
    let client = process.client();
    let Some(owned) = entry.acquired(client).await? else { return Ok(false) };
    if !lease.is_alive() {
        return Err("the lease has ended".into());
    }
    let still_held = lease.clone();
    let alone = inside.enter_while(process, FencingToken(owned), move || still_held.is_alive());
    sleep(Duration::from_millis(100)).await;
    let mut next = entry.next(client).await?;
    sleep(Duration::from_secs(1)).await;
    drop(alone);
    while !matches!(entry.hand_to(client, owned, next.take(), flaw).await, Ok(true)) {
        sleep(Duration::from_millis(100)).await;
        next = entry.next(client).await.unwrap_or_default();
    }
    Ok(true)
}

/// Processes that work with the lock twice each, and an operator that may evict a waiter. An
/// evicted process enqueues again.
async fn contend(sim: Sim, flaw: Option<NextUnchecked>) {
    spawn_contenders(&sim, |process, inside| async move {
        let lease = FlawedLease::keep(&process, LONG_TTL, CountedFrom::Sending).await?;
        let (mut works, mut entries) = (0, 0);
        while works < 2 {
            entries += 1;
            let key = format!("{QUEUE}{entries}-{}", process.name());
            let entry = Entry::enqueue(process.client(), key, &lease).await?;
            works += i32::from(work_alone(&process, &lease, entry, &inside, flaw).await?);
        }
        TaskResult::Ok(())
    });
    spawn_operator(&sim);
    sim.join().await;
}
