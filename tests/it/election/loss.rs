//! Loss of a leadership by its leader, and of its queue entry by a waiting candidate.

use std::sync::atomic::{AtomicUsize, Ordering};

use coord_core::{
    Client, Election, Error,
    error::{LossReason, Outcome},
    kv::{Compact, Put, Txn},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule as _};
use tokio::time::{Instant, sleep, timeout};

use super::{election, leader, some};
use crate::support::{SilentWatches, intercepted, keys, only, secs, session, session_on, timed};
use crate::while_waiting::{while_waiting, while_waiting_after};

/// The leader's keep-alives stop. No candidate may be elected before the leader is notified, also
/// if the store's clock is 5 % fast.
#[tokio::test(start_paused = true)]
async fn leader_loses_leadership_before_next_is_elected() {
    for rate in [1.0, 1.05] {
        let store = Client::new(MemBackend::builder().lease_clock_rate(rate).build());
        let partitioned =
            session_on(intercepted(&store, only("lease_keep_alive", Action::Hang))).await;
        let old = Election::new(&partitioned, "e").campaign("old").await.unwrap();
        let next = election(&store).await;
        let ((reason, lost_at), elected_at) =
            tokio::join!(async { (old.lost().await, Instant::now()) }, async {
                drop(next.campaign("next").await.unwrap());
                Instant::now()
            });
        assert_eq!(reason, LossReason::DeadlineUnconfirmed);
        let delay = lost_at - elected_at;
        assert!(lost_at < elected_at, "clock rate {rate}: notified {delay:?} too late");
    }
}

#[tokio::test(start_paused = true)]
async fn leader_is_notified_when_its_key_is_deleted() {
    let store = Client::new(MemBackend::new());
    let leadership = election(&store).await.campaign("a").await.unwrap();
    let (reason, deleted) = while_waiting(leadership.lost(), store.delete(leadership.key())).await;
    deleted.unwrap();
    assert_eq!(reason, LossReason::KeyDeleted);
    assert_eq!(leadership.lost().await, LossReason::KeyDeleted, "a later call returns the same");
    assert_eq!(leadership.proclaim("b").await.unwrap_err().loss(), Some(LossReason::KeyDeleted));
    let error = leadership.resign().await.unwrap_err();
    assert_eq!(error.cause.loss(), Some(LossReason::KeyDeleted));
    assert_eq!(keys(&store, "e/").await, [""; 0], "the proclamation put no key");
}

/// In Go's package, the first `Proclaim` of a lost leader fails with `ErrElectionNotLeader`, and
/// the next `Proclaim` or `Resign` with "key is not provided". Here every call fails with the same
/// loss.
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
    let work = leadership.run_while_held(work);
    let delete = store.delete(leadership.key());
    let (result, _) = while_waiting_after(secs(5) + secs(1) / 2, work, delete).await;
    let result: Result<(), LossReason> = result;
    assert_eq!(result, Err(LossReason::KeyDeleted));
    sleep(secs(5)).await;
    assert_eq!(steps.into_inner(), 5);
}

/// etcd issues 11457 and 10811: a former leader writes after the next leader was elected.
#[tokio::test(start_paused = true)]
async fn late_write_of_former_leader_is_refused() {
    let store = Client::new(MemBackend::new());
    let partitioned = session_on(intercepted(&store, only("lease_keep_alive", Action::Hang))).await;
    let old = Election::new(&partitioned, "e").campaign("old").await.unwrap();
    let new = election(&store).await.campaign("new").await.unwrap();
    new.txn(Txn::new().and_then([Put::new("a", "new")])).await.unwrap();
    let late = old.txn(Txn::new().and_then([Put::new("a", "old")])).await.unwrap_err();
    assert_eq!(late.loss(), Some(LossReason::DeadlineUnconfirmed));
    assert_eq!(store.get("a").await.unwrap().unwrap().value, "new");
    assert!(new.fencing_token() > old.fencing_token());
    assert!(old.proclaim("late").await.is_err());
    assert_eq!(leader(&store).await, some("new"));
}

