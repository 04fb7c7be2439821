//! Go's tests of elections.

use std::pin::pin;
use std::sync::Arc;

use coord_core::{
    Client, Election, Session,
    election::{Leader, Leaders, Observer},
    kv::Compact,
};
use tokio::sync::{Barrier, Mutex as AsyncMutex, mpsc};
use tokio::task::JoinSet;

use super::{Store, THERE, lease, soon};

/// What a stream shows next: the value of who leads, or `None` if nobody does.
async fn shown(leaders: &mut Leaders) -> Option<String> {
    next(leaders).await.map(|leader| String::from_utf8_lossy(leader.value()).into_owned())
}

async fn next(leaders: &mut Leaders) -> Option<Leader> {
    soon(leaders.next()).await.expect("it lasts").expect(THERE)
}

/// The value of the first leader that an observer of `name` sees.
async fn first_seen(store: &Store, member: usize, name: &'static str) -> String {
    let mut leaders = Observer::new(store.client_of(member).await, name).observe();
    loop {
        if let Some(value) = shown(&mut leaders).await {
            return value;
        }
    }
}

/// Whoever takes up a leadership sees its election, and nothing beside it. In Go the two ways to
/// make an election give it different prefixes (issue 10297); here a session that has adopted the
/// lease finds the leadership by itself.
pub(super) async fn resume_election(store: Store) {
    let kv = store.client().await;
    let name = "/resume-election/";
    let old = Session::builder(&kv).open().await.expect(THERE);
    let before = Election::new(&old, name).campaign("candidate1").await.expect(THERE);
    let lease = old.orphan().await.expect(THERE);

    let session = Session::builder(&kv).lease(lease).open().await.expect(THERE);
    let election = Election::new(&session, name);
    let candidate = election.resume().await.expect(THERE).expect("left by the former session");
    let leadership = candidate.elected().await.expect(THERE);
    assert_eq!(leadership.fencing_token(), before.fencing_token());
    let mut leaders = election.observe();
    assert_eq!(shown(&mut leaders).await.as_deref(), Some("candidate1"));

    kv.put("foo", "bar").await.expect(THERE);
    leadership.resign().await.expect(THERE);
    let second = election.campaign("candidate2").await.expect(THERE);
    assert_eq!(shown(&mut leaders).await, None);
    let leader = next(&mut leaders).await.expect("candidate2");
    assert!(leader.key().starts_with(name.as_bytes()));
    assert_eq!((leader.value(), leader.key()), (&"candidate2".into(), second.key()));
}

/// Three leaders, one after the other, and three observers who agree about each.
pub(super) async fn election_wait(store: Store) {
    const LEADERS: usize = 3;
    const FOLLOWERS: usize = 3;
    let (elected, accepted) = mpsc::channel::<String>(FOLLOWERS);
    let accepted = Arc::new(AsyncMutex::new(accepted));
    let round = Arc::new(Barrier::new(FOLLOWERS + 1));

    let mut all = JoinSet::new();
    for n in 0..FOLLOWERS {
        let (store, elected, round) = (store.clone(), elected.clone(), Arc::clone(&round));
        all.spawn(async move {
            for _ in 0..LEADERS {
                let seen = first_seen(&store, n, "test-election").await;
                elected.send(seen).await.expect("a leader waits for it");
                round.wait().await;
            }
        });
    }
    for n in 0..LEADERS {
        let (store, accepted, round) = (store.clone(), Arc::clone(&accepted), Arc::clone(&round));
        all.spawn(async move {
            let (session, value) = (store.session_of(n).await, format!("electval-{n}"));
            let election = Election::new(&session, "test-election");
            let leadership = election.campaign(value.clone()).await.expect(THERE);
            let mut accepted = accepted.lock().await;
            for _ in 0..FOLLOWERS {
                assert_eq!(accepted.recv().await.expect("followers live"), value);
            }
            drop(accepted);
            leadership.resign().await.expect(THERE);
            round.wait().await;
        });
    }
    all.join_all().await;
}

