//! Ported tests of elections.

use std::pin::pin;
use std::sync::Arc;

use coord_core::{
    Election, Session,
    election::{Leader, Leaders},
    kv::Compact,
};
use tokio::sync::{Barrier, Mutex as AsyncMutex, mpsc};
use tokio::task::JoinSet;

use super::{Store, in_time, lease};

/// The value of the next leader that the stream yields; `None` if there is no leader.
async fn next_value(leaders: &mut Leaders) -> Option<String> {
    next(leaders).await.map(|leader| String::from_utf8_lossy(leader.value()).into_owned())
}

async fn next(leaders: &mut Leaders) -> Option<Leader> {
    in_time(leaders.next()).await.unwrap().unwrap()
}

/// The value of the first leader that a new observer of `name` receives.
async fn first_observed(store: &Store, member: usize, name: &'static str) -> String {
    let mut leaders = Election::observer(&store.client_of(member).await, name).observe();
    loop {
        if let Some(value) = next_value(&mut leaders).await {
            return value;
        }
    }
}

/// A resumed leadership belongs to the election of its name and to no other.
///
/// In Go the two constructors of an election use different prefixes (issue 10297). Here a session
/// that has adopted the lease finds the leadership.
pub(super) async fn resume_election(store: Store) {
    let kv = store.client().await;
    let name = "/resume-election/";
    let old = Session::builder(&kv).open().await.unwrap();
    let before = Election::new(&old, name).campaign("candidate1").await.unwrap();
    let lease = old.orphan().await.unwrap();

    let session = Session::builder(&kv).lease(lease).open().await.unwrap();
    let election = Election::new(&session, name);
    let candidate = election.resume().await.unwrap().unwrap();
    let leadership = candidate.elected().await.unwrap();
    assert_eq!(leadership.fencing_token(), before.fencing_token());
    let mut leaders = election.observe();
    assert_eq!(next_value(&mut leaders).await.as_deref(), Some("candidate1"));

    kv.put("foo", "bar").await.unwrap();
    leadership.resign().await.unwrap();
    let second = election.campaign("candidate2").await.unwrap();
    assert_eq!(next_value(&mut leaders).await, None);
    let leader = next(&mut leaders).await.unwrap();
    assert!(leader.key().starts_with(name.as_bytes()));
    assert_eq!((leader.value(), leader.key()), (&"candidate2".into(), second.key()));
}

/// Three leaders, one after the other, and three observers that agree on each.
pub(super) async fn election_wait(store: Store) {
    const LEADERS: usize = 3;
    const FOLLOWERS: usize = 3;
    let (observed, observations) = mpsc::channel::<String>(FOLLOWERS);
    let observations = Arc::new(AsyncMutex::new(observations));
    let round = Arc::new(Barrier::new(FOLLOWERS + 1));

    let mut all = JoinSet::new();
    for n in 0..FOLLOWERS {
        let (store, observed, round) = (store.clone(), observed.clone(), Arc::clone(&round));
        all.spawn(async move {
            for _ in 0..LEADERS {
                let value = first_observed(&store, n, "test-election").await;
                observed.send(value).await.unwrap();
                round.wait().await;
            }
        });
    }
    for n in 0..LEADERS {
        let (store, observations, round) =
            (store.clone(), Arc::clone(&observations), Arc::clone(&round));
        all.spawn(async move {
            let (session, value) = (store.session_of(n).await, format!("electval-{n}"));
            let election = Election::new(&session, "test-election");
            let leadership = election.campaign(value.clone()).await.unwrap();
            let mut observations = observations.lock().await;
            for _ in 0..FOLLOWERS {
                assert_eq!(observations.recv().await.unwrap(), value);
            }
            drop(observations);
            leadership.resign().await.unwrap();
            round.wait().await;
        });
    }
    all.join_all().await;
}

