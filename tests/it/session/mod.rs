//! What a session promises.

mod again;
mod asleep;
mod lines;
mod orphan;
mod run;
mod scoped;
mod supervisor;
pub(crate) mod telemetry;

use crate::support::another;
use coord_mem::MemBackend;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use coord_core::{
    Client, Error, Mutex, Session,
    error::{ErrorKind, LossReason},
    kv::{LeaseGrant, LeaseTimeToLive, Put, Watch, WatchFilter},
    session::SessionState,
};
use coord_testkit::{Action, Call, Recorder};
use tokio::runtime::Builder;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, advance, sleep, timeout};

use crate::support::{behind, is_keep_alive, nth, only, secs, session, session_on, settle, timed};

#[tokio::test(start_paused = true)]
async fn open_session_keeps_its_lease_alive() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    store.put_with(Put::new("a", "1").lease(session.lease_id())).await.unwrap();
    sleep(secs(100_000)).await;
    assert_eq!(session.state(), SessionState::Alive);
    assert!(store.get("a").await.unwrap().is_some());
}

/// The promise everything else rests on: for ttl and clocks of all sorts, the owner is told before
/// the store deletes the first key.
#[tokio::test(start_paused = true)]
async fn session_is_lost_before_its_lease_expires() {
    for (ttl, rate) in [(2, 1.0), (2, 1.05), (10, 1.0), (10, 1.05), (60, 1.05), (3600, 1.05)] {
        let store = Client::new(MemBackend::builder().lease_clock_rate(rate).build());
        let kv = behind(&store, nth("lease_keep_alive", 4, usize::MAX, Action::Hang));
        let session = Session::builder(&kv).ttl(secs(ttl)).open().await.unwrap();
        store.put_with(Put::new("a", "1").lease(session.lease_id())).await.unwrap();
        let request = Watch::new("a").filter(WatchFilter::NoPut);
        let mut deleted = store.watch(request).await.unwrap();
        let early = timeout(secs(ttl), deleted.next()).await;
        assert!(early.is_err(), "ttl {ttl}, rate {rate}: ended although kept alive");

        let reason = tokio::select! {
            biased;
            _ = deleted.next() => panic!("ttl {ttl}, rate {rate}: the store was first"),
            reason = session.lost() => reason,
        };
        assert_eq!(reason, LossReason::DeadlineUnconfirmed);
        let margin = timed(deleted.next()).await.1;
        assert!(margin >= secs(ttl) / 25, "ttl {ttl}, rate {rate}: only {margin:?} between");
    }
}

/// It counts from when the last keep-alive that was confirmed was *sent*: this one takes 2 s.
#[tokio::test(start_paused = true)]
async fn session_without_keep_alives_is_lost_at_its_deadline() {
    let store = Client::new(MemBackend::new());
    let seen = AtomicUsize::new(0);
    let kv = behind(&store, move |call: &Call| {
        match is_keep_alive(call).then(|| seen.fetch_add(1, Ordering::Relaxed)) {
            None => Action::Pass,
            Some(0) => Action::Delay(secs(2)),
            Some(_) => Action::Hang,
        }
    });
    let opened = Instant::now();
    let session = Session::builder(&kv).ttl(secs(30)).open().await.unwrap();
    assert_eq!(session.deadline() - opened, secs(27));
    sleep(secs(11)).await;
    assert_eq!(session.deadline() - opened, secs(27), "sent, and not yet confirmed");
    sleep(secs(2)).await;
    assert_eq!(session.deadline() - opened, secs(10 + 27));

    assert_eq!(session.lost().await, LossReason::DeadlineUnconfirmed);
    assert_eq!(opened.elapsed(), secs(10 + 27));
    assert_eq!(session.deadline(), Instant::now());
}

#[tokio::test(start_paused = true)]
async fn late_keep_alive_response_does_not_revive_a_session() {
    let store = Client::new(MemBackend::new());
    let kv = behind(&store, only("lease_keep_alive", Action::Delay(secs(9))));
    let session = session_on(kv).await;
    let (reason, after) = timed(session.lost()).await;
    assert_eq!(reason, LossReason::DeadlineUnconfirmed);
    assert!(after <= secs(9), "took {after:?}");
    sleep(secs(30)).await;
    assert_eq!(session.state(), SessionState::Lost(LossReason::DeadlineUnconfirmed));
}

