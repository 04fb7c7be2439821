//! Taking up what a former process left on its lease.

use crate::support::another;
use coord_mem::MemBackend;

use coord_core::{
    Client, Election, Session,
    error::LossReason,
    kv::{LeaseGrant, LeaseId, Put, Txn},
};
use coord_testkit::{Action, Call};
use tokio::time::{sleep, timeout};

use super::{election, leader, shown, some};
use crate::support::{behind, join_as_go, keys, nth, secs, session, session_on, settle};

/// The session of a new process that adopts `lease`.
async fn heir(store: &Client, lease: LeaseId) -> Session {
    Session::builder(&another(store)).lease(lease).open().await.expect("it lives")
}

#[tokio::test(start_paused = true)]
async fn orphaned_leadership_resumes_in_the_next_process() {
    let store = Client::new(MemBackend::new());
    let mut leaders = election(&store).await.observe();
    assert_eq!(shown(&mut leaders).await, [None]);
    let old = election(&store).await;
    let before = old.campaign("version 1").await.unwrap();
    let next = election(&store).await.enter("rival").await.unwrap();
    let lease = old.session().orphan().await.unwrap();
    assert_eq!(before.lost().await, LossReason::Orphaned);
    let token = before.fencing_token();
    drop((before, old));
    settle().await;
    assert_eq!(leader(&store).await, some("version 1"), "what is orphaned stays");

    let new = Election::new(&heir(&store, lease).await, "e");
    let candidate = new.resume().await.unwrap().expect("left by version 1");
    assert_eq!(candidate.fencing_token(), token);
    let leadership = timeout(secs(1), candidate.elected()).await.expect("at once").unwrap();
    assert_eq!(leadership.fencing_token(), token);
    leadership.proclaim("version 2").await.unwrap();
    sleep(secs(100)).await;
    assert_eq!(leader(&store).await, some("version 2"), "the lease is kept alive");
    leadership.resign().await.unwrap();
    drop(next.elected().await.unwrap());
    let expected = [some("version 1"), some("version 2"), some("rival"), None];
    assert_eq!(shown(&mut leaders).await, expected);
}

/// Go's `TestElectionOnSessionRestart`. The old process just dies: nobody tells the store.
/// The heir leads under the same key and with the same token, so the store cannot tell the two
/// apart, and took what the former leader wrote.
#[tokio::test(start_paused = true)]
async fn orphaned_leader_is_refused_after_adoption() {
    let store = Client::new(MemBackend::new());
    let old = election(&store).await.campaign("old").await.unwrap();
    let lease = old.session().orphan().await.unwrap();
    let new = Election::new(&heir(&store, lease).await, "e");
    let new = new.resume().await.unwrap().unwrap().elected().await.unwrap();
    new.proclaim("new").await.unwrap();

    let write = Txn::new().and_then([Put::new("written", "old")]);
    let refused = [
        old.txn(write).await.map(|answer| answer.header),
        old.proclaim("old").await,
        old.proclaimer().proclaim("old").await,
    ];
    for answer in refused {
        assert_eq!(answer.unwrap_err().loss(), Some(LossReason::Orphaned));
    }
    assert_eq!(leader(&store).await, some("new"));
    assert!(store.get("written").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn crashed_leader_resumes_if_adopted_within_ttl() {
    let store = Client::new(MemBackend::new());
    let crashed = |call: &Call| match call {
        Call::LeaseGrant(_) | Call::Txn(_) => Action::Pass,
        _ => Action::Hang,
    };
    let old = session_on(behind(&store, crashed)).await;
    let before = Election::new(&old, "e").campaign("a").await.unwrap();
    let next = election(&store).await;
    let (late, ()) = tokio::join!(timeout(secs(60), next.campaign("rival")), async {
        sleep(secs(8)).await;
        let new = Election::new(&heir(&store, old.lease_id()).await, "e");
        let leadership = new.resume().await.unwrap().unwrap().elected().await.unwrap();
        assert_eq!(leadership.fencing_token(), before.fencing_token());
        sleep(secs(60)).await;
        leadership.proclaim("still a").await.unwrap();
    });
    assert!(late.is_err(), "nobody else was elected");
}

#[tokio::test(start_paused = true)]
async fn resumed_candidate_keeps_its_position() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let old = election(&store).await;
    let before = old.enter("second").await.unwrap();
    let third = election(&store).await.enter("third").await.unwrap();
    let token = before.fencing_token();
    let lease = old.session().orphan().await.unwrap();

    let new = Election::new(&heir(&store, lease).await, "e");
    let candidate = new.resume().await.unwrap().unwrap();
    assert_eq!(candidate.fencing_token(), token);
    let (leadership, ()) = tokio::join!(candidate.elected(), async {
        settle().await;
        assert_eq!(leader(&store).await, some("first"));
        first.resign().await.unwrap();
    });
    assert_eq!(leader(&store).await, some("second"));
    leadership.unwrap().resign().await.unwrap();
    drop(third.elected().await.unwrap());
    drop(before);
}

#[tokio::test(start_paused = true)]
async fn resume_without_candidate_returns_none() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    assert!(Election::new(&session, "e").resume().await.unwrap().is_none());
    // Others' keys, in this election, below it and beside it.
    let _other = election(&store).await.campaign("other").await.unwrap();
    let _below = Election::new(&session, "e/below").campaign("below").await.unwrap();
    let _beside = Election::new(&session, "e2").campaign("beside").await.unwrap();
    assert!(Election::new(&session, "e").resume().await.unwrap().is_none());
    settle().await;
    assert_eq!(keys(&store, "e").await.len(), 3, "and nothing is touched");
}

