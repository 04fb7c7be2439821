//! Memberships under every fault: three processes that join, update and leave, and an observer.
//!
//! The events of the observer follow from each other. Before the deadline of its session, a member
//! is in the store. When all have left, no key is left, although their sessions still live.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coord_core::error::LossReason;
use coord_core::kv::Put;
use coord_core::recipes::{Member, MemberEvent, Membership};
use coord_core::session::SessionState;
use coord_core::{Client, Session};
use coord_testkit::sim::{Fault, Process, Sim, Sweep, Weaken};
use tokio::time::{Instant, sleep, timeout};

use crate::sim::mutants::{Family, TaskResult, assert_caught, family};
use crate::sim::{SEEDS, print};
use crate::support::secs;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    KeyHasNoLease,
    JoinIsRepeated,
    UpdateCreatesKey,
    FailedLeaveIsIgnored,
}

fn family_of_memberships() -> Family {
    family("membership", join_and_observe)
        .mutant("the key of a member has no lease", Flaw::KeyHasNoLease)
        .mutant("a join with an unknown outcome is repeated", Flaw::JoinIsRepeated)
        .mutant("an update creates the key again", Flaw::UpdateCreatesKey)
        .mutant("a leave that fails is ignored", Flaw::FailedLeaveIsIgnored)
        .weakened(Weaken::LeaseEndsEarly)
        .done()
}

fn group(client: &Client) -> Membership<i64> {
    Membership::new(client, "g")
}

/// Fails the run if a member is not in the store before its deadline.
async fn check_joined(sim: &Sim, session: &Session, key: &[u8]) {
    let is_held = session.state() != SessionState::Lost(LossReason::Revoked);
    let found = sim.client().get(key).await.unwrap();
    if found.is_none() && is_held && Instant::now() < session.deadline() {
        sim.fail("loss", format!("{} is gone before its deadline", key.escape_ascii()));
    }
}

/// Joins, updates and leaves twice, and then waits with its session open.
async fn take_part(sim: Sim, process: Process, flaw: Option<Flaw>) -> TaskResult {
    let session = Session::builder(process.client()).ttl(secs(10)).open().await?;
    for n in 0..2 {
        if let Some(flaw) = flaw {
            take_part_wrongly(&process, &session, n, flaw).await;
        } else if let Ok(member) = group(process.client()).join(&session, &n).await {
            for update in 0..3 {
                sleep(secs(2)).await;
                check_joined(&sim, &session, member.key()).await;
                drop(member.update(&(10 * n + update)).await);
            }
            if n == 0 {
                drop(timeout(secs(3), member.leave()).await);
            }
        }
        sleep(secs(1)).await;
    }
    sim.heal();
    sleep(secs(60)).await;
    let lease = session.lease_id();
    let left = sim.client().get_prefix("g/members/").await.unwrap();
    let own = left.iter().find(|kv| kv.key.starts_with(format!("g/members/{lease}").as_bytes()));
    if let Some(kv) = own {
        sim.fail("left", format!("{} is left after its member", kv.key.escape_ascii()));
    }
    Ok(session.close().await?)
}

/// A member as written by hand. Errors are ignored: the process continues.
async fn take_part_wrongly(process: &Process, session: &Session, n: i64, flaw: Flaw) {
    let client = process.client();
    let mut key = format!("g/members/{}.{n}-0", session.lease_id());
    let put = |key: &str| {
        let put = Put::new(key.to_owned(), n.to_string());
        if flaw == Flaw::KeyHasNoLease { put } else { put.lease(session.lease_id()) }
    };
    for attempt in 1..=3 {
        if client.put_with(put(&key)).await.is_ok() || flaw != Flaw::JoinIsRepeated {
            break;
        }
        key = format!("g/members/{}.{n}-{attempt}", session.lease_id());
    }
    sleep(secs(2)).await;
    if flaw == Flaw::UpdateCreatesKey {
        // The response may be late; the member does not wait for it before it leaves.
        let update = client.put_with(put(&key));
        drop(timeout(Duration::from_millis(20), update).await);
    }
    // All but one flaw delete the key until that is confirmed.
    while client.delete(key.clone()).await.is_err() && flaw != Flaw::FailedLeaveIsIgnored {
        sleep(secs(1)).await;
    }
}

/// Replays the events, until there is none for 40 s.
async fn observe(sim: Sim, process: Process) -> TaskResult {
    let members = group(process.client()).members().await?;
    let mut events = members.events();
    let by_id = |members: Vec<Member<i64>>| {
        members.into_iter().map(|member| (member.id().to_owned(), member)).collect()
    };
    let mut known: BTreeMap<String, Member<i64>> = by_id(events.members());
    let mut gone = BTreeSet::new();
    loop {
        let Ok(event) = timeout(secs(40), events.next()).await else { return Ok(()) };
        let event = event.ok_or("the stream has ended")??;
        sim.sometimes("a member updates", matches!(event, MemberEvent::Updated { .. }));
        let id = event.member().id().to_owned();
        let follows = match &event {
            MemberEvent::Joined(member) => {
                !gone.contains(&id) && known.insert(id, member.clone()).is_none()
            }
            MemberEvent::Updated { before, after } => {
                known.insert(id, after.clone()).as_ref() == Some(before)
            }
            MemberEvent::Left(member) => {
                gone.insert(id.clone());
                known.remove(&id).as_ref() == Some(member)
            }
        };
        if !follows {
            sim.fail("events", format!("{event:?} does not follow"));
        }
    }
}

async fn join_and_observe(sim: Sim, flaw: Option<Flaw>) {
    for name in ["a", "b", "c"] {
        let member = sim.clone();
        sim.spawn(name, move |process| take_part(member, process, flaw));
    }
    let observer = sim.clone();
    sim.spawn("observer", move |process| observe(observer, process));
    sim.join().await;
    // The leases of processes that have crashed end too.
    sleep(secs(30)).await;
    let left = sim.client().get_prefix("g").await.unwrap();
    if let Some(kv) = left.first() {
        sim.fail("left", format!("{} is left at the end", kv.key.escape_ascii()));
    }
}

#[test]
fn members_join_and_leave_under_every_fault() {
    let name = "members_join_and_leave_under_every_fault";
    // Few runs request progress: only a verification that finds a watch behind does.
    let sweep = Sweep::new(name).seeds(SEEDS).check_store().without(Fault::ProgressWithheld);
    print(name, &sweep.run(|sim| join_and_observe(sim, None)));
}

#[test]
fn membership_mutants_are_caught() {
    assert_caught(&family_of_memberships());
}
