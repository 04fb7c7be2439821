//! The faults of Go's package: what it did, shown on a copy of it, and that coord does not.
//!
//! `docs/go.md` lists all of them, and for each the test that would fail if we had it. Here are
//! those that no other file has; those of transactions are in a file of their own.

#[path = "../go/old.rs"]
mod old;
mod stm;

use crate::support::another;
use coord_mem::MemBackend;

use coord_core::{
    Client, Election, Mutex, Session,
    error::{ErrorKind, LossReason, Outcome},
    kv::{Compact, LeaseGrant, Put, Txn, WatchBatch},
};
use coord_testkit::{Action, Call, Recorder, Rule};
use old::{Answer, Contender};
use tokio::time::{sleep, timeout};

use crate::support::{behind, keys, nth, only, secs, session, session_on, settle, timed};

/// A contender of Go's package on `kv`, with a lease that nothing ends by itself.
async fn go_contender_on(kv: Client, name: &str) -> Contender {
    let grant = kv.lease_grant(LeaseGrant::new(secs(100_000)));
    let lease = grant.await.unwrap().id;
    Contender::new(kv, lease, name)
}

async fn go_contender(store: &Client, name: &str) -> Contender {
    go_contender_on(another(store), name).await
}

/// Issues 11456, 9921 and 10111: `Lock` reported success to a waiter whose lease had ended, for it
/// only saw that nobody was before it.
#[tokio::test(start_paused = true)]
async fn lock_fails_when_its_lease_was_revoked() {
    let store = Client::new(MemBackend::new());
    let held = Mutex::new(&session(&store).await, "old").lock().await.unwrap();
    let mut go = go_contender(&store, "old").await;
    let lease = go.lease;
    let (answer, unlocked) = tokio::join!(go.lock_of_3_4(), async {
        settle().await;
        store.lease_revoke(lease).await.unwrap();
        held.unlock().await
    });
    unlocked.unwrap();
    assert!(matches!(answer, Ok(Answer::Held)), "and has no key: {answer:?}");
    assert_eq!(keys(&store, "old/").await, [""; 0]);

    let held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let coord = session(&store).await;
    let mutex = Mutex::new(&coord, "m");
    let (answer, ()) = tokio::join!(mutex.lock(), async {
        settle().await;
        // Both before the waiter gets to run: it wakes up to a line that is empty.
        store.lease_revoke(coord.lease_id()).await.unwrap();
        store.delete(held.key()).await.unwrap();
    });
    assert_eq!(answer.unwrap_err().loss(), Some(LossReason::Revoked));
}

/// Issues 19597 and 12334: a waiter whose session has ended waits until everybody before it has
/// gone, which may be never.
#[tokio::test(start_paused = true)]
async fn waiter_fails_when_its_session_is_lost() {
    let store = Client::new(MemBackend::new());
    let _held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let mut go = go_contender(&store, "m").await;
    let lease = go.lease;
    let (waited, ()) = tokio::join!(timeout(secs(50_000), go.lock()), async {
        settle().await;
        store.lease_revoke(lease).await.unwrap();
    });
    assert!(waited.is_err(), "half a day later it waits");

    let coord = session(&store).await;
    let mutex = Mutex::new(&coord, "m");
    let (waited, ()) = tokio::join!(timed(mutex.lock()), async {
        sleep(secs(1)).await;
        store.lease_revoke(coord.lease_id()).await.unwrap();
    });
    assert_eq!(waited.0.unwrap_err().loss(), Some(LossReason::Revoked));
    assert_eq!(waited.1, secs(1));
}

