//! `resume`: the adopter of a lease continues as the candidate or leader of the former process.

use coord_core::{
    Client, Election, Error, Session,
    error::LossReason,
    kv::{LeaseGrant, LeaseId, Put, Txn},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call};
use tokio::time::{sleep, timeout};

use super::{election, leader, observe, some, take_yielded};
use crate::support::{
    enqueue_like_go, intercepted, keys, nth, secs, separate_client, session, session_on, settle,
};
use crate::while_waiting::{while_waiting, while_waiting_after};

/// The election `e`, in a new process that adopts `lease`.
async fn adopter_election(store: &Client, lease: LeaseId) -> Election {
    let session = Session::builder(&separate_client(store)).lease(lease).open().await;
    Election::new(&session.expect("the lease exists"), "e")
}

#[tokio::test(start_paused = true)]
async fn orphaned_leadership_resumes_in_the_next_process() {
    let store = Client::new(MemBackend::new());
    let mut leaders = observe(&store);
    assert_eq!(take_yielded(&mut leaders).await, [None]);
    let owner = election(&store).await;
    let orphaned = owner.campaign("version 1").await.unwrap();
    let next = election(&store).await.enter("rival").await.unwrap();
    let lease = owner.session().orphan().await.unwrap();
    assert_eq!(orphaned.lost().await, LossReason::Orphaned);
    let token = orphaned.fencing_token();
    drop((orphaned, owner));
    settle().await;
    assert_eq!(leader(&store).await, some("version 1"), "the key on the orphaned lease stays");

    let adopter = adopter_election(&store, lease).await;
    let candidate = adopter.resume().await.unwrap().expect("the key of version 1");
    assert_eq!(candidate.fencing_token(), token);
    let leadership = timeout(secs(1), candidate.elected()).await.expect("at once").unwrap();
    assert_eq!(leadership.fencing_token(), token);
    leadership.proclaim("version 2").await.unwrap();
    sleep(secs(100)).await;
    assert_eq!(leader(&store).await, some("version 2"), "the adopter keeps the lease alive");
    leadership.resign().await.unwrap();
    drop(next.elected().await.unwrap());
    let expected = [some("version 1"), some("version 2"), some("rival"), None];
    assert_eq!(take_yielded(&mut leaders).await, expected);
}

/// The adopter and the former leader have the same key and the same token, so the store cannot
/// distinguish them: it applied what the former leader wrote.
#[tokio::test(start_paused = true)]
async fn orphaned_leader_is_refused_after_adoption() {
    let store = Client::new(MemBackend::new());
    let old = election(&store).await.campaign("old").await.unwrap();
    let lease = old.session().orphan().await.unwrap();
    let adopter = adopter_election(&store, lease).await;
    let new = adopter.resume().await.unwrap().unwrap().elected().await.unwrap();
    new.proclaim("new").await.unwrap();

    let write = Txn::new().and_then([Put::new("written", "old")]);
    let refused = [
        old.txn(write).await.map(|response| response.header),
        old.proclaim("old").await,
        old.proclaimer().proclaim("old").await,
    ];
    for result in refused {
        assert_eq!(result.unwrap_err().loss(), Some(LossReason::Orphaned));
    }
    assert_eq!(leader(&store).await, some("new"));
    assert!(store.get("written").await.unwrap().is_none());
}

/// Go's `TestElectionOnSessionRestart`: the former process crashes, so its keep-alives stop and it
/// releases nothing.
#[tokio::test(start_paused = true)]
async fn crashed_leader_resumes_if_adopted_within_ttl() {
    let store = Client::new(MemBackend::new());
    let crash = |call: &Call| match call {
        Call::LeaseGrant(_) | Call::Txn(_) => Action::Pass,
        _ => Action::Hang,
    };
    let crashed = session_on(intercepted(&store, crash)).await;
    let former = Election::new(&crashed, "e").campaign("a").await.unwrap();
    let rival = election(&store).await;
    let campaign = timeout(secs(60), rival.campaign("rival"));
    let (rival_elected, ()) = while_waiting_after(secs(8), campaign, async {
        let adopter = adopter_election(&store, crashed.lease_id()).await;
        let leadership = adopter.resume().await.unwrap().unwrap().elected().await.unwrap();
        assert_eq!(leadership.fencing_token(), former.fencing_token());
        sleep(secs(60)).await;
        leadership.proclaim("still a").await.unwrap();
    })
    .await;
    assert!(rival_elected.is_err(), "elected beside the adopter");
}

#[tokio::test(start_paused = true)]
async fn resumed_candidate_keeps_its_position() {
    let store = Client::new(MemBackend::new());
    let first = election(&store).await.campaign("first").await.unwrap();
    let owner = election(&store).await;
    let orphaned = owner.enter("second").await.unwrap();
    let third = election(&store).await.enter("third").await.unwrap();
    let token = orphaned.fencing_token();
    let lease = owner.session().orphan().await.unwrap();

    let adopter = adopter_election(&store, lease).await;
    let candidate = adopter.resume().await.unwrap().unwrap();
    assert_eq!(candidate.fencing_token(), token);
    let (leadership, ()) = while_waiting(candidate.elected(), async {
        assert_eq!(leader(&store).await, some("first"));
        first.resign().await.unwrap();
    })
    .await;
    assert_eq!(leader(&store).await, some("second"));
    leadership.unwrap().resign().await.unwrap();
    drop(third.elected().await.unwrap());
    drop(orphaned);
}