/// When the leader's session is closed, the next candidate leads, and everybody sees it.
pub(super) async fn election_failover(store: Store) {
    let name = "test-election";
    let (first, second) = (store.session_of(0).await, store.session_of(1).await);
    let _leadership = Election::new(&first, name).campaign("foo").await.expect(THERE);
    assert_eq!(first_seen(&store, 0, name).await, "foo");

    let election = Election::new(&second, name);
    let mut elected = pin!(election.campaign("bar"));
    store.waits(&mut elected, name, 2).await;
    first.close().await.expect(THERE);
    let leadership = soon(elected).await.expect(THERE);
    assert_eq!(first_seen(&store, 2, name).await, "bar");
    leadership.resign().await.expect(THERE);
}

/// In Go a second campaign of the same session proclaims the new value, for the two share a key.
/// Here it is a candidate of its own, which waits behind the first; whoever leads and wants to be
/// seen with another value says so. Nobody is locked out for good by himself, in either.
pub(super) async fn election_session_recampaign(store: Store) {
    let session = store.session().await;
    let election = Election::new(&session, "test-elect");
    let first = election.campaign("abc").await.expect(THERE);
    let second = election.enter("ghi").await.expect(THERE);
    let mut leaders = election.observe();
    assert_eq!(shown(&mut leaders).await.as_deref(), Some("abc"));
    first.proclaim("def").await.expect(THERE);
    assert_eq!(shown(&mut leaders).await.as_deref(), Some("def"));

    first.resign().await.expect(THERE);
    soon(second.elected()).await.expect(THERE).resign().await.expect(THERE);
    assert_eq!(shown(&mut leaders).await.as_deref(), Some("ghi"));
}

/// Issue 6278: a key that starts with the election's name is none of its candidates.
pub(super) async fn election_on_prefix_of_existing_key(store: Store) {
    store.client().await.put("testa", "value").await.expect(THERE);
    let session = store.session().await;
    let leadership = soon(Election::new(&session, "test").campaign("abc")).await.expect(THERE);
    leadership.resign().await.expect(THERE);
}

/// A leader that restarts within its lease's time goes on leading, although somebody waits. In Go
/// the new process campaigns again, and meets the key of the old one; here it takes it up.
pub(super) async fn election_on_session_restart(store: Store) {
    let name = "test-elect";
    let old = store.session().await;
    let before = Election::new(&old, name).campaign("abc").await.expect(THERE);
    let other = store.session().await;
    let election = Election::new(&other, name);
    let mut waiter = pin!(election.campaign("123"));
    store.waits(&mut waiter, name, 2).await;

    let lease = old.orphan().await.expect(THERE);
    let new = Session::builder(store.client().await).lease(lease).open().await.expect(THERE);
    let election = Election::new(&new, name);
    let candidate = election.resume().await.expect(THERE).expect("left by the former process");
    let leadership = soon(candidate.elected()).await.expect(THERE);
    assert_eq!(leadership.fencing_token(), before.fencing_token());
    leadership.proclaim("def").await.expect(THERE);
    assert_eq!(first_seen(&store, 0, name).await, "def");
    store.waits(&mut waiter, name, 2).await;

    leadership.resign().await.expect(THERE);
    soon(waiter).await.expect(THERE).resign().await.expect(THERE);
}

/// A leader whose key was written before the compacted revision is seen.
pub(super) async fn election_observe_compacted(store: Store) {
    let kv = store.client().await;
    let session = store.session().await;
    let election = Election::new(&session, "test-elect");
    let leadership = election.campaign("abc").await.expect(THERE);
    let put = kv.put("foo", "bar").await.expect(THERE);
    kv.compact(Compact::new(put.header.revision)).await.expect(THERE);
    let mut leaders = election.observe();
    assert_eq!(shown(&mut leaders).await.as_deref(), Some("abc"));
    leadership.proclaim("def").await.expect(THERE);
    assert_eq!(shown(&mut leaders).await.as_deref(), Some("def"));
}

