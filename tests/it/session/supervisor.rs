//! The supervisor: opens the next session when one is lost, and reports its state.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use coord_core::{
    Client, Error, Mutex, Session,
    error::{ErrorKind, LossReason, PrimitiveError},
    kv::{LeaseGrant, Put},
    session::{Generation, SessionState, Supervisor, SupervisorState},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Intercept, Recorder, Rule, poll_at_most};
use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::time::{Instant, advance, sleep, timeout};

use crate::support::{intercepted, is_keep_alive, nth, only, secs, separate_client, settle, timed};
use crate::while_waiting::while_waiting;

/// A supervisor of sessions of 10 s.
pub(super) async fn supervisor(client: Client) -> Supervisor {
    Session::builder(&client).ttl(secs(10)).supervise().await.unwrap()
}

/// A rule that applies `action` to all calls during an outage.
fn during_outage(outage: &Arc<AtomicBool>, action: Action) -> impl Rule {
    let outage = Arc::clone(outage);
    move |_: &Call| if outage.load(Ordering::Relaxed) { action.clone() } else { Action::Pass }
}

/// The states from now on, as text, up to the state `last`.
async fn states_until(supervisor: &Supervisor, last: &str) -> Vec<String> {
    let (mut subscription, mut states) = (supervisor.subscribe(), Vec::new());
    loop {
        states.push(subscription.borrow_and_update().to_string());
        if states.last().is_some_and(|state| state == last) {
            return states;
        }
        subscription.changed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn supervisor_opens_a_session_after_a_loss_and_notifies() {
    let store = Client::new(MemBackend::new());
    let late = nth("lease_grant", 2, 2, Action::Delay(secs(1)));
    let supervisor = supervisor(intercepted(&store, late)).await;
    let first = supervisor.ready().await.unwrap();
    let states = states_until(&supervisor, "generation 2: up");
    let (states, revoked) = while_waiting(states, store.lease_revoke(first.lease_id())).await;
    revoked.unwrap();
    assert_eq!(
        states,
        ["generation 1: up", "generation 1: down: the lease was revoked", "generation 2: up"]
    );

    let second = supervisor.session();
    assert_eq!((first.generation(), second.generation()), (Generation(1), Generation(2)));
    assert_eq!(first.state(), SessionState::Lost(LossReason::Revoked), "a lost session stays lost");
    assert_eq!(second.state(), SessionState::Alive);
    assert_ne!(first.lease_id(), second.lease_id());
    assert_eq!(second.ttl(), secs(10));
}

/// The supervisor retries through an outage and is up at most 10 s after it ends. Generations count
/// sessions, not attempts.
#[tokio::test(start_paused = true)]
async fn supervisor_recovers_after_a_store_outage_of_minutes() {
    let busy = Action::Fail(Error::TooManyRequests);
    for action in [Action::Hang, Action::DropRequest, busy] {
        let (store, outage) = (Client::new(MemBackend::new()), Arc::new(AtomicBool::new(false)));
        let supervisor =
            supervisor(intercepted(&store, during_outage(&outage, action.clone()))).await;
        for generation in 1..5 {
            assert_eq!(
                supervisor.ready().await.unwrap().generation(),
                Generation(generation),
                "{action:?}"
            );
            settle().await;
            outage.store(true, Ordering::Relaxed);
            let down = format!(
                "generation {generation}: down: no keep-alive was confirmed before the deadline"
            );
            let states = states_until(&supervisor, &down).await;
            assert_eq!(states[1], format!("generation {generation}: suspect"), "{action:?}");
            sleep(secs(300)).await;
            assert_eq!(supervisor.state().to_string(), down, "{action:?}");

            outage.store(false, Ordering::Relaxed);
            let (ready, after) = timed(supervisor.ready()).await;
            assert_eq!(ready.unwrap().generation(), Generation(generation + 1), "{action:?}");
            // At worst the longest backoff, 5 s, follows a request that hung for 5 s.
            assert!(after <= secs(10), "{action:?}: took {after:?}");
            settle().await;
            let up = format!("generation {}: up", generation + 1);
            assert_eq!(supervisor.state().to_string(), up);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn clock_jump_past_the_ttl_starts_the_next_generation() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(store).await;
    let first = supervisor.session();
    settle().await;
    advance(secs(60)).await;
    assert_eq!(first.lost().await, LossReason::Expired);
    assert_eq!(supervisor.ready().await.unwrap().generation(), Generation(2));
}

/// If two generations overlapped, one process could hold a lock twice. So when the supervisor
/// requests the next lease, everything held on the previous lease must be lost.
#[tokio::test(start_paused = true)]
async fn generation_starts_only_after_the_previous_is_lost() {
    let newest = Arc::new(StdMutex::new(None::<Session>));
    let too_early = Arc::new(AtomicUsize::new(0));
    let (newest_in_rule, count) = (Arc::clone(&newest), Arc::clone(&too_early));
    let rule = move |call: &Call| {
        if matches!(call, Call::LeaseGrant(_)) {
            let held = newest_in_rule.lock().unwrap();
            let lives = |held: &Session| !matches!(held.state(), SessionState::Lost(_));
            count.fetch_add(usize::from(held.as_ref().is_some_and(lives)), Ordering::Relaxed);
        }
        if is_keep_alive(call) { Action::Hang } else { Action::Pass }
    };
    let store = Client::new(MemBackend::builder().lease_clock_rate(1.05).build());
    let supervisor = supervisor(intercepted(&store, rule)).await;
    for _ in 0..20 {
        let session = supervisor.ready().await.unwrap();
        *newest.lock().unwrap() = Some(session.clone());
        let guard = Mutex::new(&session, "m").lock().await.unwrap();
        let mut state = supervisor.subscribe();
        state.wait_for(|state| state.generation() > session.generation()).await.unwrap();
        let lost = timeout(Duration::ZERO, guard.lost()).await;
        assert_eq!(lost, Ok(LossReason::DeadlineUnconfirmed));
    }
    assert_eq!(supervisor.state().generation(), Generation(21));
    assert_eq!(too_early.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn closed_or_orphaned_session_is_not_replaced() {
    let record = Recorder::new();
    for orphan in [false, true] {
        let supervisor =
            supervisor(intercepted(&Client::new(MemBackend::new()), record.clone())).await;
        let reason = if orphan {
            supervisor.session().orphan().await.unwrap();
            LossReason::Orphaned
        } else {
            supervisor.session().close().await.unwrap();
            LossReason::Closed
        };
        sleep(secs(100)).await;
        let state = supervisor.state();
        assert!(
            matches!(
                state,
                SupervisorState::Ended { generation: Generation(1), reason: r } if r == reason
            ),
            "{state}"
        );
        assert_eq!(supervisor.ready().await.unwrap_err().loss(), Some(reason));
        assert_eq!(record.take().count("lease_grant"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn supervisor_fails_when_the_store_refuses_a_lease() {
    let store = Client::new(MemBackend::new());
    let refused = Action::Fail(Error::PermissionDenied { reason: "no grants today".to_owned() });
    let tasks = Handle::current().metrics().num_alive_tasks();
    let supervisor = supervisor(intercepted(&store, nth("lease_grant", 2, 2, refused))).await;
    store.lease_revoke(supervisor.session().lease_id()).await.unwrap();
    supervisor.session().lost().await;

    let error = supervisor.ready().await.unwrap_err();
    assert!(
        matches!(&error, PrimitiveError::Backend(e) if e.kind() == ErrorKind::PermissionDenied),
        "{error}"
    );
    let state = supervisor.state().to_string();
    assert!(
        state.starts_with("generation 1: failed: ") && state.contains("no grants today"),
        "{state}"
    );
    sleep(secs(100)).await;
    assert_eq!(
        supervisor.session().generation(),
        Generation(1),
        "a failed supervisor does not retry"
    );
    supervisor.close().await.unwrap();
    assert_eq!(supervisor.state().to_string(), state, "close keeps the failure");
    drop(supervisor);
    settle().await;
    assert!(
        Handle::current().metrics().num_alive_tasks() <= tasks + 1,
        "only the lease timer may remain"
    );
}

#[tokio::test(start_paused = true)]
async fn supervise_fails_when_the_first_session_cannot_open() {
    let store = Client::new(MemBackend::new());
    let down = intercepted(&store, only("lease_grant", Action::DropRequest));
    let builder = Session::builder(&down).connect_timeout(secs(3));
    let (supervised, after) = timed(builder.supervise()).await;
    assert_eq!(supervised.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(after, secs(3));
}

#[tokio::test(start_paused = true)]
async fn adopted_lease_is_used_by_the_first_generation_only() {
    let store = Client::new(MemBackend::new());
    let lease = store.lease_grant(LeaseGrant::new(secs(30))).await.unwrap().id;
    let builder = Session::builder(&separate_client(&store)).lease(lease).ttl(secs(7));
    let supervisor = builder.supervise().await.unwrap();
    assert_eq!((supervisor.session().lease_id(), supervisor.session().ttl()), (lease, secs(30)));
    store.lease_revoke(lease).await.unwrap();
    supervisor.session().lost().await;
    let second = supervisor.ready().await.unwrap();
    assert_eq!((second.generation(), second.ttl()), (Generation(2), secs(7)));
    assert_ne!(second.lease_id(), lease);
}

#[tokio::test(start_paused = true)]
async fn close_ends_the_supervisor_and_its_session() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(separate_client(&store)).await;
    let session = supervisor.session();
    store.put_with(Put::new("a", "1").lease(session.lease_id())).await.unwrap();
    supervisor.close().await.unwrap();
    assert_eq!(supervisor.state().to_string(), "generation 1: ended: the session was closed");
    assert_eq!(session.state(), SessionState::Lost(LossReason::Closed));
    assert!(store.get("a").await.unwrap().is_none());
    sleep(secs(100)).await;
    assert!(store.leases().await.unwrap().leases.is_empty(), "no further session was opened");
    supervisor.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn supervisor_close_times_out_without_a_response() {
    let (store, outage) = (Client::new(MemBackend::new()), Arc::new(AtomicBool::new(false)));
    // After 100 s the session is lost, so that there is nothing to revoke.
    for (wait, error) in [(0, Some(ErrorKind::Timeout)), (100, None)] {
        outage.store(false, Ordering::Relaxed);
        let supervisor =
            supervisor(intercepted(&store, during_outage(&outage, Action::Hang))).await;
        outage.store(true, Ordering::Relaxed);
        sleep(secs(wait)).await;
        let (closed, after) = timed(supervisor.close()).await;
        assert_eq!(closed.err().map(|error| error.kind()), error, "after {wait} s");
        assert!(after <= secs(10), "took {after:?}");
        assert_eq!(supervisor.ready().await.unwrap_err().loss(), Some(LossReason::Closed));
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_close_still_closes_the_supervisor() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(intercepted(&store, only("lease_revoke", Action::Yield))).await;
    assert!(poll_at_most(1, supervisor.close()).await.is_none());
    settle().await;
    assert!(store.leases().await.unwrap().leases.is_empty());
    assert_eq!(supervisor.ready().await.unwrap_err().loss(), Some(LossReason::Closed));
}

#[tokio::test(start_paused = true)]
async fn last_handle_dropped_ends_supervisor_but_not_held_locks() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(separate_client(&store)).await;
    let (clone, state) = (supervisor.clone(), supervisor.subscribe());
    drop(supervisor);
    sleep(secs(100)).await;
    assert_eq!(state.borrow().to_string(), "generation 1: up");

    let guard = Mutex::new(&clone.session(), "m").lock().await.unwrap();
    drop(clone);
    sleep(secs(100)).await;
    assert_eq!(state.borrow().to_string(), "generation 1: ended: the session was closed");
    assert_eq!(guard.session().state(), SessionState::Alive, "the guard keeps the session open");
    drop(guard);
    settle().await;
    assert!(store.leases().await.unwrap().leases.is_empty());
}

#[tokio::test(start_paused = true)]
async fn supervisor_dropped_while_reconnecting_sends_no_request() {
    for action in [Action::Hang, Action::DropRequest] {
        let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
        let cut_off =
            Intercept::new(Arc::clone(store.backend()), nth("lease_grant", 2, usize::MAX, action));
        let kv = Client::new(Intercept::new(cut_off, record.clone()));
        let tasks = Handle::current().metrics().num_alive_tasks();
        let supervisor = supervisor(kv).await;
        store.lease_revoke(supervisor.session().lease_id()).await.unwrap();
        sleep(secs(60)).await;
        assert!(record.take().count("lease_grant") > 5, "the supervisor was reconnecting");
        drop(supervisor);
        settle().await;
        record.take();
        sleep(secs(600)).await;
        assert_eq!(record.take().names(), "");
        assert!(
            Handle::current().metrics().num_alive_tasks() <= tasks + 1,
            "only the lease timer may remain"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn thousand_losses_leak_no_task_and_no_lease() {
    let store = Client::new(MemBackend::new());
    let supervisor = supervisor(separate_client(&store)).await;
    settle().await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    for generation in 1..=1_000 {
        let session = supervisor.ready().await.unwrap();
        assert_eq!(session.generation(), Generation(generation));
        store.lease_revoke(session.lease_id()).await.unwrap();
        session.lost().await;
    }
    assert_eq!(supervisor.ready().await.unwrap().generation(), Generation(1_001));
    settle().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks);
    assert_eq!(store.leases().await.unwrap().leases.len(), 1);
    drop(supervisor);
    settle().await;
    assert!(store.leases().await.unwrap().leases.is_empty());
}

/// Jitter in the backoff spreads the load on a store after an outage.
#[tokio::test(start_paused = true)]
async fn reconnects_after_an_outage_are_spread_over_time() {
    let (store, outage) = (Client::new(MemBackend::new()), Arc::new(AtomicBool::new(false)));
    let mut supervisors = Vec::new();
    for _ in 0..50 {
        supervisors.push(
            supervisor(intercepted(&store, during_outage(&outage, Action::DropRequest))).await,
        );
    }
    outage.store(true, Ordering::Relaxed);
    sleep(secs(100)).await;
    outage.store(false, Ordering::Relaxed);
    let back = supervisors.iter().map(|supervisor| async {
        supervisor.ready().await.unwrap();
        Instant::now()
    });
    let back: BTreeSet<_> = join_all(back).await.into_iter().collect();
    assert!(back.len() > 40, "50 clients reconnected at {} different times", back.len());
}