#[tokio::test(start_paused = true)]
async fn resume_without_candidate_returns_none() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    assert!(Election::new(&session, "e").resume().await.unwrap().is_none());
    // Keys of another session, of a child name, and of a name that begins the same.
    let _other = election(&store).await.campaign("other").await.unwrap();
    let _child = Election::new(&session, "e/below").campaign("child").await.unwrap();
    let _e2 = Election::new(&session, "e2").campaign("e2").await.unwrap();
    assert!(Election::new(&session, "e").resume().await.unwrap().is_none());
    settle().await;
    assert_eq!(keys(&store, "e").await.len(), 3, "no key is deleted");
}

/// etcd issues 10297 and 13469: Go's `ResumeElection` uses another prefix than `NewElection`.
#[tokio::test(start_paused = true)]
async fn go_candidate_is_resumed() {
    let store = Client::new(MemBackend::new());
    let (lease, go_key) = enqueue_like_go(&store, "e", "go").await;
    let created = store.get(&go_key).await.unwrap().unwrap().create_revision;
    let election = adopter_election(&store, lease).await;
    let leadership = election.resume().await.unwrap().unwrap().elected().await.unwrap();
    assert_eq!((leadership.key(), leadership.fencing_token().0), (&go_key.clone().into(), created));
    leadership.proclaim("coord").await.unwrap();
    assert_eq!(store.get(&go_key).await.unwrap().unwrap().lease, Some(lease), "keeps its lease");
    leadership.resign().await.unwrap();
    assert_eq!(keys(&store, "e/").await, [""; 0]);
}

/// The keys of lease 12 begin with `e/1`, as the keys of lease 1 do. A key whose name has the form
/// of a contender's key may be on no lease.
#[tokio::test(start_paused = true)]
async fn resume_ignores_similar_keys_on_other_leases() {
    let store = Client::new(MemBackend::new());
    let id = |n| LeaseId::new(n).unwrap();
    for n in [0x1, 0x12] {
        store.lease_grant(LeaseGrant::new(secs(60)).id(id(n))).await.unwrap();
    }
    store.put_with(Put::new("e/12-0", "lease 12").lease(id(0x12))).await.unwrap();
    store.put_with(Put::new("e/12", "lease 12, go").lease(id(0x12))).await.unwrap();
    store.put("e/1-0", "on no lease").await.unwrap();
    let election = adopter_election(&store, id(0x1)).await;
    assert!(election.resume().await.unwrap().is_none());

    store.put_with(Put::new("e/1-7", "lease 1").lease(id(0x1))).await.unwrap();
    // Only keys that existed when the lease was adopted are resumed.
    assert!(election.resume().await.unwrap().is_none());
    let election = adopter_election(&store, id(0x1)).await;
    let candidate = election.resume().await.unwrap().unwrap();
    assert_eq!(candidate.key(), "e/1-7");
    assert!(timeout(secs(1), candidate.elected()).await.is_err(), "behind the other keys");
    settle().await;
    assert_eq!(keys(&store, "e/").await, ["e/1-0", "e/12", "e/12-0"]);
}

#[tokio::test(start_paused = true)]
async fn candidates_of_one_lease_resume_in_enqueue_order() {
    let store = Client::new(MemBackend::new());
    let owner = election(&store).await;
    let mut orphaned = Vec::new();
    for n in 0..12 {
        orphaned.push(owner.enter(n.to_string()).await.unwrap());
    }
    let lease = owner.session().orphan().await.unwrap();
    let adopter = adopter_election(&store, lease).await;
    for former in &orphaned {
        let candidate = adopter.resume().await.unwrap().unwrap();
        assert_eq!(candidate.fencing_token(), former.fencing_token());
        let same = adopter.resume().await.unwrap().unwrap();
        assert_eq!(same.fencing_token(), former.fencing_token(), "a second call finds the same");
        candidate.elected().await.unwrap().resign().await.unwrap();
        assert_eq!(same.lost().await, LossReason::KeyDeleted);
    }
    assert!(adopter.resume().await.unwrap().is_none());
    // The adopter's own keys have other names.
    adopter.campaign("new").await.unwrap().resign().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropped_resumed_candidate_withdraws() {
    let store = Client::new(MemBackend::new());
    let owner = election(&store).await;
    let orphaned = owner.campaign("a").await.unwrap();
    let lease = owner.session().orphan().await.unwrap();
    drop(orphaned);
    let adopter = adopter_election(&store, lease).await;
    drop(adopter.resume().await.unwrap().unwrap());
    settle().await;
    assert_eq!(keys(&store, "e/").await, [""; 0]);
}

/// The same fault as in `resume_dropped_at_any_await_changes_nothing`, but the read of the queue
/// fails with a permanent error.
#[tokio::test(start_paused = true)]
async fn failed_resume_changes_nothing() {
    let store = Client::new(MemBackend::new());
    let owner = election(&store).await;
    let orphaned = owner.campaign("a").await.unwrap();
    let lease = owner.session().orphan().await.unwrap();
    let denied = Error::PermissionDenied { reason: "no reads".to_owned() };
    let denied = nth("range", 2, 2, Action::Fail(denied));
    let adopter = Session::builder(&intercepted(&store, denied)).lease(lease).open().await.unwrap();
    let election = Election::new(&adopter, "e");
    assert!(election.resume().await.is_err());
    settle().await;
    assert_eq!(leader(&store).await, some("a"));
    let candidate = election.resume().await.unwrap().unwrap();
    assert_eq!(candidate.fencing_token(), orphaned.fencing_token());
}

#[tokio::test(start_paused = true)]
async fn lease_adopted_after_its_ttl_is_refused() {
    let store = Client::new(MemBackend::new());
    let owner = election(&store).await;
    let _orphaned = owner.campaign("a").await.unwrap();
    let lease = owner.session().orphan().await.unwrap();
    sleep(secs(11)).await;
    assert_eq!(leader(&store).await, None);
    assert!(Session::builder(&Client::new(store)).lease(lease).open().await.is_err());
}