#[tokio::test(start_paused = true)]
async fn session_is_suspect_until_a_keep_alive_succeeds() {
    let store = Client::new(MemBackend::new());
    let session =
        session_on(behind(&store, nth("lease_keep_alive", 2, 4, Action::DropRequest))).await;
    let mut states = session.subscribe();
    states.changed().await.unwrap();
    assert_eq!(*states.borrow_and_update(), SessionState::Suspect);
    states.changed().await.unwrap();
    assert_eq!(*states.borrow_and_update(), SessionState::Alive);
    sleep(secs(60)).await;
    assert_eq!(session.state(), SessionState::Alive);
}

#[tokio::test(start_paused = true)]
async fn next_keep_alive_detects_a_revoked_lease() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    store.lease_revoke(session.lease_id()).await.unwrap();
    let (reason, after) = timed(session.lost()).await;
    assert_eq!(reason, LossReason::Revoked);
    assert!(after <= secs(4), "took {after:?}");
}

#[tokio::test(start_paused = true)]
async fn session_expires_when_the_clock_jumps_past_its_ttl() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    advance(secs(60)).await;
    assert_eq!(session.lost().await, LossReason::Expired);
}

/// A clean-up whose request got lost without a word was never sent again: the key stayed in its
/// line, and everybody behind it waited, for as long as the session was kept alive.
#[tokio::test(start_paused = true)]
async fn unanswered_cleanup_request_is_repeated() {
    let store = Client::new(MemBackend::new());
    let kv = behind(&store, nth("txn", 2, 2, Action::Hang));
    let session = session_on(kv).await;
    let mutex = Mutex::new(&session, "m");
    drop(mutex.lock().await.unwrap());
    settle().await;
    let waiter = timeout(secs(5), mutex.lock()).await;
    let _guard = waiter.expect("the lock is free again").unwrap();
}

/// A session whose runtime was shut down around its keeper said for ever that it was alive.
#[test]
fn supervised_session_is_lost_when_its_runtime_shuts_down() {
    let runtime = || Builder::new_current_thread().enable_time().build().unwrap();
    let first = runtime();
    let (session, supervisor) = first.block_on(async {
        let kv = Client::new(MemBackend::new());
        (session_on(kv.clone()).await, Session::builder(&kv).supervise().await.unwrap())
    });
    drop(first);
    assert_eq!(session.state(), SessionState::Lost(LossReason::Expired));
    assert_eq!(supervisor.session().state(), SessionState::Lost(LossReason::Expired));
    let again = runtime();
    assert_eq!(again.block_on(session.lost()), LossReason::Expired);
    let ready = again.block_on(supervisor.ready());
    assert_eq!(ready.unwrap_err().loss(), Some(LossReason::Expired));
}

#[tokio::test(start_paused = true)]
async fn close_revokes_the_lease_and_is_idempotent() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    store.put_with(Put::new("a", "1").lease(session.lease_id())).await.unwrap();
    session.close().await.unwrap();
    assert!(store.get("a").await.unwrap().is_none());
    assert!(store.leases().await.unwrap().leases.is_empty());
    assert_eq!(session.state(), SessionState::Lost(LossReason::Closed));
    session.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn close_notifies_holders_before_their_keys_are_deleted() {
    let store = Client::new(MemBackend::new());
    let session = session_on(behind(&store, only("lease_revoke", Action::Delay(secs(1))))).await;
    store.put_with(Put::new("a", "1").lease(session.lease_id())).await.unwrap();
    let (closed, still_there) = tokio::join!(session.close(), async {
        assert_eq!(session.lost().await, LossReason::Closed);
        store.get("a").await.unwrap().is_some()
    });
    closed.unwrap();
    assert!(still_there, "the key went before the holder was told");
}

/// Tokio's watch channel, by which they once were told, draws the order by lot, so that no run of a
/// test was like another.
#[tokio::test(start_paused = true)]
async fn waiters_for_the_loss_are_woken_in_order() {
    let session = session(&Client::new(MemBackend::new())).await;
    let told = Arc::new(StdMutex::new(Vec::new()));
    let mut waiting = JoinSet::new();
    for n in 0..20 {
        let (session, told) = (session.clone(), Arc::clone(&told));
        waiting.spawn(async move {
            session.lost().await;
            told.lock().unwrap().push(n);
        });
    }
    settle().await;
    session.close().await.unwrap();
    waiting.join_all().await;
    assert_eq!(*told.lock().unwrap(), (0..20).collect::<Vec<_>>());
}