/// Issues 11007 and 11777, and the outages of helm/charts 326 and mailgun/holster 38: a candidate
/// whose key goes while it waits waits on, and then leads, with no key and unseen by all others.
#[tokio::test(start_paused = true)]
async fn candidate_without_a_key_is_never_elected() {
    let store = Client::new(MemBackend::new());
    let observer = Election::observer(&another(&store), "e");
    let leads = Election::new(&session(&store).await, "e").campaign("first").await.unwrap();
    let mut go = go_contender(&store, "e").await;
    let key = go.key.clone();
    let (elected, leads) = tokio::join!(go.campaign("phantom"), async {
        settle().await;
        store.delete(key.clone()).await.unwrap();
        settle().await;
        leads.resign().await
    });
    leads.unwrap();
    assert!(elected.is_ok(), "it believes to lead: {elected:?}");
    assert_eq!(observer.leader().await.unwrap(), None, "and nobody does");

    let leads = Election::new(&session(&store).await, "e").campaign("first").await.unwrap();
    let election = Election::new(&session(&store).await, "e");
    let (elected, ()) = tokio::join!(timed(election.campaign("second")), async {
        settle().await;
        let line = keys(&store, "e/").await;
        let second = line.iter().find(|key| key.as_bytes() != leads.key()).unwrap();
        store.delete(second).await.unwrap();
    });
    assert_eq!(elected.0.unwrap_err().loss(), Some(LossReason::KeyDeleted));
    assert!(elected.1 < secs(1), "while the first still leads: {:?}", elected.1);
}

/// Issues 11360, 10756 and 7547: two mutexes of one session share a key, so the second has the
/// lock at once, and either takes it from the other.
#[tokio::test(start_paused = true)]
async fn locks_of_one_session_do_not_share_a_key() {
    let store = Client::new(MemBackend::new());
    let lease = store.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
    let [mut one, mut two] = [(), ()].map(|()| Contender::new(another(&store), lease, "old"));
    assert!(matches!(one.lock().await, Ok(Answer::Held)));
    assert!(matches!(two.lock().await, Ok(Answer::Held)), "both at once");
    two.unlock().await.unwrap();
    assert_eq!(keys(&store, "old/").await, [""; 0], "and the first has lost it");

    let session = session(&store).await;
    let one = Mutex::new(&session, "m").lock().await.unwrap();
    let two = Mutex::new(&session, "m");
    assert!(timeout(secs(60), two.lock()).await.is_err());
    one.txn(Txn::new().and_then([Put::new("a", "held")])).await.unwrap();
}

/// The same issues: a `TryLock` that fails deletes the key of a sibling that waits.
#[tokio::test(start_paused = true)]
async fn failed_try_lock_spares_a_waiter_of_the_same_session() {
    let store = Client::new(MemBackend::new());
    let held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let mut waiting = go_contender(&store, "m").await;
    let mut trying = Contender::new(another(&store), waiting.lease, "m");
    let (waited, tried) = tokio::join!(timeout(secs(1), waiting.lock()), async {
        settle().await;
        trying.try_lock().await
    });
    assert!(waited.is_err() && matches!(tried, Ok(Answer::Locked)));
    assert_eq!(keys(&store, "m/").await.len(), 1, "the waiter is out of the line");

    let session = session(&store).await;
    let (waiting, trying) = (Mutex::new(&session, "m"), Mutex::new(&session, "m"));
    let (waited, ()) = tokio::join!(waiting.lock(), async {
        settle().await;
        assert!(trying.try_lock().await.unwrap().is_none());
        held.unlock().await.unwrap();
    });
    drop(waited.unwrap());
}

/// Issue 22082: whoever lost the lock unlocks, and deletes the key of a sibling that has had it
/// since, for the two keys have one name.
#[tokio::test(start_paused = true)]
async fn unlock_of_a_lost_lock_spares_the_new_holder() {
    let store = Client::new(MemBackend::new());
    let lease = store.lease_grant(LeaseGrant::new(secs(60))).await.unwrap().id;
    let [mut former, mut holder] = [(), ()].map(|()| Contender::new(another(&store), lease, "old"));
    former.lock().await.unwrap();
    store.delete(&keys(&store, "old/").await[0]).await.unwrap();
    holder.lock().await.unwrap();
    former.unlock().await.unwrap();
    assert_eq!(keys(&store, "old/").await, [""; 0], "the holder has lost it");

    let session = session(&store).await;
    let mutex = Mutex::new(&session, "m");
    let former = mutex.lock().await.unwrap();
    store.delete(former.key()).await.unwrap();
    let holder = mutex.lock().await.unwrap();
    assert_eq!(former.unlock().await.unwrap_err().loss(), Some(LossReason::KeyDeleted));
    holder.txn(Txn::new().and_then([Put::new("a", "held")])).await.unwrap();
}

