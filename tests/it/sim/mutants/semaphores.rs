//! A semaphore with two permits, and its wrong variants.
//!
//! Each holder has a key on its lease, in the order of the create revisions. A contender may enter
//! while fewer keys than permits are ahead of its own.

use std::time::Duration;

use coord_core::kv::{
    Compare, CompareOp, Delete, Put, Range, Revision, SortOrder, SortTarget, Txn, Watch,
};
use coord_testkit::sim::{Process, Sim};
use tokio::time::sleep;

use super::lease::{CountedFrom, FlawedLease, SHORT_TTL};
use super::{Family, TaskResult, family};
use crate::sim::holders::Holders;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    CountedPermits,
    ReadThenPut,
    EventsCounted,
    WatchFromNow,
    LeaseUnchecked,
}

pub(super) fn permits() -> Family {
    family("semaphore with two permits", contend)
        .mutant("a counter in the store holds the free permits", Flaw::CountedPermits)
        .mutant("the keys are counted before the own key is put", Flaw::ReadThenPut)
        .mutant("every event counts as a permit that is free", Flaw::EventsCounted)
        .mutant("the permits are watched from now on", Flaw::WatchFromNow)
        .mutant("the holder of a permit does not check its lease", Flaw::LeaseUnchecked)
        .done()
}

const PERMITS: &str = "permits/";
const LIMIT: usize = 2;

/// The counter of the free permits, for the mutant that has one.
const COUNTER: &str = "free";

/// Puts the own key, and waits until a permit is free.
async fn acquire(
    process: &Process,
    own: &str,
    lease: &FlawedLease,
    flaw: Option<Flaw>,
) -> TaskResult {
    let client = process.client();
    let put = Put::new(own, "").lease(lease.id);
    if flaw == Some(Flaw::ReadThenPut) {
        loop {
            let taken = client.get_prefix(PERMITS).await?;
            if taken.len() < LIMIT {
                client.put_with(put).await?;
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
    let created = client.put_with(put).await?.header.revision;
    let mut freed = 0;
    loop {
        let ahead = Range::prefix(PERMITS)
            .max_create_revision(created.previous())
            .sorted(SortTarget::CreateRevision, SortOrder::Ascending);
        let is_own = Compare::create_revision(own, CompareOp::Equal, created);
        let read = client.txn(Txn::new().when([is_own]).and_then([ahead])).await?;
        if !read.succeeded {
            return Err("the key was deleted".into());
        }
        let ahead = read.responses[0].as_range().map_or(0, |read| read.kvs.len());
        if ahead.saturating_sub(freed) < LIMIT {
            return Ok(());
        }
        let next = (flaw != Some(Flaw::WatchFromNow)).then(|| read.header.revision.next());
        wait_for_event(process, next).await?;
        freed += usize::from(flaw == Some(Flaw::EventsCounted));
    }
}

/// Waits for a change of the keys, from `start` on, or from now on.
async fn wait_for_event(process: &Process, start: Option<Revision>) -> TaskResult {
    let mut watch = process.client().watch(Watch::prefix(PERMITS).start_at(start)).await?;
    if !matches!(watch.next().await, Some(Ok(_))) {
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Takes a permit from the counter, or returns one. A holder that ends otherwise returns none.
async fn count(process: &Process, difference: i64) -> TaskResult {
    loop {
        let found = process.client().get(COUNTER).await?;
        let free = match &found {
            Some(kv) => std::str::from_utf8(&kv.value)?.parse()?,
            None => i64::try_from(LIMIT)?,
        };
        let revision = found.map_or(Revision::ZERO, |kv| kv.mod_revision);
        let unchanged = Compare::mod_revision(COUNTER, CompareOp::Equal, revision);
        let put = Put::new(COUNTER, (free + difference).to_string());
        let is_free = free + difference >= 0;
        let txn = Txn::new().when([unchanged]).and_then(is_free.then_some(put));
        if is_free && process.client().txn(txn).await?.succeeded {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Acquires a permit, works with it, and releases it.
async fn work(
    process: &Process,
    round: u32,
    inside: &Holders<()>,
    flaw: Option<Flaw>,
) -> TaskResult {
    let own = format!("{PERMITS}{}-{round}", process.name());
    let lease = FlawedLease::keep(process, SHORT_TTL, CountedFrom::Sending).await?;
    if flaw == Some(Flaw::CountedPermits) {
        count(process, -1).await?;
    } else {
        acquire(process, &own, &lease, flaw).await?;
    }
    let checks_lease = flaw != Some(Flaw::LeaseUnchecked);
    if checks_lease && !lease.is_alive() {
        return Err("the lease has ended".into());
    }
    let used = inside.enter_while(&own, (), move || !checks_lease || lease.is_alive());
    sleep(Duration::from_millis(1_000)).await;
    process.client().put("work", process.name().to_owned()).await?;
    drop(used);
    if flaw == Some(Flaw::CountedPermits) {
        return count(process, 1).await;
    }
    process.client().txn(Txn::new().and_then([Delete::new(&own)])).await?;
    Ok(())
}

/// Four processes that acquire a permit twice each.
async fn contend(sim: Sim, flaw: Option<Flaw>) {
    let inside: Holders<()> = Holders::new(&sim, |(), inside| {
        (inside.len() >= LIMIT).then(|| format!("{LIMIT} others are inside"))
    });
    for (name, starts) in [("a", 0), ("b", 30), ("c", 60), ("d", 90)] {
        let inside = inside.clone();
        sim.spawn(name, move |process| async move {
            sleep(Duration::from_millis(starts)).await;
            work(&process, 1, &inside, flaw).await?;
            work(&process, 2, &inside, flaw).await
        });
    }
    sim.join().await;
}
