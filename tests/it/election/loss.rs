//! Losing the leadership, or the candidacy.

use coord_mem::MemBackend;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coord_core::{
    Client, Election, Error, KvBackend,
    error::{ErrorKind, LossReason, Outcome, PrimitiveError},
    kv::{Compact, Put, Txn},
};
use coord_testkit::{Action, Call, Recorder, Rule as _};
use tokio::time::{Instant, sleep, timeout};

use super::{election, leader, some};
use crate::breaking::{Breaking, Life};
use crate::support::{
    Silent, behind, is_keep_alive, keys, nth, only, secs, session, session_on, settle, timed,
};

/// The leader's keep-alives stop; nobody must be elected before it was told.
#[tokio::test(start_paused = true)]
async fn leader_loses_leadership_before_next_is_elected() {
    for rate in [1.0, 1.05] {
        let store = Client::new(MemBackend::builder().lease_clock_rate(rate).build());
        let cut_off = session_on(behind(&store, only("lease_keep_alive", Action::Hang))).await;
        let old = Election::new(&cut_off, "e").campaign("old").await.unwrap();
        let next = election(&store).await;
        let ((reason, told), elected) =
            tokio::join!(async { (old.lost().await, Instant::now()) }, async {
                drop(next.campaign("next").await.unwrap());
                Instant::now()
            });
        assert_eq!(reason, LossReason::DeadlineUnconfirmed);
        assert!(told < elected, "rate {rate}: told {:?} too late", told - elected);
    }
}

#[tokio::test(start_paused = true)]
async fn leader_is_notified_when_its_key_is_deleted() {
    let store = Client::new(MemBackend::new());
    let leadership = election(&store).await.campaign("a").await.unwrap();
    let (reason, ()) = tokio::join!(leadership.lost(), async {
        settle().await;
        store.delete(leadership.key()).await.unwrap();
    });
    assert_eq!(reason, LossReason::KeyDeleted);
    assert_eq!(leadership.lost().await, LossReason::KeyDeleted, "asked later, the same");
    assert_eq!(leadership.proclaim("b").await.unwrap_err().loss(), Some(LossReason::KeyDeleted));
    let error = leadership.resign().await.unwrap_err();
    assert_eq!(error.cause.loss(), Some(LossReason::KeyDeleted));
    assert_eq!(keys(&store, "e/").await, [""; 0], "and nothing was put");
}

/// What Go calls `ErrElectionNotLeader`; its next `Proclaim` or `Resign` then fails with "key is not
/// provided". Here every later call says the same.
#[tokio::test(start_paused = true)]
async fn lost_leader_fails_every_call_and_changes_nothing() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let leadership = Election::new(&session, "e").campaign("a").await.unwrap();
    store.lease_revoke(session.lease_id()).await.unwrap();
    for _ in 0..2 {
        let lost = leadership.proclaim("b").await.unwrap_err();
        assert_eq!((lost.loss(), lost.outcome()), (Some(LossReason::Revoked), Outcome::NotApplied));
        let write = Txn::new().and_then([Put::new("written", "")]);
        assert_eq!(leadership.txn(write).await.unwrap_err().loss(), Some(LossReason::Revoked));
        assert_eq!(leadership.lost().await, LossReason::Revoked);
    }
    assert!(store.get("written").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn run_while_held_drops_work_when_leadership_is_lost() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let steps = AtomicUsize::new(0);
    let work = async {
        loop {
            sleep(secs(1)).await;
            steps.fetch_add(1, Ordering::Relaxed);
        }
    };
    let leadership = Election::new(&session, "e").campaign("a").await.unwrap();
    let (result, _): (Result<(), _>, _) = tokio::join!(leadership.run_while_held(work), async {
        sleep(secs(5) + secs(1) / 2).await;
        store.delete(leadership.key()).await
    });
    assert_eq!(result, Err(LossReason::KeyDeleted));
    sleep(secs(5)).await;
    assert_eq!(steps.into_inner(), 5);
}