/// Issue 22123: a `Resign` that fails forgets what it resigns from. The next one says that all is
/// well, and the key stays.
#[tokio::test(start_paused = true)]
async fn failed_resign_can_be_repeated() {
    let store = Client::new(MemBackend::new());
    let mut go = go_contender_on(behind(&store, nth("txn", 2, 2, Action::DropRequest)), "old").await;
    go.campaign("a").await.unwrap();
    assert!(go.resign().await.is_err());
    assert!(go.resign().await.is_ok(), "it says so");
    assert_eq!(keys(&store, "old/").await.len(), 1, "but leads on");

    let session = session_on(behind(&store, nth("txn", 2, 2, Action::DropRequest))).await;
    let leads = Election::new(&session, "e").campaign("a").await.unwrap();
    let failed = leads.resign().await.unwrap_err();
    assert_eq!(keys(&store, "e/").await.len(), 1, "the request was lost");
    failed.held.resign().await.unwrap();
    assert_eq!(keys(&store, "e/").await, [""; 0]);
}

/// Issues 21128 and 9715: history is compacted between a look and the watch that follows. The
/// error reaches whoever campaigns, and the key stays: the line is blocked by nobody.
#[tokio::test(start_paused = true)]
async fn compaction_before_the_watch_does_not_fail_the_wait() {
    let store = Client::new(MemBackend::new());
    let compacted = async || {
        settle().await;
        for value in ["1", "2"] {
            store.put("other", value).await.unwrap();
        }
        let revision = store.put("other", "3").await.unwrap().header.revision;
        store.compact(Compact::new(revision)).await.unwrap();
        sleep(secs(2)).await;
    };
    let leads = Election::new(&session(&store).await, "e").campaign("first").await.unwrap();
    let mut go = go_contender_on(behind(&store, only("watch", Action::Delay(secs(1)))), "e").await;
    let (elected, ()) = tokio::join!(go.campaign("second"), compacted());
    assert_eq!(elected.unwrap_err().kind(), ErrorKind::Compacted);
    go.resign().await.unwrap();
    assert!(store.get(go.key.clone()).await.unwrap().is_some(), "and it says that it resigned");
    store.delete(go.key.clone()).await.unwrap();

    let session = session_on(behind(&store, only("watch", Action::Delay(secs(1))))).await;
    let election = Election::new(&session, "e");
    let (elected, ()) = tokio::join!(election.campaign("second"), async {
        compacted().await;
        leads.resign().await.unwrap();
    });
    elected.unwrap().resign().await.unwrap();
    assert_eq!(keys(&store, "e/").await, [""; 0]);
}

/// Found when this was written: if the answer to the first request of `Lock` or `Campaign` is
/// lost, they fail, and the key that it created keeps everybody else out.
#[tokio::test(start_paused = true)]
async fn enqueue_with_a_lost_response_leaves_no_key() {
    let store = Client::new(MemBackend::new());
    let mut go = go_contender_on(behind(&store, nth("txn", 1, 1, Action::DropResponse)), "m").await;
    assert!(go.lock().await.is_err());
    let mutex = Mutex::new(&session(&store).await, "m");
    assert!(timeout(secs(50_000), mutex.lock()).await.is_err(), "held by nobody, for ever");
    store.delete(go.key.clone()).await.unwrap();

    let session = session_on(behind(&store, nth("txn", 1, 1, Action::DropResponse))).await;
    assert!(Mutex::new(&session, "m").lock().await.is_err());
    let guard = timeout(secs(1), mutex.lock()).await.expect("nobody holds it").unwrap();
    guard.unlock().await.unwrap();
}

/// Issues 10493, 11104 and 13076: `TryLock` joins the line and leaves it again, which everybody
/// who watches is told, and which leaves a key if the second request fails.
#[tokio::test(start_paused = true)]
async fn failed_try_lock_does_not_write() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let before = held.header().revision;
    let mut go = go_contender_on(behind(&store, record.clone()), "m").await;
    record.take();
    assert!(matches!(go.try_lock().await, Ok(Answer::Locked)));
    assert_eq!(record.take().names(), "txn delete");
    let written = store.put("x", "").await.unwrap().header.revision;
    assert_eq!(written.0 - before.0, 3, "two writes before this one");

    let session = session_on(behind(&store, record.clone())).await;
    record.take();
    assert!(Mutex::new(&session, "m").try_lock().await.unwrap().is_none());
    assert_eq!(record.take().names(), "txn");
    let revision = store.put("x", "").await.unwrap().header.revision;
    assert_eq!(revision, written.next(), "nothing was written");
}

