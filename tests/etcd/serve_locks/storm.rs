//! Many who give up at random, on virtual time: no line is ever stuck, nobody loses what it was
//! told to have, and nobody's lease is touched.
//!
//! The services run in process, over a store whose answers take their time, so that calls are
//! given up while their requests are under way. Whoever gives up asks again on the same lease,
//! sometimes before the first call is gone, as clients do whose patience is over.

use std::collections::BTreeSet;
use std::time::Duration;

use coord_core::{KvBackend, KvBackendExt as _, LeaseId, LeaseTimeToLive};
use coord_mem::MemBackend;
use coord_testkit::{Call, Fate, Intercept};
use etcd_client::Client;
use libtest_mimic::{Failed, Trial};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::place::Peer;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "virtual::storm_of_calls_that_are_given_up_harms_nobody",
            storm_of_calls_that_are_given_up_harms_nobody,
        ),
        Trial::test(
            "virtual::line_of_hundreds_outlives_those_who_leave_it",
            line_of_hundreds_outlives_those_who_leave_it,
        ),
    ]
}

/// What one client does in a round.
#[derive(Clone, Debug)]
struct Round {
    pause_ms: u64,
    /// How long it waits for each of its calls, which are on one lease, one begun after the other.
    patience_ms: Vec<u64>,
    /// How long after the first call each of the others begins.
    apart_ms: u64,
    hold_ms: u64,
    ends: Ends,
}

/// How one ends what it holds.
#[derive(Clone, Copy, Debug)]
enum Ends {
    Unlocking,
    /// Its lease is revoked, and the next round is on another.
    Revoking,
}

fn round() -> impl Strategy<Value = Round> {
    let patience = prop::collection::vec(0..3_000_u64, 1..4);
    let ends = prop_oneof![3 => Just(Ends::Unlocking), 1 => Just(Ends::Revoking)];
    (0..2_000_u64, patience, 0..3_000_u64, 0..1_500_u64, ends).prop_map(
        |(pause_ms, patience_ms, apart_ms, hold_ms, ends)| Round {
            pause_ms,
            patience_ms,
            apart_ms,
            hold_ms,
            ends,
        },
    )
}

/// How long the answers to requests take, one after the other.
fn delays() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(prop_oneof![Just(0), 1..300_u64, 1..2_500_u64], 0..200)
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn on_virtual_time<T>(future: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime can be built").block_on(future)
}

/// A client of services over `store`, which takes its time.
async fn peer(store: &MemBackend, delays: Vec<u64>) -> Peer {
    let delays = std::sync::Mutex::new(delays.into_iter());
    let slow = move |_: &Call| match delays.lock().expect("nobody panics").next() {
        None | Some(0) => Fate::Pass,
        Some(delay) => Fate::Late(ms(delay)),
    };
    let channel = coord_server::in_process(Intercept::new(store.clone(), slow));
    Peer::of(Client::from_channel(channel, None).await.expect("a channel"))
}

async fn storm(clients: Vec<Vec<Round>>, delays: Vec<u64>) -> usize {
    let store = MemBackend::new();
    // One server for all of them.
    let peer = peer(&store, delays).await;
    let mut tasks = JoinSet::new();
    let count = clients.len();
    for rounds in clients {
        tasks.spawn(play(store.clone(), peer.clone(), rounds));
    }
    let held = tasks.join_all().await.into_iter().sum();
    // Longer than any answer takes.
    sleep(ms(20_000)).await;
    assert_eq!(store.get_prefix("m/").await.expect("memory").len(), 0, "left behind");
    let leases = store.leases().await.expect("memory").leases;
    assert_eq!(leases.len(), count, "leases are their clients'");
    let lease = peer.grant(60).await;
    timeout(ms(20_000), peer.lock("m", lease)).await.expect("the line is free").expect("a lock");
    held
}