/// When the leader's session is closed, the next candidate leads and is observed.
pub(super) async fn election_failover(store: Store) {
    let name = "test-election";
    let (first, second) = (store.session_of(0).await, store.session_of(1).await);
    let _leadership = Election::new(&first, name).campaign("foo").await.unwrap();
    assert_eq!(first_observed(&store, 0, name).await, "foo");

    let election = Election::new(&second, name);
    let mut elected = pin!(election.campaign("bar"));
    store.assert_waits(&mut elected, name, 2).await;
    first.close().await.unwrap();
    let leadership = in_time(elected).await.unwrap();
    assert_eq!(first_observed(&store, 2, name).await, "bar");
    leadership.resign().await.unwrap();
}

/// A second campaign of one session enqueues a second candidate.
///
/// In Go it proclaims the new value instead, because the two campaigns share a key. Here a leader
/// changes its value with `proclaim`. In neither does the session deadlock with itself.
pub(super) async fn election_session_recampaign(store: Store) {
    let session = store.session().await;
    let election = Election::new(&session, "test-elect");
    let first = election.campaign("abc").await.unwrap();
    let second = election.enter("ghi").await.unwrap();
    let mut leaders = election.observe();
    assert_eq!(next_value(&mut leaders).await.as_deref(), Some("abc"));
    first.proclaim("def").await.unwrap();
    assert_eq!(next_value(&mut leaders).await.as_deref(), Some("def"));

    first.resign().await.unwrap();
    in_time(second.elected()).await.unwrap().resign().await.unwrap();
    assert_eq!(next_value(&mut leaders).await.as_deref(), Some("ghi"));
}

/// A key that starts with the election's name is not one of its candidates (issue 6278).
pub(super) async fn election_on_prefix_of_existing_key(store: Store) {
    store.client().await.put("testa", "value").await.unwrap();
    let session = store.session().await;
    let leadership = in_time(Election::new(&session, "test").campaign("abc")).await.unwrap();
    leadership.resign().await.unwrap();
}

/// A leader that restarts before its lease expires remains the leader, although a candidate waits.
/// In Go the new process campaigns again and finds the old key; here it resumes the leadership.
pub(super) async fn election_on_session_restart(store: Store) {
    let name = "test-elect";
    let old = store.session().await;
    let before = Election::new(&old, name).campaign("abc").await.unwrap();
    let other = store.session().await;
    let election = Election::new(&other, name);
    let mut waiter = pin!(election.campaign("123"));
    store.assert_waits(&mut waiter, name, 2).await;

    let lease = old.orphan().await.unwrap();
    let new = Session::builder(&store.client().await).lease(lease).open().await.unwrap();
    let election = Election::new(&new, name);
    let candidate = election.resume().await.unwrap().unwrap();
    let leadership = in_time(candidate.elected()).await.unwrap();
    assert_eq!(leadership.fencing_token(), before.fencing_token());
    leadership.proclaim("def").await.unwrap();
    assert_eq!(first_observed(&store, 0, name).await, "def");
    store.assert_waits(&mut waiter, name, 2).await;

    leadership.resign().await.unwrap();
    in_time(waiter).await.unwrap().resign().await.unwrap();
}

/// An observer sees a leader whose key was written before the compact revision.
pub(super) async fn election_observe_compacted(store: Store) {
    let kv = store.client().await;
    let session = store.session().await;
    let election = Election::new(&session, "test-elect");
    let leadership = election.campaign("abc").await.unwrap();
    let put = kv.put("foo", "bar").await.unwrap();
    kv.compact(Compact::new(put.header.revision)).await.unwrap();
    let mut leaders = election.observe();
    assert_eq!(next_value(&mut leaders).await.as_deref(), Some("abc"));
    leadership.proclaim("def").await.unwrap();
    assert_eq!(next_value(&mut leaders).await.as_deref(), Some("def"));
}