/// Issue 6278 and etcd-io/website 710: a lock waits for locks whose names lie below its own.
#[tokio::test(start_paused = true)]
async fn lock_does_not_wait_for_child_names() {
    let store = Client::new(MemBackend::new());
    let _inner = Mutex::new(&session(&store).await, "p/q").lock().await.unwrap();
    let mut go = go_contender(&store, "p").await;
    assert!(timeout(secs(50_000), go.lock()).await.is_err(), "nobody holds p");
    go.unlock().await.unwrap();
    let coord = Mutex::new(&session(&store).await, "p");
    drop(timeout(secs(1), coord.lock()).await.expect("nobody holds p").unwrap());
}

/// Issue 11788: the sample of a fenced resource compares leases, which tell who came and not who
/// came later.
#[tokio::test(start_paused = true)]
async fn fencing_token_grows_when_the_lease_id_does_not() {
    let store = Client::new(MemBackend::new());
    let (old, new) = (session(&store).await, session(&store).await);
    let first = Mutex::new(&new, "m").lock().await.unwrap();
    let token = first.fencing_token();
    first.unlock().await.unwrap();
    let second = Mutex::new(&old, "m").lock().await.unwrap();
    assert!(second.session().lease_id() < new.lease_id(), "the later holder has the older lease");
    assert!(second.fencing_token() > token);
}

/// A watch that stands, and tells nothing.
struct Silent;

impl Rule for Silent {
    fn action(&self, _: &Call) -> Action {
        Action::Pass
    }

    fn delivers(&self, _: &WatchBatch) -> bool {
        false
    }
}

/// Issues 14641 and 8980: whoever waits on a member that is paused or cut off waits for ever, for
/// it is never told, and never asks.
#[tokio::test(start_paused = true)]
async fn silent_watch_delays_a_waiter_by_at_most_one_ttl() {
    let store = Client::new(MemBackend::new());
    let held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let mut go = go_contender_on(behind(&store, Silent), "m").await;
    let (waited, unlocked) = tokio::join!(timeout(secs(50_000), go.lock()), async {
        settle().await;
        held.unlock().await
    });
    unlocked.unwrap();
    assert!(waited.is_err(), "half a day later it waits");
    go.unlock().await.unwrap();

    let held = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let session: Session = session_on(behind(&store, Silent)).await;
    let mutex = Mutex::new(&session, "m");
    let (waited, unlocked) = tokio::join!(timed(mutex.lock()), async {
        // By then it has made all its requests, and has nothing but watches.
        sleep(secs(1)).await;
        held.unlock().await
    });
    unlocked.unwrap();
    drop(waited.0.unwrap());
    assert!(waited.1 <= session.ttl() + secs(2), "it looked after {:?}", waited.1);
}

/// Issues 15247 and 12528: a server that was no leader any more revoked leases, whose keep-alives
/// were answered all the same. The key tells, and at once.
#[tokio::test(start_paused = true)]
async fn holder_detects_a_loss_before_the_next_keep_alive() {
    let store = Client::new(MemBackend::new());
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let lease = guard.session().lease_id();
    let (lost, ()) = tokio::join!(timed(guard.lost()), async {
        settle().await;
        store.lease_revoke(lease).await.unwrap();
    });
    assert_eq!(lost.0, LossReason::Revoked);
    assert!(lost.1 < secs(1), "the next keep-alive is due in 3 s: told after {:?}", lost.1);

    // The lease lives and is kept alive, and only the key has gone.
    let guard = Mutex::new(&session(&store).await, "m").lock().await.unwrap();
    let (reason, deleted) = tokio::join!(guard.lost(), async {
        settle().await;
        store.delete(guard.key()).await
    });
    deleted.unwrap();
    assert_eq!(reason, LossReason::KeyDeleted);
    let late = guard.txn(Txn::new().and_then([Put::new("a", "late")])).await;
    assert_eq!(late.unwrap_err().loss(), Some(LossReason::KeyDeleted));
}