/// Each value is shown once, with its own version and revision.
pub(super) async fn election_observe_fresh_responses_on_proclaim(store: Store) {
    let session = store.session().await;
    let election = Election::new(&session, "test-elect");
    let leadership = election.campaign("abc").await.expect(THERE);
    let mut leaders = election.observe();
    let first = next(&mut leaders).await.expect("abc");
    leadership.proclaim("def").await.expect(THERE);
    let second = next(&mut leaders).await.expect("def");
    leadership.proclaim("ghi").await.expect(THERE);
    let third = next(&mut leaders).await.expect("ghi");

    let seen = [first, second, third];
    assert_eq!(seen.each_ref().map(|leader| &leader.value()[..]), [b"abc", b"def", b"ghi"]);
    assert_eq!(seen.each_ref().map(|leader| leader.key_value().version), [1, 2, 3]);
    assert!(seen.is_sorted_by(|a, b| a.key_value().mod_revision < b.key_value().mod_revision));
    assert!(seen.iter().all(|leader| leader.fencing_token() == leadership.fencing_token()));
}

/// A session on a lease of 30 s that was granted beforehand, as etcd's election service has it.
async fn on_a_lease(store: &Store) -> Session {
    let kv = store.client().await;
    let lease = lease(&*kv, 30).await;
    Session::builder(kv).lease(lease).open().await.expect(THERE)
}

/// A second candidate is elected when the first resigns, and not before; then its value is seen.
pub(super) async fn v3_election_campaign(store: Store) {
    let (s1, s2) = (on_a_lease(&store).await, on_a_lease(&store).await);
    let (e1, e2) = (Election::new(&s1, "foo"), Election::new(&s2, "foo"));
    let l1 = e1.campaign("abc").await.expect(THERE);
    let mut l2 = pin!(e2.campaign("def"));
    store.waits(&mut l2, "foo", 2).await;
    let (revision, token) = (l1.header().revision, l1.fencing_token());
    l1.resign().await.expect(THERE);
    let l2 = soon(l2).await.expect(THERE);
    assert!(l2.header().revision > revision && l2.fencing_token() > token);
    let leader = e1.leader().await.expect(THERE).expect("the second");
    assert_eq!(leader.value(), "def");
}

/// Two leaders proclaim one value after the other. In Go an observer may skip some, and must not
/// go back; here it sees every one.
pub(super) async fn v3_election_observe(store: Store) {
    let mut leaders = Observer::new(store.client().await, "foo").observe();
    assert_eq!(shown(&mut leaders).await, None, "the stream has begun");
    let (s1, s2) = (on_a_lease(&store).await, on_a_lease(&store).await);
    let (e1, e2) = (Election::new(&s1, "foo"), Election::new(&s2, "foo"));
    let l1 = e1.campaign("0").await.expect(THERE);
    let overlapping = async {
        let l2 = e2.campaign("5").await.expect(THERE);
        for value in 6..10 {
            l2.proclaim(value.to_string()).await.expect(THERE);
        }
        l2
    };
    let observed = async {
        for value in 0..10 {
            assert_eq!(shown(&mut leaders).await, Some(value.to_string()));
        }
    };
    let first = async {
        store.line_of("foo", 2).await;
        for value in 1..5 {
            l1.proclaim(value.to_string()).await.expect(THERE);
        }
        l1.resign().await.expect(THERE);
    };
    let (_l2, (), ()) = soon(async { tokio::join!(overlapping, observed, first) }).await;
}

/// Three processes: one leads, one is interrupted while it waits, the third is next.
pub(super) async fn ctl_v3_elect(store: Store) {
    let sessions = [store.session().await, store.session().await, store.session().await];
    let [holder, blocked, winner] = sessions.each_ref().map(|s| Election::new(s, "a"));
    let leads = holder.campaign("p1").await.expect(THERE);
    assert!(leads.key().starts_with(b"a/"));
    let mut next = {
        let mut interrupted = Box::pin(blocked.campaign("p2"));
        store.waits(&mut interrupted, "a", 2).await;
        let mut next = Box::pin(winner.campaign("p2"));
        store.waits(&mut next, "a", 3).await;
        next
    };
    store.waits(&mut next, "a", 2).await;
    let key = leads.key().clone();
    leads.resign().await.expect(THERE);
    let next = soon(next).await.expect(THERE);
    assert_ne!(*next.key(), key);
    assert_eq!(holder.leader().await.expect(THERE).expect("the third").value(), "p2");
}