#[test]
fn session_is_lost_when_its_runtime_shuts_down() {
    let runtime =
        || Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (theirs, ours) = (runtime(), runtime());
    let session = theirs.block_on(session(&Client::new(MemBackend::new())));
    let mut waiting = JoinSet::new();
    ours.block_on(async {
        let waits = session.clone();
        waiting.spawn(async move { waits.lost().await });
        yield_now().await;
    });
    drop(theirs);
    ours.block_on(async {
        let told = timeout(secs(60), waiting.join_next()).await.expect("is told");
        assert_eq!(told.unwrap().unwrap(), LossReason::Expired);
        assert_eq!(session.lost().await, LossReason::Expired, "asked later, the same");
    });
}

#[tokio::test(start_paused = true)]
async fn close_times_out_when_the_store_does_not_respond() {
    let store = Client::new(MemBackend::new());
    let session = session_on(behind(&store, only("lease_revoke", Action::Hang))).await;
    let (closed, after) = timed(session.close()).await;
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(after <= secs(10), "took {after:?}");
    assert_eq!(session.state(), SessionState::Lost(LossReason::Closed));
}

#[tokio::test(start_paused = true)]
async fn close_retries_while_the_store_is_unavailable() {
    let store = Client::new(MemBackend::new());
    let session = session_on(behind(&store, nth("lease_revoke", 1, 3, Action::DropRequest))).await;
    session.close().await.unwrap();
    assert!(store.leases().await.unwrap().leases.is_empty());
}

#[tokio::test(start_paused = true)]
async fn dropped_close_still_closes_the_session() {
    let store = Client::new(MemBackend::new());
    let session = session_on(behind(&store, only("lease_revoke", Action::Yield))).await;
    assert!(coord_testkit::poll_at_most(1, session.close()).await.is_none());
    settle().await;
    assert!(store.leases().await.unwrap().leases.is_empty());
}

#[tokio::test(start_paused = true)]
async fn last_handle_dropped_revokes_the_lease() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let other = session.clone();
    drop(session);
    sleep(secs(60)).await;
    assert_eq!(other.state(), SessionState::Alive);
    drop(other);
    settle().await;
    assert!(store.leases().await.unwrap().leases.is_empty());
}

#[tokio::test(start_paused = true)]
async fn orphaned_lease_stays_alive_for_an_adopter() {
    let store = Client::new(MemBackend::new());
    let first = session(&store).await;
    store.put_with(Put::new("a", "1").lease(first.lease_id())).await.unwrap();
    sleep(secs(2)).await;
    let lease = first.orphan().await.unwrap();
    assert_eq!(first.state(), SessionState::Lost(LossReason::Orphaned));
    let status = store.lease_time_to_live(LeaseTimeToLive::new(lease)).await.unwrap().lease;
    assert_eq!(status.unwrap().remaining, secs(10), "an heir has the whole time");

    sleep(secs(9)).await;
    let heir = Session::builder(&another(&store)).lease(lease).open().await.unwrap();
    assert_eq!((heir.lease_id(), heir.ttl()), (lease, secs(10)));
    sleep(secs(100)).await;
    assert!(store.get("a").await.unwrap().is_some());
    assert_eq!(first.orphan().await.unwrap_err().kind(), ErrorKind::LeaseNotFound);
}

#[tokio::test(start_paused = true)]
async fn orphan_does_not_hand_over_dropped_guards() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let mutex = Mutex::new(&session, "m");
    drop(mutex.lock().await.unwrap());
    session.orphan().await.unwrap();
    assert!(store.get_prefix("m/").await.unwrap().is_empty());
}

/// Nobody knew whether a join would arrive yet, and the session waited for that until there was no
/// time left to refresh the lease in.
#[tokio::test(start_paused = true)]
async fn adopter_has_the_whole_ttl_after_an_ambiguous_enqueue() {
    let store = Client::new(MemBackend::new());
    let kv = behind(&store, |call: &Call| match call {
        Call::Txn(_) => Action::DropRequest,
        Call::LeaseKeepAlive(_) => Action::Delay(Duration::from_millis(10)),
        _ => Action::Pass,
    });
    let session = session_on(kv).await;
    assert!(Mutex::new(&session, "m").lock().await.is_err());
    let (lease, after) = timed(session.orphan()).await;
    let lease = lease.expect("the store is there");
    assert!(after < secs(9), "took {after:?}");
    let status = store.lease_time_to_live(LeaseTimeToLive::new(lease)).await.unwrap().lease;
    assert_eq!(status.unwrap().remaining, secs(10));
}