/// What an observer of `e` on `kv` shows, one after the other, until nothing is new.
async fn shown(kv: Client, meanwhile: impl Future<Output = ()>) -> Vec<String> {
    let mut leaders = Election::observer(&kv, "e").observe();
    let mut shown = Vec::new();
    let read = async {
        while let Ok(Some(item)) = timeout(secs(60), leaders.next()).await {
            let leader = item.unwrap();
            shown.push(leader.map_or_else(
                || "none".to_owned(),
                |leader| leader.value().escape_ascii().to_string(),
            ));
        }
    };
    tokio::join!(read, meanwhile);
    shown
}

/// Issues 18163 and 7815: `Observe` comes back from a broken connection with a leader that is none
/// any more, as if it were. google/trillian 1387 and helm/charts 326: it never says that nobody
/// leads. Ours shows who led, in order, none twice, and the last is who leads now.
#[tokio::test(start_paused = true)]
async fn reconnected_observer_ends_with_the_current_leader() {
    for compact in [false, true] {
        let store = Client::new(MemBackend::new());
        let (one, two) = (session(&store).await, session(&store).await);
        let (one, two) = (Election::new(&one, "e"), Election::new(&two, "e"));
        let cut_off = behind(&store, nth("watch", 1, 1, Action::Delay(secs(5))));
        let shown = shown(cut_off, async {
            settle().await;
            one.campaign("a").await.unwrap().resign().await.unwrap();
            let b = two.campaign("b").await.unwrap();
            if compact {
                store.compact(Compact::new(b.header().revision)).await.unwrap();
            }
            sleep(secs(10)).await;
            b.proclaim("b2").await.unwrap();
            sleep(secs(1)).await;
            b.resign().await.unwrap();
        });
        let shown = shown.await;
        let missed = if compact { "none b b2 none" } else { "none a none b b2 none" };
        assert_eq!(shown.join(" "), missed, "compacted: {compact}");
    }
}

/// A candidate that waits and changes its value is no leader, whoever wrote last.
#[tokio::test(start_paused = true)]
async fn observer_ignores_writes_of_waiting_candidates() {
    let store = Client::new(MemBackend::new());
    let (one, two) = (session(&store).await, session(&store).await);
    let leads = Election::new(&one, "e").campaign("a").await.unwrap();
    let waits = Election::new(&two, "e").enter("b").await.unwrap();
    let shown = shown(another(&store), async {
        settle().await;
        waits.proclaim("b2").await.unwrap();
        leads.proclaim("a2").await.unwrap();
        waits.proclaim("b3").await.unwrap();
        sleep(secs(1)).await;
        leads.resign().await.unwrap();
    });
    assert_eq!(shown.await.join(" "), "a a2 b3");
    waits.withdraw().await.unwrap();
}

/// Issues 18424 and 14890: a client that sends a write again, after an answer that was lost, may
/// apply it twice. Nothing here does: the caller is told that it may have been applied.
#[tokio::test(start_paused = true)]
async fn write_with_a_lost_response_is_not_repeated() {
    let store = Client::new(MemBackend::new());
    let session = session_on(behind(&store, nth("txn", 2, usize::MAX, Action::DropResponse))).await;
    let guard = Mutex::new(&session, "m").lock().await.unwrap();
    let error = guard.txn(Txn::new().and_then([Put::new("a", "1")])).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    sleep(secs(5)).await;
    let a = store.get("a").await.unwrap().expect("it was applied");
    assert_eq!((a.version, a.mod_revision), (1, guard.header().revision.next()), "once");

    // A join neither: it could stand in the line twice. What follows is the removal of the key.
    let before = store.put("x", "").await.unwrap().header.revision;
    assert!(Mutex::new(&session, "free").lock().await.is_err());
    sleep(secs(5)).await;
    let after = store.put("x", "").await.unwrap().header.revision;
    assert_eq!(after.0 - before.0, 3, "created and removed, before this");
}
