//! Randomized fault tests on virtual time: random cancellations and dropped requests never leave a
//! queue stuck, lose a held lock, or end a client's lease.
//!
//! The services run in process, over a backend that delays requests, so that calls are cancelled
//! while their requests are in progress. Clients retry on the same lease, sometimes before the
//! first call has ended, as real clients do after a timeout.

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_core::Client;
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Intercept};
use libtest_mimic::{Failed, Trial};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::target::{Rejection, ServiceClient, text};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "virtual::random_cancellations_leave_no_key_and_lose_no_lock",
            random_cancellations_leave_no_key_and_lose_no_lock,
        ),
        Trial::test(
            "virtual::dropped_requests_leave_no_queue_stuck",
            dropped_requests_leave_no_queue_stuck,
        ),
        Trial::test(
            "virtual::queue_of_300_keeps_order_when_waiters_cancel",
            queue_of_300_keeps_order_when_waiters_cancel,
        ),
    ]
}

/// Longer than any pending request or cleanup takes.
const SETTLE_TIME: Duration = Duration::from_secs(60);

/// What one client does in one round.
#[derive(Clone, Debug)]
struct Round {
    pause_ms: u64,
    /// The timeout of each call. All calls of a round are on one lease.
    timeout_ms: Vec<u64>,
    /// The time between the starts of two calls.
    call_interval_ms: u64,
    hold_ms: u64,
    /// Whether the client campaigns, with another value in each call, instead of locking.
    campaigns: bool,
    release_by: ReleaseBy,
}

/// How a client releases the lock or leadership.
#[derive(Clone, Copy, Debug)]
enum ReleaseBy {
    Unlock,
    /// Revokes the lease; the next round uses a new one.
    Revoke,
}

fn round() -> impl Strategy<Value = Round> {
    let timeout_ms = prop::collection::vec(0..3_000_u64, 1..4);
    let release_by = prop_oneof![3 => Just(ReleaseBy::Unlock), 1 => Just(ReleaseBy::Revoke)];
    let times = (0..2_000_u64, timeout_ms, 0..3_000_u64, 0..1_500_u64);
    (times, any::<bool>(), release_by).prop_map(|(times, campaigns, release_by)| {
        let (pause_ms, timeout_ms, call_interval_ms, hold_ms) = times;
        Round { pause_ms, timeout_ms, call_interval_ms, hold_ms, campaigns, release_by }
    })
}