/// It revoked the lease, and whoever led on it in the next process was deposed.
#[tokio::test(start_paused = true)]
async fn close_after_orphan_does_not_revoke_the_lease() {
    for at_once in [false, true] {
        let store = Client::new(MemBackend::new());
        let first = session_on(behind(&store, only("lease_keep_alive", Action::Yield))).await;
        let lease = if at_once {
            let (orphaned, closed) = tokio::join!(first.orphan(), first.close());
            closed.unwrap();
            orphaned.unwrap()
        } else {
            let lease = first.orphan().await.unwrap();
            first.close().await.unwrap();
            lease
        };
        let heir = Session::builder(&another(&store)).lease(lease).open().await.unwrap();
        first.close().await.unwrap();
        sleep(secs(60)).await;
        assert_eq!(heir.state(), SessionState::Alive);
    }
}

#[tokio::test(start_paused = true)]
async fn opened_revision_separates_adopted_keys_from_own_keys() {
    let store = Client::new(MemBackend::new());
    let lease = store.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
    store.put_with(Put::new("theirs", "").lease(lease)).await.unwrap();
    let session = Session::builder(&another(&store)).lease(lease).open().await.unwrap();
    store.put_with(Put::new("ours", "").lease(lease)).await.unwrap();
    let created = async |key| store.get(key).await.unwrap().unwrap().create_revision;
    assert!(created("theirs").await <= session.opened());
    assert!(created("ours").await > session.opened());
}

#[tokio::test(start_paused = true)]
async fn adopting_a_missing_lease_fails() {
    let store = Client::new(MemBackend::new());
    let lease = store.lease_grant(LeaseGrant::new(secs(5))).await.unwrap().id;
    store.lease_revoke(lease).await.unwrap();
    let opened = Session::builder(&Client::new(store)).lease(lease).open().await;
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::LeaseNotFound);
}

#[tokio::test(start_paused = true)]
async fn invalid_ttl_is_refused_without_a_request() {
    let record = Recorder::new();
    let kv = behind(&Client::new(MemBackend::new()), record.clone());
    let zero = Duration::ZERO;
    for (ttl, kind) in [
        (zero, ErrorKind::InvalidTtl),
        (Duration::from_millis(1500), ErrorKind::InvalidTtl),
        (secs(9_000_000_001), ErrorKind::TtlTooLarge),
    ] {
        let opened = Session::builder(&kv).ttl(ttl).open().await;
        assert_eq!(opened.unwrap_err().kind(), kind, "{ttl:?}");
    }
    assert_eq!(record.take().names(), "");
}

#[tokio::test(start_paused = true)]
async fn open_retries_until_its_connect_timeout() {
    let store = Client::new(MemBackend::new());
    session_on(behind(&store, nth("lease_grant", 1, 3, Action::DropRequest))).await;

    let silent = behind(&store, only("lease_grant", Action::Hang));
    let builder = Session::builder(&silent).connect_timeout(secs(3));
    let (opened, after) = timed(builder.open()).await;
    assert!(matches!(opened, Err(Error::Timeout { after }) if after == secs(3)), "{opened:?}");
    assert_eq!(after, secs(3));

    let down = behind(&store, only("lease_grant", Action::DropRequest));
    let opened = Session::builder(&down).connect_timeout(secs(3)).open().await;
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Unavailable, "the reason, not the timeout");
}

#[tokio::test(start_paused = true)]
async fn session_cost_is_open_keep_alives_and_close() {
    let record = Recorder::new();
    let session = session_on(behind(&Client::new(MemBackend::new()), record.clone())).await;
    assert_eq!(record.take().names(), "lease_grant");
    sleep(secs(100)).await;
    let calls = record.take();
    assert!(calls.0.iter().all(is_keep_alive), "{calls}");
    assert!((29..=31).contains(&calls.0.len()), "{} keep-alives in 100 s", calls.0.len());
    session.close().await.unwrap();
    assert_eq!(record.take().names(), "lease_revoke");
}