/// How often it has held the lock.
async fn play(store: MemBackend, peer: Peer, rounds: Vec<Round>) -> usize {
    let mut lease = peer.grant(3_600).await;
    let mut held = 0;
    for round in rounds {
        sleep(ms(round.pause_ms)).await;
        let Some(key) = lock(&peer, lease, &round).await else {
            sleep(ms(20_000)).await;
            let left = store.get(format!("m/{lease:x}")).await.expect("memory");
            assert_eq!(left, None, "given up, and in the line");
            continue;
        };
        held += 1;
        let created = first(&store).await;
        assert_eq!(created.0, key, "told to be first");
        sleep(ms(round.hold_ms)).await;
        assert_eq!(first(&store).await, created, "it was not unlocked");
        match round.ends {
            Ends::Unlocking => drop(peer.unlock(key).await.expect("memory")),
            Ends::Revoking => {
                peer.revoke(lease).await;
                lease = peer.grant(3_600).await;
            }
        }
    }
    let lease = LeaseId::new(lease).expect("it was granted");
    let asked = store.lease_time_to_live(LeaseTimeToLive::new(lease)).await.expect("memory");
    assert!(asked.lease.is_some(), "only its client ends it");
    held
}

/// Calls as often as its patience says, on one lease; the first answer counts. The others are
/// awaited or given up before it goes on, as they would be in a program.
async fn lock(peer: &Peer, lease: i64, round: &Round) -> Option<String> {
    let mut calls = JoinSet::new();
    for (n, patience) in round.patience_ms.iter().enumerate() {
        let (peer, patience) = (peer.clone(), ms(*patience));
        let after = ms(round.apart_ms * n as u64);
        calls.spawn(async move {
            sleep(after).await;
            timeout(patience, peer.lock("m", lease)).await.ok()
        });
    }
    let answers = calls.join_all().await;
    let keys = answers.into_iter().flatten().map(|answer| answer.expect("its lease lives").0);
    keys.collect::<BTreeSet<_>>().pop_first()
}

/// The key that is first in the line, and when it came.
async fn first(store: &MemBackend) -> (String, i64) {
    let line = store.get_prefix("m/").await.expect("memory");
    let first = line.into_iter().min_by_key(|kv| kv.create_revision).expect("somebody is first");
    (String::from_utf8_lossy(&first.key).into_owned(), first.create_revision.0)
}

fn storm_of_calls_that_are_given_up_harms_nobody() -> Result<(), Failed> {
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let clients = prop::collection::vec(prop::collection::vec(round(), 1..4), 1..6);
    let held = std::cell::Cell::new(0);
    let outcome = TestRunner::new(config).run(&(clients, delays()), |(clients, delays)| {
        held.set(held.get() + on_virtual_time(storm(clients, delays)));
        Ok(())
    });
    outcome?;
    // It proves something only if they often get what they want.
    assert!(held.get() > 200, "{}", held.get());
    Ok(())
}

/// Of three hundred who wait every third stays, and they are served in order.
fn line_of_hundreds_outlives_those_who_leave_it() -> Result<(), Failed> {
    on_virtual_time(async {
        let store = MemBackend::new();
        let peer = peer(&store, Vec::new()).await;
        let lease = peer.grant(3_600).await;
        let (mut holder, _) = peer.lock("m", lease).await.expect("a lock");
        let mut stay = Vec::new();
        let mut leave = Vec::new();
        for n in 0..300 {
            let lease = peer.grant(3_600).await;
            let theirs = peer.clone();
            let mut call = JoinSet::new();
            call.spawn(async move { theirs.lock("m", lease).await });
            peer.until_there_are(n + 2, "m/").await;
            if n % 3 == 0 {
                stay.push((lease, call));
            } else {
                leave.push(call);
            }
        }
        // From the end, from the beginning, and so on.
        while let Some(call) =
            if leave.len() % 2 == 0 { leave.pop() } else { Some(leave.remove(0)) }
        {
            drop(call);
        }
        peer.until_there_are(101, "m/").await;
        for (lease, mut call) in stay {
            assert!(timeout(ms(500), call.join_next()).await.is_err(), "{holder} is held");
            peer.unlock(holder).await.expect("memory");
            let answer = timeout(ms(500), call.join_next()).await.expect("it is first");
            holder = answer.expect("it waits").expect("no panic").expect("a lock").0;
            assert_eq!(holder, format!("m/{lease:x}"));
        }
        peer.unlock(holder).await.expect("memory");
        assert_eq!(store.get_prefix("m/").await.expect("memory").len(), 0);
    });
    Ok(())
}