/// The fault for each request, in order. Requests after the last fault pass. On average, at least
/// half of the faults are delays. With `drops`, some requests or responses are dropped.
fn faults(drops: bool) -> impl Strategy<Value = Vec<Action>> {
    let delayed = |by: std::ops::Range<u64>| by.prop_map(|by| Action::Delay(ms(by)));
    let drop_weight = u32::from(drops);
    let fault = prop_oneof![
        4 => Just(Action::Pass),
        3 => delayed(1..300),
        3 => delayed(1..2_500),
        drop_weight => Just(Action::DropRequest),
        drop_weight => Just(Action::DropResponse),
    ];
    prop::collection::vec(fault, 0..200)
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn on_virtual_time<T>(future: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(future)
}

/// A client of services over `store`, with these faults injected into the requests to the store.
async fn faulty_client(store: &Client, faults: Vec<Action>) -> ServiceClient {
    let faults = Mutex::new(faults.into_iter());
    let fault = move |_: &Call| faults.lock().unwrap().next().unwrap_or(Action::Pass);
    let channel = coord_server::in_process(Intercept::new(Arc::clone(store.backend()), fault));
    ServiceClient::of(etcd_client::Client::from_channel(channel, None).await.unwrap())
}

/// The store and the clients of one run.
#[derive(Clone)]
struct TestBed {
    store: Client,
    /// A client of the server that grants all locks, with faults.
    locks: ServiceClient,
    /// A client of another server on the same store, without faults.
    reliable: ServiceClient,
    /// Whether requests and responses are dropped.
    drops: bool,
}

/// Runs all clients on one store, and returns the number of acquisitions.
async fn run_clients(clients: Vec<Vec<Round>>, faults: Vec<Action>, drops: bool) -> usize {
    let store = Client::new(MemBackend::new());
    let (locks, reliable) =
        (faulty_client(&store, faults).await, faulty_client(&store, Vec::new()).await);
    let bed = TestBed { store, locks, reliable, drops };
    let count = clients.len();
    let clients = clients.into_iter().map(|rounds| run_client(bed.clone(), rounds));
    let held = clients.collect::<JoinSet<_>>().join_all().await.into_iter().sum();
    sleep(SETTLE_TIME).await;
    assert_eq!(bed.store.get_prefix("m/").await.unwrap().len(), 0, "keys are left behind");
    let leases = bed.store.leases().await.unwrap().leases;
    assert_eq!(leases.len(), count, "a client's lease was ended");
    let lease = bed.reliable.grant(60).await;
    timeout(SETTLE_TIME, bed.reliable.lock("m", lease)).await.unwrap().unwrap();
    held
}

/// Runs the rounds of one client, and returns the number of acquisitions.
async fn run_client(bed: TestBed, rounds: Vec<Round>) -> usize {
    let mut lease = bed.reliable.grant(3_600).await;
    let mut held = 0;
    for round in rounds {
        sleep(ms(round.pause_ms)).await;
        let Some(key) = lock(&bed, lease, &round).await else {
            sleep(SETTLE_TIME).await;
            let left = bed.store.get(format!("m/{lease:x}")).await.unwrap();
            assert_eq!(left, None, "a key of a cancelled call is left behind");
            continue;
        };
        held += 1;
        let created = first_in_queue(&bed.store).await;
        assert_eq!(created.0, key, "the acquired key is not first in the queue");
        sleep(ms(round.hold_ms)).await;
        assert_eq!(
            first_in_queue(&bed.store).await,
            created,
            "the lock was lost while it was held"
        );
        match round.release_by {
            ReleaseBy::Unlock => {
                bed.reliable.unlock(key).await.unwrap();
            }
            ReleaseBy::Revoke => {
                bed.reliable.revoke(lease).await;
                lease = bed.reliable.grant(3_600).await;
            }
        }
    }
    held
}

/// Makes the calls of a round on one lease, and returns the key if one of them acquired. Returns
/// once each call has returned or timed out.
async fn lock(bed: &TestBed, lease: i64, round: &Round) -> Option<String> {
    let calls = round.timeout_ms.iter().enumerate().map(|(n, timeout_ms)| {
        let (client, timeout_ms) = (bed.locks.clone(), ms(*timeout_ms));
        let (after, campaigns) = (ms(round.call_interval_ms * n as u64), round.campaigns);
        async move {
            sleep(after).await;
            let call = async {
                if !campaigns {
                    return Ok(client.lock("m", lease).await?.0);
                }
                let (leader, _) = client.campaign("m", &n.to_string(), lease).await?;
                Ok(text(&leader.key))
            };
            timeout(timeout_ms, call).await.ok()
        }
    });
    let results = calls.collect::<JoinSet<_>>().join_all().await;
    let mut key = None;
    for result in results.into_iter().flatten() {
        match result {
            Ok(held) => key = Some(held),
            Err::<_, Rejection>(rejection) => assert!(bed.drops, "{rejection:?}"),
        }
    }
    key
}

/// The first key of the queue `m`, with its create revision.
async fn first_in_queue(store: &Client) -> (String, i64) {
    let queue = store.get_prefix("m/").await.unwrap();
    let first = queue.into_iter().min_by_key(|kv| kv.create_revision).unwrap();
    (String::from_utf8_lossy(&first.key).into_owned(), first.create_revision.0)
}

fn random_cancellations_leave_no_key_and_lose_no_lock() -> Result<(), Failed> {
    run_random(false)
}

fn dropped_requests_leave_no_queue_stuck() -> Result<(), Failed> {
    run_random(true)
}

/// Runs random rounds of random clients, under random faults.
fn run_random(drops: bool) -> Result<(), Failed> {
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let clients = prop::collection::vec(prop::collection::vec(round(), 1..4), 1..6);
    let held = Cell::new(0);
    TestRunner::new(config).run(&(clients, faults(drops)), |(clients, faults)| {
        held.set(held.get() + on_virtual_time(run_clients(clients, faults, drops)));
        Ok(())
    })?;
    // With few acquisitions the test would prove nothing.
    assert!(held.get() > 200, "{}", held.get());
    Ok(())
}

/// Every third of 300 waiters stays. The others cancel, and the waiters that stay acquire in order.
fn queue_of_300_keeps_order_when_waiters_cancel() -> Result<(), Failed> {
    on_virtual_time(async {
        let store = Client::new(MemBackend::new());
        let client = faulty_client(&store, Vec::new()).await;
        let lease = client.grant(3_600).await;
        let (mut holder, _) = client.lock("m", lease).await.unwrap();
        let mut stay = Vec::new();
        let mut cancel = Vec::new();
        for n in 0..300 {
            let lease = client.grant(3_600).await;
            let caller = client.clone();
            let mut call = JoinSet::new();
            call.spawn(async move { caller.lock("m", lease).await });
            client.wait_for_key_count(n + 2, "m/").await;
            if n % 3 == 0 {
                stay.push((lease, call));
            } else {
                cancel.push(call);
            }
        }
        // Cancel alternately the last and the first of these waiters.
        while let Some(call) =
            if cancel.len() % 2 == 0 { cancel.pop() } else { Some(cancel.remove(0)) }
        {
            drop(call);
        }
        client.wait_for_key_count(101, "m/").await;
        for (lease, mut call) in stay {
            assert!(
                timeout(ms(500), call.join_next()).await.is_err(),
                "acquired while {holder} is held"
            );
            client.unlock(holder).await.unwrap();
            let result = timeout(ms(500), call.join_next()).await.unwrap();
            holder = result.unwrap().unwrap().unwrap().0;
            assert_eq!(holder, format!("m/{lease:x}"));
        }
        client.unlock(holder).await.unwrap();
        assert_eq!(store.get_prefix("m/").await.unwrap().len(), 0);
    });
    Ok(())
}