/// etcd issues 11457 and 10811, for leaders.
#[tokio::test(start_paused = true)]
async fn late_write_of_former_leader_is_refused() {
    let store = Client::new(MemBackend::new());
    let cut_off = session_on(behind(&store, only("lease_keep_alive", Action::Hang))).await;
    let old = Election::new(&cut_off, "e").campaign("old").await.unwrap();
    let new = election(&store).await.campaign("new").await.unwrap();
    new.txn(Txn::new().and_then([Put::new("a", "new")])).await.unwrap();
    let late = old.txn(Txn::new().and_then([Put::new("a", "old")])).await.unwrap_err();
    assert_eq!(late.loss(), Some(LossReason::DeadlineUnconfirmed));
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "new");
    assert!(new.fencing_token() > old.fencing_token());
    assert!(old.proclaim("still me").await.is_err());
    assert_eq!(leader(&store).await, some("new"));
}

/// etcd issue 11007: Go's `Campaign` waits on, and then returns no error and no key.
#[tokio::test(start_paused = true)]
async fn lost_candidate_fails_at_once_and_never_leads() {
    for reason in [LossReason::Closed, LossReason::Revoked, LossReason::KeyDeleted] {
        let store = Client::new(MemBackend::new());
        let first = election(&store).await.campaign("first").await.unwrap();
        let session = session(&store).await;
        let candidate = Election::new(&session, "e").enter("doomed").await.unwrap();
        let (key, proclaimer) = (candidate.key().clone(), candidate.proclaimer());
        let (result, ()) = tokio::join!(timed(candidate.elected()), async {
            sleep(secs(1)).await;
            match reason {
                LossReason::Closed => session.close().await.unwrap(),
                LossReason::Revoked => {
                    store.lease_revoke(session.lease_id()).await.unwrap();
                }
                _ => {
                    store.delete(&key).await.unwrap();
                }
            }
        });
        assert_eq!(result.0.unwrap_err().loss(), Some(reason));
        assert_eq!(result.1, secs(1), "{reason:?}");
        assert_eq!(proclaimer.proclaim("x").await.unwrap_err().loss(), Some(reason));
        first.resign().await.unwrap();
        assert_eq!(leader(&store).await, None);
    }
}

/// The same, but the candidate's watch says nothing: it is told when it looks.
#[tokio::test(start_paused = true)]
async fn candidate_with_recreated_key_never_leads() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let silent = session_on(behind(&store, Silent(Recorder::new()))).await;
    let candidate = Election::new(&silent, "e").enter("replaced").await.unwrap();
    let key = candidate.key().clone();
    let (result, ()) = tokio::join!(timeout(secs(30), candidate.elected()), async {
        settle().await;
        store.delete(&key).await.unwrap();
        store.put(&key, "another").await.unwrap();
        first.resign().await.unwrap();
    });
    let error = result.expect("it looks once each time to live").unwrap_err();
    assert_eq!(error.loss(), Some(LossReason::KeyDeleted));
    assert_eq!(leader(&store).await, some("another"));
}

#[tokio::test(start_paused = true)]
async fn candidate_reports_its_loss_without_elected_call() {
    let store = Client::new(MemBackend::new());
    let _first = election(&store).await.campaign("first").await.unwrap();
    let candidate = election(&store).await.enter("second").await.unwrap();
    let (reason, ()) = tokio::join!(candidate.lost(), async {
        settle().await;
        store.delete(candidate.key()).await.unwrap();
    });
    assert_eq!(reason, LossReason::KeyDeleted);
    let late = candidate.withdraw().await.unwrap_err();
    assert_eq!(late.loss(), Some(LossReason::KeyDeleted));
}

/// etcd issues 14641 and 8980: the member that serves the watch is paused or cut off, and says
/// nothing. The candidate looks once each time to live; with a session of 10 s it leads at most
/// that much late.
#[tokio::test(start_paused = true)]
async fn candidate_with_silent_watch_is_elected_within_ttl() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let silent = session_on(behind(&store, Silent(record.clone()))).await;
    let candidate = Election::new(&silent, "e").enter("second").await.unwrap();
    record.take();
    let ((elected, after), ()) = tokio::join!(timed(candidate.elected()), async {
        sleep(secs(35)).await;
        let looks = record.take();
        assert_eq!(looks.count("range"), 3, "one each 10 s: {looks}");
        assert_eq!(looks.count("txn"), 0);
        first.resign().await.unwrap();
    });
    drop(elected.unwrap());
    assert!(after <= secs(41), "{after:?}");
}

