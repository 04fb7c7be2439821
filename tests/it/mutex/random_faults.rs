//! Randomized fault test of a mutex: mutual exclusion, increasing tokens, nothing left behind.
//!
//! Each worker locks, holds, and unlocks or drops its guard, some with a short timeout. proptest
//! chooses an action for each request, so it can shrink a failure. Time is virtual: minutes take
//! milliseconds. Mutual exclusion is checked where it counts, by what the store lets a holder write
//! with the guarded transaction of its guard.

use std::iter::repeat_n;
use std::time::Duration;

use coord_core::{
    Client, Mutex, Session,
    error::{Outcome, PrimitiveError},
    kv::{Put, Txn},
    mutex::MutexGuard,
};
use coord_mem::MemBackend;
use coord_testkit::Action;
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{any_action, cases, clients, keys, on_virtual_time, secs};

/// How a worker behaves, in each round.
#[derive(Clone, Debug)]
struct WorkerPlan {
    lock_timeout_ms: u64,
    hold_ms: u64,
    /// Whether it unlocks its guard, rather than drop it.
    unlocks: bool,
}

/// How many rounds a worker locks.
const WORKER_ROUNDS: usize = 3;

fn worker_plan() -> impl Strategy<Value = WorkerPlan> {
    (1..8_000_u64, 0..3_000_u64, any::<bool>()).prop_map(|(lock_timeout_ms, hold_ms, unlocks)| {
        WorkerPlan { lock_timeout_ms, hold_ms, unlocks }
    })
}

/// Writes the fencing token in a guarded transaction, and checks that no greater token was written
/// before.
async fn write_token(guard: &MutexGuard) {
    let token = guard.fencing_token().to_string();
    let put = Put::new("written", token.clone()).with_prev_kv();
    match timeout(secs(5), guard.txn(Txn::new().and_then([put]))).await {
        Ok(Ok(response)) => {
            let previous = response.responses[0].as_put().expect("one put").prev_kv.clone();
            let previous = previous.map_or(0, |kv| {
                let digits = std::str::from_utf8(&kv.value).expect("a token is text");
                digits.parse::<i64>().expect("a token is a number")
            });
            assert!(previous <= guard.fencing_token().0.0, "{previous} was written before {token}");
        }
        Ok(Err(error)) => assert!(
            error.loss().is_some() || error.outcome() == Outcome::Unknown,
            "a guarded write failed with {error}"
        ),
        Err(_) => {}
    }
}

/// How many times a worker locks and unlocks in [`lock_uncontended`].
const UNCONTENDED_LOCKS: usize = 8;

/// The number of requests of [`lock_uncontended`].
const UNCONTENDED_REQUESTS: usize = 1 + 2 * UNCONTENDED_LOCKS;

/// Opens a session, and locks and unlocks without contention.
async fn lock_uncontended(client: Client) -> Result<(Session, Mutex), PrimitiveError> {
    let session = Session::builder(&client).ttl(secs(6)).open().await?;
    let mutex = Mutex::new(&session, "m");
    for _ in 0..UNCONTENDED_LOCKS {
        mutex.lock().await?.unlock().await?;
    }
    Ok((session, mutex))
}

async fn open_and_run_worker(client: Client, plan: WorkerPlan) {
    let Ok(session) = Session::builder(&client).ttl(secs(6)).open().await else { return };
    let mutex = Mutex::new(&session, "m");
    run_worker(session, mutex, plan).await;
}

async fn run_worker(session: Session, mutex: Mutex, plan: WorkerPlan) {
    for _ in 0..WORKER_ROUNDS {
        let locked = timeout(Duration::from_millis(plan.lock_timeout_ms), mutex.lock()).await;
        let Ok(Ok(guard)) = locked else { continue };
        write_token(&guard).await;
        let _ = guard.run_while_held(sleep(Duration::from_millis(plan.hold_ms))).await;
        write_token(&guard).await;
        if plan.unlocks {
            let _ = timeout(secs(5), guard.unlock()).await;
        }
    }
    let _ = session.close().await;
}

/// Runs workers under faults, and checks that nothing is left behind.
///
/// If `starts_uncontended`, each worker first locks alone and without faults.
async fn run_with_faults(
    mut workers: Vec<(WorkerPlan, Vec<Action>)>,
    in_one_client: bool,
    starts_uncontended: bool,
) {
    let store = Client::new(MemBackend::builder().lease_clock_rate(1.05).build());
    if starts_uncontended {
        // The actions of one client apply to its requests in the order in which they are sent.
        let (of_first, of_others) = if in_one_client {
            (workers.len() * UNCONTENDED_REQUESTS, 0)
        } else {
            (UNCONTENDED_REQUESTS, UNCONTENDED_REQUESTS)
        };
        for (n, (_, actions)) in workers.iter_mut().enumerate() {
            let passes = if n == 0 { of_first } else { of_others };
            actions.splice(0..0, repeat_n(Action::Pass, passes));
        }
    }
    let (mut tasks, mut opened) = (JoinSet::new(), Vec::new());
    for (client, plan) in clients(&store, workers, in_one_client) {
        if starts_uncontended {
            opened.push((lock_uncontended(client).await.expect("no fault yet"), plan));
        } else {
            tasks.spawn(open_and_run_worker(client, plan));
        }
    }
    for ((session, mutex), plan) in opened {
        tasks.spawn(run_worker(session, mutex, plan));
    }
    while let Some(worker) = tasks.join_next().await {
        worker.expect("no worker panics");
    }
    // A lease whose grant got no response has no owner, and expires.
    sleep(secs(2_000)).await;
    assert_eq!(keys(&store, "m/").await, [""; 0], "keys were left behind");
    let leases = store.leases().await.expect("the store is available").leases;
    assert!(leases.is_empty(), "leases were left behind: {leases:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(300),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_faults_never_break_mutual_exclusion(
        workers in prop::collection::vec(
            (worker_plan(), prop::collection::vec(any_action(), 0..40)), 2..5
        ),
        in_one_client in any::<bool>(),
        starts_uncontended in any::<bool>(),
    ) {
        on_virtual_time(run_with_faults(workers, in_one_client, starts_uncontended));
    }
}

/// The randomized test is worth something only if its workers hold the lock.
#[tokio::test(start_paused = true)]
async fn every_worker_writes_without_faults() {
    let plan = WorkerPlan { lock_timeout_ms: 8_000, hold_ms: 10, unlocks: true };
    for in_one_client in [false, true] {
        let store = Client::new(MemBackend::new());
        let mut tasks = JoinSet::new();
        let workers = vec![(plan.clone(), Vec::new()); 4];
        for (client, plan) in clients(&store, workers, in_one_client) {
            tasks.spawn(open_and_run_worker(client, plan));
        }
        tasks.join_all().await;
        let written = store.get("written").await.unwrap().expect("the workers wrote");
        assert_eq!(written.version, 4 * 3 * 2, "four workers, three rounds, two writes");
    }
}