/// etcd issue 11007: Go's `Campaign` continues to wait, and then returns neither an error nor a
/// key.
#[tokio::test(start_paused = true)]
async fn lost_candidate_fails_at_once_and_never_leads() {
    for reason in [LossReason::Closed, LossReason::Revoked, LossReason::KeyDeleted] {
        let store = Client::new(MemBackend::new());
        let first = election(&store).await.campaign("first").await.unwrap();
        let session = session(&store).await;
        let candidate = Election::new(&session, "e").enter("second").await.unwrap();
        let (key, proclaimer) = (candidate.key().clone(), candidate.proclaimer());
        let end = async {
            match reason {
                LossReason::Closed => session.close().await.unwrap(),
                LossReason::Revoked => {
                    store.lease_revoke(session.lease_id()).await.unwrap();
                }
                _ => {
                    store.delete(&key).await.unwrap();
                }
            }
        };
        let ((result, elapsed), ()) =
            while_waiting_after(secs(1), timed(candidate.elected()), end).await;
        assert_eq!(result.unwrap_err().loss(), Some(reason));
        assert_eq!(elapsed, secs(1), "{reason:?}");
        assert_eq!(proclaimer.proclaim("x").await.unwrap_err().loss(), Some(reason));
        first.resign().await.unwrap();
        assert_eq!(leader(&store).await, None);
    }
}

/// Another client deletes the candidate's key and creates it again. The candidate's watch is
/// silent, so it detects this when it reads its position.
#[tokio::test(start_paused = true)]
async fn candidate_with_recreated_key_never_leads() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let silent = session_on(intercepted(&store, SilentWatches(Recorder::new()))).await;
    let candidate = Election::new(&silent, "e").enter("replaced").await.unwrap();
    let key = candidate.key().clone();
    let (result, ()) = while_waiting(timeout(secs(30), candidate.elected()), async {
        store.delete(&key).await.unwrap();
        store.put(&key, "another").await.unwrap();
        first.resign().await.unwrap();
    })
    .await;
    let error = result.expect("reads its position once each TTL").unwrap_err();
    assert_eq!(error.loss(), Some(LossReason::KeyDeleted));
    assert_eq!(leader(&store).await, some("another"));
}

#[tokio::test(start_paused = true)]
async fn candidate_reports_its_loss_without_elected_call() {
    let store = Client::new(MemBackend::new());
    let _first = election(&store).await.campaign("first").await.unwrap();
    let candidate = election(&store).await.enter("second").await.unwrap();
    let (reason, deleted) = while_waiting(candidate.lost(), store.delete(candidate.key())).await;
    deleted.unwrap();
    assert_eq!(reason, LossReason::KeyDeleted);
    let late = candidate.withdraw().await.unwrap_err();
    assert_eq!(late.loss(), Some(LossReason::KeyDeleted));
}

/// The leader's watch is silent when another client deletes its key. The leader reads its key once
/// each TTL of 10 s.
#[tokio::test(start_paused = true)]
async fn leader_with_silent_watch_detects_loss_within_ttl() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let silent = session_on(intercepted(&store, SilentWatches(recorder.clone()))).await;
    let leadership = Election::new(&silent, "e").campaign("a").await.unwrap();
    recorder.take();
    let ((reason, elapsed), ()) = while_waiting_after(secs(35), timed(leadership.lost()), async {
        let calls = recorder.take();
        assert_eq!(calls.count("range"), 3, "one in each 10 s: {calls}");
        store.delete(leadership.key()).await.unwrap();
    })
    .await;
    assert_eq!(reason, LossReason::KeyDeleted);
    assert!(elapsed <= secs(41), "{elapsed:?}");
}

/// A leader that may not watch its own key reads it 10 to 20 times in 100 s, no more often.
#[tokio::test(start_paused = true)]
async fn leader_with_refused_watch_detects_loss_by_reading() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let recording = recorder.clone();
    let denied = Error::PermissionDenied { reason: "no watches".to_owned() };
    let rule = move |call: &Call| {
        recording.action(call);
        if matches!(call, Call::Watch(_)) { Action::Fail(denied.clone()) } else { Action::Pass }
    };
    let session = session_on(intercepted(&store, rule)).await;
    let leadership = Election::new(&session, "e").campaign("a").await.unwrap();
    recorder.take();
    let lost = timeout(secs(120), leadership.lost());
    let (reason, ()) = while_waiting_after(secs(100), lost, async {
        let reads = recorder.take().count("range");
        assert!((10..=20).contains(&reads), "{reads} reads in 100 s");
        store.delete(leadership.key()).await.unwrap();
    })
    .await;
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
    assert_eq!(leader(&store).await, None, "reads need no session");
    assert_eq!(election.leader().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn leader_is_notified_of_loss_after_compaction() {
    let store = Client::new(MemBackend::new());
    let leadership = election(&store).await.campaign("a").await.unwrap();
    store.put("other", "1").await.unwrap();
    let revision = store.put("other", "2").await.unwrap().header.revision;
    store.compact(Compact::new(revision)).await.unwrap();
    assert!(timeout(secs(60), leadership.lost()).await.is_err(), "leadership is not lost yet");
    let (reason, deleted) = while_waiting(leadership.lost(), store.delete(leadership.key())).await;
    deleted.unwrap();
    assert_eq!(reason, LossReason::KeyDeleted);
}
