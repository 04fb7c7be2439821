//! Random schedules and faults: whatever happens, one holder at a time, tokens that grow, and
//! nothing left behind.
//!
//! Each worker locks, holds, and unlocks or just drops, some of them in a hurry, some of them used
//! to be alone. What becomes of each request is drawn from a list that proptest chose and can
//! shrink; the clock is virtual, so a storm of minutes takes milliseconds. "One at a time" is
//! judged where it counts: by what the store let a holder write, with the guarded transaction of
//! its guard.

use coord_mem::MemBackend;
use std::iter::repeat_n;
use std::time::Duration;

use coord_core::{
    Client, Mutex, Session,
    error::Outcome,
    kv::{Put, Txn},
    mutex::MutexGuard,
};
use coord_testkit::Action;
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{any_fate, cases, clients, keys, on_virtual_time, secs};

/// How one worker behaves, round after round.
#[derive(Clone, Debug)]
struct Habit {
    patience_ms: u64,
    hold_ms: u64,
    unlocks: bool,
}

fn habit() -> impl Strategy<Value = Habit> {
    (1..8_000_u64, 0..3_000_u64, any::<bool>()).prop_map(|(patience_ms, hold_ms, unlocks)| Habit {
        patience_ms,
        hold_ms,
        unlocks,
    })
}

/// Writes under the lock: the store must find the tokens of those who write in order.
async fn write(guard: &MutexGuard) {
    let token = guard.fencing_token().to_string();
    let put = Put::new("written", token.clone()).with_prev_kv();
    match timeout(secs(5), guard.txn(Txn::new().and_then([put]))).await {
        Ok(Ok(answer)) => {
            let before = answer.responses[0].as_put().expect("one put").prev_kv.clone();
            let before = before.map_or(0, |kv| {
                std::str::from_utf8(&kv.value).expect("digits").parse::<i64>().expect("a number")
            });
            assert!(before <= guard.fencing_token().0.0, "{before} wrote before {token}");
        }
        Ok(Err(error)) => assert!(
            error.loss().is_some() || error.outcome() == Outcome::Unknown,
            "a guarded write failed with {error}"
        ),
        Err(_) => {}
    }
}

/// How many requests an [`alone`] makes.
const ALONE: usize = 1 + 2 * 8;

/// A worker's session and lock, after it had it to itself for so long that it takes it to be free.
async fn alone(kv: Client) -> (Session, Mutex) {
    let session = Session::builder(&kv).ttl(secs(6)).open().await.expect("it is calm");
    let mutex = Mutex::new(&session, "m");
    for _ in 0..8 {
        mutex.lock().await.expect("it is calm").unlock().await.expect("it is calm");
    }
    (session, mutex)
}

async fn work(kv: Client, habit: Habit) {
    let Ok(session) = Session::builder(&kv).ttl(secs(6)).open().await else { return };
    let mutex = Mutex::new(&session, "m");
    work_on((session, mutex), habit).await;
}

async fn work_on((session, mutex): (Session, Mutex), habit: Habit) {
    for _ in 0..3 {
        let locked = timeout(Duration::from_millis(habit.patience_ms), mutex.lock()).await;
        let Ok(Ok(guard)) = locked else { continue };
        write(&guard).await;
        let _ = guard.run_while_held(sleep(Duration::from_millis(habit.hold_ms))).await;
        write(&guard).await;
        if habit.unlocks {
            let _ = timeout(secs(5), guard.unlock()).await;
        }
    }
    let _ = session.close().await;
}

/// With `calm`, each has had the lock to itself before the storm.
async fn storm(mut workers: Vec<(Habit, Vec<Action>)>, in_one_process: bool, calm: bool) {
    let store = Client::new(MemBackend::builder().lease_clock_rate(1.05).build());
    if calm {
        // The requests of a process meet their fates in the order in which they are made.
        let (of_first, of_others) =
            if in_one_process { (workers.len() * ALONE, 0) } else { (ALONE, ALONE) };
        for (n, (_, fates)) in workers.iter_mut().enumerate() {
            let passes = if n == 0 { of_first } else { of_others };
            fates.splice(0..0, repeat_n(Action::Pass, passes));
        }
    }
    let (mut tasks, mut begun) = (JoinSet::new(), Vec::new());
    for (kv, habit) in clients(&store, workers, in_one_process) {
        if calm {
            begun.push((alone(kv).await, habit));
        } else {
            tasks.spawn(work(kv, habit));
        }
    }
    for (lock, habit) in begun {
        tasks.spawn(work_on(lock, habit));
    }
    while let Some(worker) = tasks.join_next().await {
        worker.expect("no worker panics");
    }
    // A lease that was granted to nobody, for the answer was lost, ends by itself.
    sleep(secs(2_000)).await;
    assert_eq!(keys(&store, "m/").await, [""; 0], "left behind");
    assert!(store.leases().await.expect("the store is there").leases.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(300),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_faults_never_break_mutual_exclusion(
        workers in prop::collection::vec((habit(), prop::collection::vec(any_fate(), 0..40)), 2..5),
        in_one_process in any::<bool>(),
        calm in any::<bool>(),
    ) {
        on_virtual_time(storm(workers, in_one_process, calm));
    }
}

/// The storm proves something only if its workers often hold the lock.
#[tokio::test(start_paused = true)]
async fn every_worker_writes_without_faults() {
    let calm = Habit { patience_ms: 8_000, hold_ms: 10, unlocks: true };
    for in_one_process in [false, true] {
        let store = Client::new(MemBackend::new());
        let mut tasks = JoinSet::new();
        let workers = vec![(calm.clone(), Vec::new()); 4];
        for (kv, habit) in clients(&store, workers, in_one_process) {
            tasks.spawn(work(kv, habit));
        }
        tasks.join_all().await;
        let written = store.get("written").await.unwrap().expect("somebody wrote");
        assert_eq!(written.version, 4 * 3 * 2, "four workers, three rounds, two writes");
    }
}