/// The same for a leader whose key somebody deletes: its watch says nothing, so it has to look.
#[tokio::test(start_paused = true)]
async fn leader_with_silent_watch_learns_of_loss_within_ttl() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let silent = session_on(behind(&store, Silent(record.clone()))).await;
    let leadership = Election::new(&silent, "e").campaign("a").await.unwrap();
    record.take();
    let ((reason, after), ()) = tokio::join!(timed(leadership.lost()), async {
        sleep(secs(35)).await;
        let looks = record.take();
        assert_eq!(looks.count("range"), 3, "one each 10 s: {looks}");
        store.delete(leadership.key()).await.unwrap();
    });
    assert_eq!(reason, LossReason::KeyDeleted);
    assert!(after <= secs(41), "{after:?}");
}

/// A session of 10 s on `backend`, whose watches each live as long as the next of `lives`, and then
/// for ever.
async fn session_with_watches(backend: impl KvBackend, lives: Vec<Life>) -> coord_core::Session {
    let lives = Mutex::new(lives.into_iter());
    let next =
        move || lives.lock().expect("nobody panics").next().unwrap_or((Duration::MAX / 4, None));
    session_on(Client::new(Breaking { inner: backend, lives: next, lag: 0.into() })).await
}

#[tokio::test(start_paused = true)]
async fn candidate_with_broken_watch_is_elected_at_once() {
    let compacted = Error::Compacted { requested: None, compact_revision: None };
    let gone =
        Error::Unavailable { outcome: Outcome::NotApplied, reason: String::new(), source: None };
    for error in [None, Some(compacted), Some(gone)] {
        for break_own in [false, true] {
            let store = Client::new(MemBackend::new());
            let first = election(&store).await.campaign("first").await.unwrap();
            let (brief, long) = ((secs(1), error.clone()), (secs(1000), None));
            // Theirs is registered first, then its own.
            let lives = if break_own { vec![long, brief] } else { vec![brief, long] };
            let session = session_with_watches(store.clone(), lives).await;
            let candidate = Election::new(&session, "e").enter("second").await.unwrap();
            let (leadership, left) = tokio::join!(
                async { (candidate.elected().await.unwrap(), Instant::now()) },
                async {
                    sleep(secs(3)).await;
                    let revision = store.put("other", "").await.unwrap().header.revision;
                    store.compact(Compact::new(revision)).await.unwrap();
                    first.resign().await.unwrap();
                    Instant::now()
                }
            );
            assert_eq!(leadership.1, left, "at once, by a new watch");
        }
    }
}

/// A watch that ended is asked for again, and that is all.
#[tokio::test(start_paused = true)]
async fn broken_watches_are_registered_again_once() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let _first = election(&store).await.campaign("first").await.unwrap();
    let lives = vec![(secs(1), None); 2];
    let session = session_with_watches(behind(&store, record.clone()), lives).await;
    let candidate = Election::new(&session, "e").enter("second").await.unwrap();
    record.take();
    assert!(timeout(secs(9), candidate.elected()).await.is_err());
    let calls = record.take();
    // Each of the two twice, and a look for each that broke.
    assert_eq!(calls.count("watch"), 4, "{calls}");
    assert!(calls.count("txn") <= 3, "{calls}");
}

