//! `Supervisor::run`: repeats work that lost its lock, one call at a time, and cleans up after it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use coord_core::{
    Client, Mutex, Session,
    error::{ErrorKind, LossReason, PrimitiveError},
    session::{Generation, SessionState},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, poll_at_most};
use proptest::prelude::*;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::supervisor::supervisor;
use crate::support::{
    intercepted, is_keep_alive, keys, on_virtual_time, scripted, secs, separate_client, settle,
    timed,
};

/// The work locks, and locks again in the next generation when its lease was revoked. It is
/// spawned, so the future of `run` is `Send`.
#[tokio::test(start_paused = true)]
async fn lost_lock_is_reacquired_in_the_next_generation() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(separate_client(&store)).await;
    let mut tasks = JoinSet::new();
    let kv = store.clone();
    tasks.spawn(async move {
        let tokens = StdMutex::new(Vec::new());
        let work = async |session: Session| {
            let guard = Mutex::new(&session, "m").lock().await?;
            tokens.lock().unwrap().push(guard.fencing_token());
            if session.generation() < Generation(5) {
                kv.lease_revoke(session.lease_id()).await?;
            }
            guard.run_while_held(sleep(secs(60))).await?;
            guard.unlock().await?;
            Ok::<_, PrimitiveError>(session.generation())
        };
        assert_eq!(supervisor.run(work).await.unwrap(), Generation(5));
        tokens.into_inner().unwrap()
    });
    let tokens = tasks.join_next().await.unwrap().unwrap();
    assert!(tokens.len() == 5 && tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    assert_eq!(keys(&store, "m/").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn work_is_repeated_on_the_same_session_after_key_deletion() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(separate_client(&store)).await;
    let lease = supervisor.session().lease_id();
    let calls = AtomicUsize::new(0);
    let done = supervisor.run(async |session: Session| {
        assert_eq!((session.generation(), session.lease_id()), (Generation(1), lease));
        let guard = Mutex::new(&session, "m").lock().await?;
        if calls.fetch_add(1, Ordering::Relaxed) < 3 {
            store.delete(guard.key()).await?;
        }
        guard.run_while_held(sleep(secs(5))).await?;
        Ok::<_, PrimitiveError>(())
    });
    done.await.unwrap();
    assert_eq!(calls.into_inner(), 4);
}

#[tokio::test(start_paused = true)]
async fn run_returns_errors_that_are_not_losses() {
    let supervisor = supervisor(Client::new(MemBackend::new())).await;
    let calls = AtomicUsize::new(0);
    let failed: Result<(), PrimitiveError> = supervisor
        .run(async |session: Session| {
            calls.fetch_add(1, Ordering::Relaxed);
            session.client().get("").await?;
            Ok(())
        })
        .await;
    assert!(
        matches!(failed, Err(PrimitiveError::Backend(error)) if error.kind() == ErrorKind::EmptyKey)
    );
    assert_eq!(calls.into_inner(), 1);
    assert_eq!(supervisor.run(async |_| Ok::<_, PrimitiveError>(7)).await.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn backoff_grows_when_work_loses_at_once() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(separate_client(&store)).await;
    for revoke in [false, true] {
        let calls = AtomicUsize::new(0);
        let endless = supervisor.run(async |session: Session| {
            calls.fetch_add(1, Ordering::Relaxed);
            if revoke {
                store.lease_revoke(session.lease_id()).await?;
                session.lost().await;
            }
            Err::<(), PrimitiveError>(LossReason::KeyDeleted.into())
        });
        assert!(timeout(secs(60), endless).await.is_err());
        let calls = calls.into_inner();
        assert!((10..=30).contains(&calls), "{calls} calls in a minute");
    }
}

#[tokio::test(start_paused = true)]
async fn work_lost_after_a_long_hold_restarts_without_backoff() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(separate_client(&store)).await;
    let calls = AtomicUsize::new(0);
    let work = supervisor.run(async |_| {
        if calls.fetch_add(1, Ordering::Relaxed) == 10 {
            return Ok(());
        }
        sleep(secs(60)).await;
        Err(PrimitiveError::from(LossReason::KeyDeleted))
    });
    let (done, after) = timed(work).await;
    done.unwrap();
    assert_eq!(after, secs(600));
}

#[tokio::test(start_paused = true)]
async fn run_ends_when_the_supervisor_is_closed() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(separate_client(&store)).await;
    let holding = supervisor.run(async |session: Session| {
        let guard = Mutex::new(&session, "m").lock().await?;
        guard.run_while_held(std::future::pending::<()>()).await?;
        Ok::<_, PrimitiveError>(())
    });
    let losing = supervisor.run(async |_| Err::<(), PrimitiveError>(LossReason::KeyDeleted.into()));
    let closing = async {
        sleep(secs(60)).await;
        supervisor.close().await.unwrap();
    };
    let ((held, after), (lost, paused), ()) = tokio::join!(timed(holding), timed(losing), closing);
    assert_eq!(held.unwrap_err().loss(), Some(LossReason::Closed));
    assert_eq!(lost.unwrap_err().loss(), Some(LossReason::Closed));
    assert_eq!((after, paused), (secs(60), secs(60)), "the backoff does not delay the end");
    assert!(store.leases().await.unwrap().leases.is_empty());
}