/// An observer receives each proclaimed value once, with its own version and revision.
pub(super) async fn election_observe_fresh_responses_on_proclaim(store: Store) {
    let session = store.session().await;
    let election = Election::new(&session, "test-elect");
    let leadership = election.campaign("abc").await.unwrap();
    let mut leaders = election.observe();
    let first = next(&mut leaders).await.unwrap();
    leadership.proclaim("def").await.unwrap();
    let second = next(&mut leaders).await.unwrap();
    leadership.proclaim("ghi").await.unwrap();
    let third = next(&mut leaders).await.unwrap();

    let seen = [first, second, third];
    assert_eq!(seen.each_ref().map(|leader| &leader.value()[..]), [b"abc", b"def", b"ghi"]);
    assert_eq!(seen.each_ref().map(|leader| leader.key_value().version), [1, 2, 3]);
    assert!(seen.is_sorted_by(|a, b| a.key_value().mod_revision < b.key_value().mod_revision));
    assert!(seen.iter().all(|leader| leader.fencing_token() == leadership.fencing_token()));
}

/// A session on an existing lease of 30 s, as in etcd's election service.
async fn session_on_a_lease(store: &Store) -> Session {
    let kv = store.client().await;
    let lease = lease(&kv, 30).await;
    Session::builder(&kv).lease(lease).open().await.unwrap()
}

/// The second candidate is elected when the first resigns, not before, and then its value is read.
pub(super) async fn v3_election_campaign(store: Store) {
    let (s1, s2) = (session_on_a_lease(&store).await, session_on_a_lease(&store).await);
    let (e1, e2) = (Election::new(&s1, "foo"), Election::new(&s2, "foo"));
    let l1 = e1.campaign("abc").await.unwrap();
    let mut l2 = pin!(e2.campaign("def"));
    store.assert_waits(&mut l2, "foo", 2).await;
    let (revision, token) = (l1.header().revision, l1.fencing_token());
    l1.resign().await.unwrap();
    let l2 = in_time(l2).await.unwrap();
    assert!(l2.header().revision > revision && l2.fencing_token() > token);
    let leader = e1.leader().await.unwrap().unwrap();
    assert_eq!(leader.value(), "def");
}

/// Two successive leaders proclaim several values. In Go an observer may skip values, but must not
/// go back; here it sees every value.
pub(super) async fn v3_election_observe(store: Store) {
    let mut leaders = Election::observer(&store.client().await, "foo").observe();
    assert_eq!(next_value(&mut leaders).await, None, "the stream has started");
    let (s1, s2) = (session_on_a_lease(&store).await, session_on_a_lease(&store).await);
    let (e1, e2) = (Election::new(&s1, "foo"), Election::new(&s2, "foo"));
    let l1 = e1.campaign("0").await.unwrap();
    let overlapping = async {
        let l2 = e2.campaign("5").await.unwrap();
        for value in 6..10 {
            l2.proclaim(value.to_string()).await.unwrap();
        }
        l2
    };
    let observed = async {
        for value in 0..10 {
            assert_eq!(next_value(&mut leaders).await, Some(value.to_string()));
        }
    };
    let first = async {
        store.wait_for_queue_length("foo", 2).await;
        for value in 1..5 {
            l1.proclaim(value.to_string()).await.unwrap();
        }
        l1.resign().await.unwrap();
    };
    let (_l2, (), ()) = in_time(async { tokio::join!(overlapping, observed, first) }).await;
}

/// Three clients: one leads, one is interrupted while it waits, the third leads next.
pub(super) async fn ctl_v3_elect(store: Store) {
    let sessions = [store.session().await, store.session().await, store.session().await];
    let [holder, blocked, winner] = sessions.each_ref().map(|s| Election::new(s, "a"));
    let leads = holder.campaign("p1").await.unwrap();
    assert!(leads.key().starts_with(b"a/"));
    let mut next = {
        let mut interrupted = Box::pin(blocked.campaign("p2"));
        store.assert_waits(&mut interrupted, "a", 2).await;
        let mut next = Box::pin(winner.campaign("p2"));
        store.assert_waits(&mut next, "a", 3).await;
        next
    };
    store.assert_waits(&mut next, "a", 2).await;
    let key = leads.key().clone();
    leads.resign().await.unwrap();
    let next = in_time(next).await.unwrap();
    assert_ne!(*next.key(), key);
    assert_eq!(holder.leader().await.unwrap().unwrap().value(), "p2");
}