/// What happens between a watch that breaks and the next is seen by the look after it.
#[tokio::test(start_paused = true)]
async fn candidate_is_elected_if_leader_resigns_between_watches() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let session = session_with_watches(store.clone(), vec![(secs(1), None), (secs(1), None)]).await;
    let candidate = Election::new(&session, "e").enter("second").await.unwrap();
    let ((elected, after), ()) = tokio::join!(timed(candidate.elected()), async {
        sleep(secs(1) + Duration::from_millis(10)).await;
        first.resign().await.unwrap();
    });
    drop(elected.unwrap());
    assert!(after < secs(2), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn candidate_continues_while_store_is_unavailable() {
    for kind in ["range", "txn", "watch"] {
        let store = Client::new(MemBackend::new());
        let first = election(&store).await.campaign("first").await.unwrap();
        // The first transaction is the one that enters.
        let shaky = session_on(behind(&store, nth(kind, 2, 7, Action::DropResponse))).await;
        let candidate = Election::new(&shaky, "e").enter("second").await.unwrap();
        let (leadership, ()) = tokio::join!(candidate.elected(), async {
            sleep(secs(5)).await;
            first.resign().await.unwrap();
        });
        drop(leadership.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn partitioned_candidate_fails_when_its_session_is_lost() {
    let store = Client::new(MemBackend::new());
    let _first = election(&store).await.campaign("first").await.unwrap();
    let down = |call: &Call| match call {
        Call::Range(_) | Call::Watch(_) => Action::Hang,
        call if is_keep_alive(call) => Action::Hang,
        _ => Action::Pass,
    };
    let cut_off = session_on(behind(&store, down)).await;
    let (result, after) = timed(Election::new(&cut_off, "e").campaign("second")).await;
    assert_eq!(result.unwrap_err().loss(), Some(LossReason::DeadlineUnconfirmed));
    assert_eq!(after, secs(9));
}

#[tokio::test(start_paused = true)]
async fn candidate_fails_when_its_read_is_refused() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let denied = Error::PermissionDenied { reason: "no reading here".to_owned() };
    let session = session_on(behind(&store, only("range", Action::Fail(denied)))).await;
    let candidate = Election::new(&session, "e").enter("second").await.unwrap();
    let (result, ()) = tokio::join!(candidate.elected(), async {
        settle().await;
        first.resign().await.unwrap();
    });
    let PrimitiveError::Backend(error) = result.unwrap_err() else { panic!("not lost") };
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    settle().await;
    assert_eq!(keys(&store, "e/").await, [""; 0], "and nobody is left in the line");
}

/// The fault: a watch that was registered and then refused was registered again, twenty times a
/// second for ever.
#[tokio::test(start_paused = true)]
async fn candidate_fails_when_its_watch_is_refused() {
    let store = Client::new(MemBackend::new());
    let _first = election(&store).await.campaign("first").await.unwrap();
    let denied = Error::PermissionDenied { reason: "no watching here".to_owned() };
    let session = session_with_watches(store.clone(), vec![(secs(1), Some(denied)); 2]).await;
    let result = timeout(secs(60), Election::new(&session, "e").campaign("second")).await;
    let PrimitiveError::Backend(error) = result.unwrap().unwrap_err() else { panic!("not lost") };
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    settle().await;
    assert_eq!(keys(&store, "e/").await.len(), 1, "and nobody is left in the line");
}

/// A leader that may not watch its own key looks now and then, and does not storm the store.
#[tokio::test(start_paused = true)]
async fn leader_with_refused_watch_learns_of_loss_by_reading() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let recorded = record.clone();
    let denied = Error::PermissionDenied { reason: "no watching here".to_owned() };
    let rule = move |call: &Call| {
        recorded.action(call);
        if matches!(call, Call::Watch(_)) { Action::Fail(denied.clone()) } else { Action::Pass }
    };
    let session = session_on(behind(&store, rule)).await;
    let leadership = Election::new(&session, "e").campaign("a").await.unwrap();
    record.take();
    let (reason, ()) = tokio::join!(timeout(secs(120), leadership.lost()), async {
        sleep(secs(100)).await;
        let asked = record.take().count("range");
        assert!((10..=20).contains(&asked), "{asked} looks in 100 s");
        store.delete(leadership.key()).await.unwrap();
    });
    assert_eq!(reason.unwrap(), LossReason::KeyDeleted);
}

#[tokio::test(start_paused = true)]
async fn campaign_fails_on_session_with_revoked_lease() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let election = Election::new(&session, "e");
    store.lease_revoke(session.lease_id()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(election.campaign("a").await.unwrap_err().loss(), Some(LossReason::Revoked));
        assert_eq!(election.resume().await.unwrap_err().loss(), Some(LossReason::Revoked));
    }
    assert_eq!(leader(&store).await, None, "reading needs no session");
    assert_eq!(election.leader().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn leader_is_notified_of_loss_after_compaction() {
    let store = Client::new(MemBackend::new());
    let leadership = election(&store).await.campaign("a").await.unwrap();
    store.put("other", "1").await.unwrap();
    let revision = store.put("other", "2").await.unwrap().header.revision;
    store.compact(Compact::new(revision)).await.unwrap();
    assert!(timeout(secs(60), leadership.lost()).await.is_err(), "nothing was lost yet");
    let (reason, ()) = tokio::join!(leadership.lost(), async {
        settle().await;
        store.delete(leadership.key()).await.unwrap();
    });
    assert_eq!(reason, LossReason::KeyDeleted);
}