#[tokio::test(start_paused = true)]
async fn run_dropped_at_any_await_leaves_no_key_and_no_lease() {
    for polls in 1..200 {
        let store = Client::new(MemBackend::new());
        let supervisor = supervisor(intercepted(&store, |_: &Call| Action::Yield)).await;
        let work = supervisor.run(async |session: Session| {
            let guard = Mutex::new(&session, "m").lock().await?;
            if session.generation() < Generation(3) {
                store.lease_revoke(session.lease_id()).await?;
                return Err(guard.lost().await.into());
            }
            guard.unlock().await?;
            Ok::<_, PrimitiveError>(())
        });
        let done = poll_at_most(polls, work).await;
        settle().await;
        let over = matches!(supervisor.session().state(), SessionState::Lost(_));
        assert!(over || keys(&store, "m/").await.is_empty(), "dropped after {polls} polls");
        drop(supervisor);
        sleep(secs(20)).await;
        assert_eq!(keys(&store, "").await, [""; 0], "dropped after {polls} polls");
        let leases = store.leases().await.unwrap().leases;
        assert!(leases.is_empty(), "dropped after {polls} polls: {leases:?}");
        if let Some(done) = done {
            done.unwrap();
            assert!(polls > 10, "the future was never dropped before it completed");
            return;
        }
    }
    panic!("the work never completed");
}

/// Keep-alives are the only cost of holding a lock, and all primitives of one session share them.
#[tokio::test(start_paused = true)]
async fn keep_alive_cost_does_not_depend_on_guard_count() {
    let mut costs = Vec::new();
    for count in [0, 1, 50] {
        let record = Recorder::new();
        let supervisor =
            supervisor(intercepted(&Client::new(MemBackend::new()), record.clone())).await;
        let session = supervisor.ready().await.unwrap();
        let mut guards = Vec::new();
        for n in 0..count {
            guards.push(Mutex::new(&session, format!("m{n}")).lock().await.unwrap());
        }
        record.take();
        sleep(secs(3_600)).await;
        let calls = record.take();
        assert!(calls.0.iter().all(is_keep_alive), "{calls}");
        costs.push(calls.0.len());
    }
    assert!(costs.iter().all(|cost| *cost == costs[0]), "{costs:?}");
    assert!((1_075..=1_081).contains(&costs[0]), "one keep-alive each third of 10 s: {costs:?}");
}

/// An action for a request, with a fault or without. A delay may exceed the TTL of the sessions.
fn any_fault() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => Just(Action::Pass),
        3 => Just(Action::Yield),
        2 => (1..12_000_u64).prop_map(|ms| Action::Delay(Duration::from_millis(ms))),
        2 => Just(Action::DropRequest),
        1 => Just(Action::DropResponse),
        2 => Just(Action::Hang),
    ]
}

/// Runs work under the lock for three seconds, three times, and repeats it after each loss.
async fn run_client(kv: Client, holders: &AtomicUsize) -> Generation {
    let builder = Session::builder(&kv).ttl(secs(6)).connect_timeout(secs(2));
    let supervisor = loop {
        if let Ok(supervisor) = builder.clone().supervise().await {
            break supervisor;
        }
    };
    let newest = AtomicUsize::new(0);
    for _ in 0..3 {
        let run = || supervisor.run(|session| work_under_lock(session, holders, &newest));
        // The supervisor does not end work that hangs.
        let mut hung = 0;
        loop {
            match timeout(secs(60), run()).await {
                Ok(Ok(())) => break,
                Ok(Err(_)) => {}
                Err(_) => hung += 1,
            }
            assert!(hung < 10, "the client acquires the lock no more");
        }
    }
    // Also while the store is unavailable.
    let (_, after) = timed(supervisor.close()).await;
    assert!(after <= secs(6), "closing took {after:?}");
    supervisor.state().generation()
}

/// Holds the lock for three seconds, and checks that there is no other holder.
async fn work_under_lock(
    session: Session,
    holders: &AtomicUsize,
    newest: &AtomicUsize,
) -> Result<(), PrimitiveError> {
    let generation = usize::try_from(session.generation().0).unwrap();
    let previous = newest.fetch_max(generation, Ordering::Relaxed);
    assert!(previous <= generation, "generation {generation} after {previous}");
    let guard = Mutex::new(&session, "m").lock().await?;
    // No task is paused, so work that still runs surely holds the lock.
    let work = async {
        assert_eq!(holders.fetch_add(1, Ordering::Relaxed), 0, "two holders of one lock");
        let _counted = CountedHolder(holders);
        sleep(secs(3)).await;
    };
    guard.run_while_held(work).await?;
    Ok(guard.unlock().await?)
}

/// Decrements the number of holders when it is dropped.
struct CountedHolder<'a>(&'a AtomicUsize);

impl Drop for CountedHolder<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs clients with these faults and checks that nothing is left when they have ended.
async fn run_clients(clients: Vec<Vec<Action>>) {
    let store = Client::new(MemBackend::builder().lease_clock_rate(1.05).build());
    let holders = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for actions in clients {
        let (kv, holders) = (intercepted(&store, scripted(actions)), Arc::clone(&holders));
        tasks.spawn(async move { run_client(kv, &holders).await });
    }
    while let Some(client) = tasks.join_next().await {
        client.unwrap();
    }
    // A lease whose grant had no response expires.
    sleep(secs(20)).await;
    assert_eq!(keys(&store, "").await, [""; 0], "a key was left");
    assert!(store.leases().await.unwrap().leases.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_faults_never_give_the_lock_to_two_holders(
        clients in prop::collection::vec(prop::collection::vec(any_fault(), 0..60), 1..4)
    ) {
        on_virtual_time(run_clients(clients));
    }
}
