//! Many who give up at random, on virtual time: no line is ever stuck, nobody loses what it was
//! told to have, and nobody's lease is touched.
//!
//! The services run in process, over a store whose answers take their time, so that calls are
//! given up while their requests are under way. Whoever gives up asks again on the same lease,
//! sometimes before the first call is gone, as clients do whose patience is over.

use std::cell::Cell;
use std::sync::Mutex;
use std::time::Duration;

use coord_core::{KvBackend, KvBackendExt as _};
use coord_mem::MemBackend;
use coord_testkit::{Call, Fate, Intercept};
use etcd_client::Client;
use libtest_mimic::{Failed, Trial};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::place::{Peer, Refusal, text};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "virtual::storm_of_calls_that_are_given_up_harms_nobody",
            storm_of_calls_that_are_given_up_harms_nobody,
        ),
        Trial::test(
            "virtual::storm_of_lost_requests_leaves_no_line_stuck",
            storm_of_lost_requests_leaves_no_line_stuck,
        ),
        Trial::test(
            "virtual::line_of_hundreds_outlives_those_who_leave_it",
            line_of_hundreds_outlives_those_who_leave_it,
        ),
    ]
}

/// Longer than anything takes that is still under way.
const CALM: Duration = Duration::from_secs(60);

/// What one client does in a round.
#[derive(Clone, Debug)]
struct Round {
    pause_ms: u64,
    /// How long it waits for each of its calls, which are on one lease, one begun after the other.
    patience_ms: Vec<u64>,
    /// How long after the first call each of the others begins.
    apart_ms: u64,
    hold_ms: u64,
    /// Whether it campaigns, with another value in each call, rather than locks.
    campaigns: bool,
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
    let times = (0..2_000_u64, patience, 0..3_000_u64, 0..1_500_u64);
    (times, any::<bool>(), ends).prop_map(|(times, campaigns, ends)| {
        let (pause_ms, patience_ms, apart_ms, hold_ms) = times;
        Round { pause_ms, patience_ms, apart_ms, hold_ms, campaigns, ends }
    })
}

/// What becomes of requests, one after the other: they take their time, and if `lossy` some are
/// lost, or their answers.
fn fates(lossy: bool) -> impl Strategy<Value = Vec<Fate>> {
    let late = |by: std::ops::Range<u64>| by.prop_map(|by| Fate::Late(ms(by)));
    let lost = u32::from(lossy);
    let fate = prop_oneof![
        4 => Just(Fate::Pass),
        3 => late(1..300),
        3 => late(1..2_500),
        lost => Just(Fate::LoseRequest),
        lost => Just(Fate::LoseReply),
    ];
    prop::collection::vec(fate, 0..200)
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn on_virtual_time<T>(future: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime can be built").block_on(future)
}

/// A client of services over `store`, whose requests meet these fates.
async fn peer(store: &MemBackend, fates: Vec<Fate>) -> Peer {
    let fates = Mutex::new(fates.into_iter());
    let fate = move |_: &Call| fates.lock().expect("no panic").next().unwrap_or(Fate::Pass);
    let channel = coord_server::in_process(Intercept::new(store.clone(), fate));
    Peer::of(Client::from_channel(channel, None).await.expect("a channel"))
}

/// Where a storm takes place.
#[derive(Clone)]
struct Sea {
    store: MemBackend,
    /// A client of the one server that all use, for their locks.
    locks: Peer,
    /// A client of another one, where nothing goes wrong.
    calm: Peer,
    lossy: bool,
}

async fn storm(clients: Vec<Vec<Round>>, fates: Vec<Fate>, lossy: bool) -> usize {
    let store = MemBackend::new();
    let (locks, calm) = (peer(&store, fates).await, peer(&store, Vec::new()).await);
    let sea = Sea { store, locks, calm, lossy };
    let count = clients.len();
    let clients = clients.into_iter().map(|rounds| play(sea.clone(), rounds));
    let held = clients.collect::<JoinSet<_>>().join_all().await.into_iter().sum();
    sleep(CALM).await;
    assert_eq!(sea.store.get_prefix("m/").await.expect("memory").len(), 0, "left behind");
    let leases = sea.store.leases().await.expect("memory").leases;
    assert_eq!(leases.len(), count, "leases are their clients'");
    let lease = sea.calm.grant(60).await;
    timeout(CALM, sea.calm.lock("m", lease)).await.expect("the line is free").expect("a lock");
    held
}

/// How often it has held the lock.
async fn play(sea: Sea, rounds: Vec<Round>) -> usize {
    let mut lease = sea.calm.grant(3_600).await;
    let mut held = 0;
    for round in rounds {
        sleep(ms(round.pause_ms)).await;
        let Some(key) = lock(&sea, lease, &round).await else {
            sleep(CALM).await;
            let left = sea.store.get(format!("m/{lease:x}")).await.expect("memory");
            assert_eq!(left, None, "given up, and in the line");
            continue;
        };
        held += 1;
        let created = first(&sea.store).await;
        assert_eq!(created.0, key, "told to be first");
        sleep(ms(round.hold_ms)).await;
        assert_eq!(first(&sea.store).await, created, "it was not unlocked");
        match round.ends {
            Ends::Unlocking => drop(sea.calm.unlock(key).await.expect("memory")),
            Ends::Revoking => {
                sea.calm.revoke(lease).await;
                lease = sea.calm.grant(3_600).await;
            }
        }
    }
    held
}

/// Calls as often as its patience says, on one lease; the first answer counts. The others are
/// awaited or given up before it goes on, as they would be in a program.
async fn lock(sea: &Sea, lease: i64, round: &Round) -> Option<String> {
    let calls = round.patience_ms.iter().enumerate().map(|(n, patience)| {
        let (peer, patience) = (sea.locks.clone(), ms(*patience));
        let (after, campaigns) = (ms(round.apart_ms * n as u64), round.campaigns);
        async move {
            sleep(after).await;
            let call = async {
                if !campaigns {
                    return Ok(peer.lock("m", lease).await?.0);
                }
                let (leader, _) = peer.campaign("m", &n.to_string(), lease).await?;
                Ok(text(&leader.key))
            };
            timeout(patience, call).await.ok()
        }
    });
    let answers = calls.collect::<JoinSet<_>>().join_all().await;
    let mut key = None;
    for answer in answers.into_iter().flatten() {
        match answer {
            Ok(held) => key = Some(held),
            Err::<_, Refusal>(refusal) => assert!(sea.lossy, "{refusal:?}"),
        }
    }
    key
}

/// The key that is first in the line, and when it came.
async fn first(store: &MemBackend) -> (String, i64) {
    let line = store.get_prefix("m/").await.expect("memory");
    let first = line.into_iter().min_by_key(|kv| kv.create_revision).expect("somebody is first");
    (String::from_utf8_lossy(&first.key).into_owned(), first.create_revision.0)
}

fn storm_of_calls_that_are_given_up_harms_nobody() -> Result<(), Failed> {
    storms(false)
}

fn storm_of_lost_requests_leaves_no_line_stuck() -> Result<(), Failed> {
    storms(true)
}

fn storms(lossy: bool) -> Result<(), Failed> {
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let clients = prop::collection::vec(prop::collection::vec(round(), 1..4), 1..6);
    let held = Cell::new(0);
    TestRunner::new(config).run(&(clients, fates(lossy)), |(clients, fates)| {
        held.set(held.get() + on_virtual_time(storm(clients, fates, lossy)));
        Ok(())
    })?;
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