/// etcd issues 10297 and 13469: Go's own `ResumeElection` looks under another prefix.
#[tokio::test(start_paused = true)]
async fn go_candidate_is_resumed() {
    let store = Client::new(MemBackend::new());
    let (lease, go) = join_as_go(&store, "e", "go").await;
    let created = store.get(&go).await.unwrap().unwrap().create_revision;
    let election = Election::new(&heir(&store, lease).await, "e");
    let leadership = election.resume().await.unwrap().unwrap().elected().await.unwrap();
    assert_eq!((leadership.key(), leadership.fencing_token().0), (&go.clone().into(), created));
    leadership.proclaim("rust").await.unwrap();
    assert_eq!(store.get(&go).await.unwrap().unwrap().lease, Some(lease), "still on its lease");
    leadership.resign().await.unwrap();
    assert_eq!(keys(&store, "e/").await, [""; 0]);
}

/// The keys of lease 12 start as those of lease 1 do, and somebody may put a key of ours on no
/// lease at all.
#[tokio::test(start_paused = true)]
async fn resume_ignores_similar_keys_on_other_leases() {
    let store = Client::new(MemBackend::new());
    let id = |n| LeaseId::new(n).unwrap();
    for n in [0x1, 0x12] {
        store.lease_grant(LeaseGrant::new(secs(60)).id(id(n))).await.unwrap();
    }
    store.put_with(Put::new("e/12-0", "longer").lease(id(0x12))).await.unwrap();
    store.put_with(Put::new("e/12", "longer, go").lease(id(0x12))).await.unwrap();
    store.put("e/1-0", "on no lease").await.unwrap();
    let election = Election::new(&heir(&store, id(0x1)).await, "e");
    assert!(election.resume().await.unwrap().is_none());

    store.put_with(Put::new("e/1-7", "ours").lease(id(0x1))).await.unwrap();
    // What is put after the adoption is not what a former process has left.
    assert!(election.resume().await.unwrap().is_none());
    let election = Election::new(&heir(&store, id(0x1)).await, "e");
    let candidate = election.resume().await.unwrap().unwrap();
    assert_eq!(candidate.key(), "e/1-7");
    assert!(timeout(secs(1), candidate.elected()).await.is_err(), "the others came before");
    settle().await;
    assert_eq!(keys(&store, "e/").await, ["e/1-0", "e/12", "e/12-0"]);
}

#[tokio::test(start_paused = true)]
async fn candidates_of_one_lease_resume_in_enqueue_order() {
    let store = Client::new(MemBackend::new());
    let old = election(&store).await;
    let mut left = Vec::new();
    for n in 0..12 {
        left.push(old.enter(n.to_string()).await.unwrap());
    }
    let lease = old.session().orphan().await.unwrap();
    let new = Election::new(&heir(&store, lease).await, "e");
    for before in &left {
        let candidate = new.resume().await.unwrap().unwrap();
        assert_eq!(candidate.fencing_token(), before.fencing_token());
        let again = new.resume().await.unwrap().unwrap();
        assert_eq!(again.fencing_token(), before.fencing_token(), "a second call finds the same");
        candidate.elected().await.unwrap().resign().await.unwrap();
        assert_eq!(again.lost().await, LossReason::KeyDeleted);
    }
    assert!(new.resume().await.unwrap().is_none());
    // A campaign of the new process takes a key that none of the old ones has.
    new.campaign("new").await.unwrap().resign().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropped_resumed_candidate_withdraws() {
    let store = Client::new(MemBackend::new());
    let old = election(&store).await;
    let before = old.campaign("a").await.unwrap();
    let lease = old.session().orphan().await.unwrap();
    drop(before);
    let new = heir(&store, lease).await;
    drop(Election::new(&new, "e").resume().await.unwrap().unwrap());
    settle().await;
    assert_eq!(keys(&store, "e/").await, [""; 0]);
}

/// The fault: see `resume_dropped_at_any_await_changes_nothing`. Here the look is answered with an
/// error that trying again cannot help.
#[tokio::test(start_paused = true)]
async fn failed_resume_changes_nothing() {
    let store = Client::new(MemBackend::new());
    let old = election(&store).await;
    let before = old.campaign("a").await.unwrap();
    let lease = old.session().orphan().await.unwrap();
    let denied = coord_core::Error::PermissionDenied { reason: "no".to_owned() };
    let denied = nth("range", 2, 2, Action::Fail(denied));
    let new = Session::builder(&behind(&store, denied)).lease(lease).open().await.unwrap();
    let election = Election::new(&new, "e");
    assert!(election.resume().await.is_err());
    settle().await;
    assert_eq!(leader(&store).await, some("a"));
    let candidate = election.resume().await.unwrap().unwrap();
    assert_eq!(candidate.fencing_token(), before.fencing_token());
}

/// Adopted too late: the lease is gone, and with it the place.
#[tokio::test(start_paused = true)]
async fn lease_adopted_after_its_ttl_is_refused() {
    let store = Client::new(MemBackend::new());
    let old = election(&store).await;
    let _before = old.campaign("a").await.unwrap();
    let lease = old.session().orphan().await.unwrap();
    sleep(secs(11)).await;
    assert_eq!(leader(&store).await, None);
    assert!(Session::builder(&Client::new(store)).lease(lease).open().await.is_err());
}
