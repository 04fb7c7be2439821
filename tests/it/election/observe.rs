//! What an observer is shown: exactly what was, held against the oracle.

use coord_core::Election;
use coord_mem::MemBackend;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_core::election::Leaders;
use coord_core::{
    Client, Error,
    error::{ErrorKind, Outcome},
    kv::{Compact, Delete, KeyRange, KeyValue, LeaseGrant, LeaseId, Op, Put, Range, Revision, Txn},
};
use coord_testkit::{Action, Call};
use futures_util::StreamExt;
use proptest::prelude::*;
use tokio::time::{sleep, timeout};

use super::oracle::Oracle;
use super::{election, first_observer, shown, some};
use crate::breaking::{Breaking, Life};
use crate::support::{behind, newest, nth, on_virtual_time, only, scripted, secs, settle};

/// What happens to the keys of an election, from wherever.
#[derive(Clone, Debug)]
enum Step {
    /// A key is created or gets another value, on one of two leases or none.
    Put(u8, u8, usize),
    /// Some keys are created or changed in one revision.
    PutMany(Vec<u8>),
    /// Some keys are deleted in one revision.
    Delete(Vec<u8>),
    /// A key is put, and all keys from another on are deleted, in one revision, in either order.
    PutAndDeleteFrom(u8, u8, bool),
    EndLease(usize),
    /// A key of an election below, or of one beside.
    Foreign(u8, bool),
    Compact,
    /// Whoever observes takes some items, if there are any.
    Take(u8),
    Rest(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..5_u8;
    let keys = || prop::collection::vec(key(), 1..4);
    prop_oneof![
        6 => (key(), any::<u8>(), 0..3_usize).prop_map(|(k, v, l)| Step::Put(k, v, l)),
        2 => keys().prop_map(Step::PutMany),
        4 => keys().prop_map(Step::Delete),
        1 => (key(), key(), any::<bool>()).prop_map(|(a, b, c)| Step::PutAndDeleteFrom(a, b, c)),
        2 => (0..2_usize).prop_map(Step::EndLease),
        2 => (key(), any::<bool>()).prop_map(|(key, put)| Step::Foreign(key, put)),
        1 => Just(Step::Compact),
        4 => (1..4_u8).prop_map(Step::Take),
        2 => (1..3_000_u64).prop_map(Step::Rest),
    ]
}

/// What a network does to reads. They do not hang: nobody but the caller bounds them.
fn fate_of_a_read() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => Just(Action::Pass),
        2 => Just(Action::Yield),
        2 => (1..2_000_u64).prop_map(|ms| Action::Delay(Duration::from_millis(ms))),
        1 => Just(Action::DropRequest),
        1 => Just(Action::DropResponse),
    ]
}

/// How long a watch lives before it breaks, in ms.
fn lives() -> impl Strategy<Value = Vec<(u64, bool)>> {
    prop::collection::vec((0..3_000_u64, any::<bool>()), 0..12)
}

/// Everything that a run is about.
struct World {
    store: Client,
    oracle: Oracle,
    leases: [Option<LeaseId>; 2],
    leaders: Leaders,
    shown: Vec<Option<KeyValue>>,
}

impl World {
    async fn new(fates: Vec<Action>, lives: Vec<(u64, bool)>) -> Self {
        let store = Client::new(MemBackend::new());
        let oracle = Oracle::of(&store).await;
        // The first look passes, so that it is known at which revision the stream begins.
        let fates = [vec![Action::Pass], fates].concat();
        let lives: VecDeque<Life> = lives
            .into_iter()
            .map(|(ms, with_error)| {
                let error = Error::Unavailable {
                    outcome: Outcome::NotApplied,
                    reason: "broken".to_owned(),
                    source: None,
                };
                (Duration::from_millis(ms), with_error.then_some(error))
            })
            .collect();
        let lives = Mutex::new(lives);
        let next = move || {
            let next = lives.lock().expect("nobody panics").pop_front();
            next.unwrap_or((secs(1_000_000), None))
        };
        let backend =
            Breaking { inner: behind(&store, scripted(fates)), lives: next, lag: 0.into() };
        let leaders = Election::observer(&Client::new(backend), "e").observe();
        let mut world = Self { store, oracle, leases: [None; 2], leaders, shown: Vec::new() };
        assert!(world.take(secs(1)).await, "the first item is who leads now");
        world
    }

    /// Takes an item, if one comes in time.
    async fn take(&mut self, patience: Duration) -> bool {
        let Ok(item) = timeout(patience, self.leaders.next()).await else { return false };
        let leader = item.expect("the stream goes on").expect("reads are tried again");
        self.shown.push(leader.map(|leader| leader.key_value().clone()));
        true
    }

    async fn lease(&mut self, n: usize) -> Option<LeaseId> {
        let lease = self.leases.get_mut(n)?;
        if lease.is_none() {
            let granted = self.store.lease_grant(LeaseGrant::new(secs(1_000_000))).await;
            *lease = Some(granted.expect("the store is there").id);
        }
        *lease
    }

    async fn step(&mut self, step: Step) {
        let name = |key: u8| format!("e/{key}");
        let unique = |mut keys: Vec<u8>| {
            keys.sort_unstable();
            keys.dedup();
            keys
        };
        match step {
            Step::Put(key, value, lease) => {
                let lease = self.lease(lease).await;
                txn(&self.store, vec![Put::new(name(key), vec![value]).lease(lease).into()]).await;
            }
            Step::PutMany(keys) => {
                let puts = unique(keys).into_iter().map(|key| Put::new(name(key), "many").into());
                txn(&self.store, puts.collect()).await;
            }
            Step::Delete(keys) => {
                let deletes = unique(keys).into_iter().map(|key| Delete::new(name(key)).into());
                txn(&self.store, deletes.collect()).await;
            }
            Step::PutAndDeleteFrom(put, from, put_first) => {
                let put: Op = Put::new(name(put), "put").into();
                let delete: Op = Delete::new(KeyRange::starting_at(name(from))).into();
                txn(&self.store, if put_first { vec![put, delete] } else { vec![delete, put] })
                    .await;
            }
            Step::EndLease(n) => {
                if let Some(lease) = self.leases[n].take() {
                    self.store.lease_revoke(lease).await.expect("it was granted");
                }
            }
            Step::Foreign(key, put) => {
                for other in [format!("e/{key}/x"), format!("e{key}/x")] {
                    let op: Op =
                        if put { Put::new(other, "").into() } else { Delete::new(other).into() };
                    txn(&self.store, vec![op]).await;
                }
            }
            Step::Compact => {
                let now = newest(&self.store).await;
                // Nothing may have happened since the last time.
                let _ = self.store.compact(Compact::new(now)).await;
            }
            Step::Take(n) => {
                for _ in 0..n {
                    self.take(Duration::from_millis(100)).await;
                }
            }
            Step::Rest(ms) => sleep(Duration::from_millis(ms)).await,
        }
        self.oracle.listen();
    }

    /// Everything that is left to be shown.
    async fn drain(&mut self) {
        while self.take(secs(60)).await {}
    }
}

async fn txn(store: &Client, ops: Vec<Op>) {
    store.txn(Txn::new().and_then(ops)).await.expect("the store is there");
}

fn is_subsequence<T: PartialEq>(of: &[T], part: &[T]) -> bool {
    let mut rest = of.iter();
    part.iter().all(|wanted| rest.any(|item| item == wanted))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn observer_yields_every_leader_and_value_in_order(
        steps in prop::collection::vec(step(), 0..60),
        fates in prop::collection::vec(fate_of_a_read(), 0..20),
        lives in lives(),
    ) {
        on_virtual_time(async {
            let mut world = World::new(fates, lives).await;
            for step in steps {
                if !matches!(step, Step::Compact) {
                    world.step(step).await;
                }
            }
            world.drain().await;
            assert_eq!(world.shown, world.oracle.changes(Revision(1)));
        });
    }

    /// What is compacted may be missing; nothing is invented, and the end is right.
    #[test]
    fn observer_across_compaction_yields_no_phantom_leader(
        steps in prop::collection::vec(step(), 0..60),
        fates in prop::collection::vec(fate_of_a_read(), 0..20),
        lives in lives(),
    ) {
        on_virtual_time(async {
            let mut world = World::new(fates, lives).await;
            for step in steps {
                world.step(step).await;
            }
            world.drain().await;
            let changes = world.oracle.changes(Revision(1));
            assert!(
                is_subsequence(&changes, &world.shown),
                "{:#?}\nis not part of\n{changes:#?}", world.shown
            );
            assert_eq!(world.shown.last(), changes.last());
        });
    }
}

/// The oracle proves something only if it is right.
#[tokio::test(start_paused = true)]
async fn oracle_matches_historic_reads() {
    let store = Client::new(MemBackend::new());
    let mut oracle = Oracle::of(&store).await;
    let steps = ["e/b", "e/a", "e/b/c", "e/b", "e2/a"];
    for key in steps {
        store.put(key, key).await.unwrap();
    }
    for key in ["e/b", "e/a", "e/b/c"] {
        store.delete(key).await.unwrap();
    }
    oracle.listen();
    for revision in 1..=9 {
        let mut line = store.range(Range::prefix("e/").at(Revision(revision))).await.unwrap().kvs;
        line.retain(|kv| kv.key != "e/b/c");
        let first = line.iter().min_by_key(|kv| kv.create_revision);
        assert_eq!(oracle.at(Revision(revision)), first, "at {revision}");
    }
}

/// Go's `TestElectionWait`: whoever observes, and from whenever on, they agree.
#[tokio::test(start_paused = true)]
async fn late_observer_starts_with_the_current_leader() {
    let store = Client::new(MemBackend::new());
    let (mut one, mut other) = (first_observer(&store), first_observer(&store));
    assert_eq!(shown(&mut one).await, [None]);
    let first = election(&store).await.campaign("a").await.unwrap();
    let mut late = first_observer(&store);
    assert_eq!(shown(&mut late).await, [some("a")]);
    let next = election(&store).await.enter("b").await.unwrap();
    first.resign().await.unwrap();
    assert_eq!(shown(&mut one).await, [some("a"), some("b")]);
    assert_eq!(shown(&mut late).await, [some("b")]);
    assert_eq!(shown(&mut other).await, [some("b")], "it was not polled before");
    next.withdraw().await.unwrap();
    for leaders in [&mut one, &mut other, &mut late] {
        assert_eq!(shown(leaders).await, [None]);
    }
}

/// trillian issue 1387: Go's `Observe` never says that there is none.
#[tokio::test(start_paused = true)]
async fn observer_yields_none_only_without_a_leader() {
    let store = Client::new(MemBackend::new());
    let mut leaders = first_observer(&store);
    let election = election(&store).await;
    for round in 0..3 {
        assert_eq!(shown(&mut leaders).await, [None], "round {round}");
        let first = election.campaign("a").await.unwrap();
        let next = election.enter("b").await.unwrap();
        first.resign().await.unwrap();
        assert_eq!(shown(&mut leaders).await, [some("a"), some("b")], "none in between");
        next.withdraw().await.unwrap();
    }
    let leadership = election.campaign("a").await.unwrap();
    election.session().close().await.unwrap();
    drop(leadership);
    assert_eq!(shown(&mut leaders).await, [None, some("a"), None]);
}

/// Go's `TestElectionObserveFreshResponsesOnProclaim`: each proclamation is shown, the same value
/// again included, with its version and revision.
#[tokio::test(start_paused = true)]
async fn observer_yields_each_proclamation_with_its_version() {
    let store = Client::new(MemBackend::new());
    let mut leaders = first_observer(&store);
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    let leadership = election(&store).await.campaign("same").await.unwrap();
    for _ in 0..2 {
        leadership.proclaim("same").await.unwrap();
    }
    let mut last = Revision::ZERO;
    for version in 1..=3 {
        let leader = leaders.next().await.unwrap().unwrap().unwrap();
        assert_eq!((leader.key_value().version, &leader.value()[..]), (version, &b"same"[..]));
        assert!(leader.key_value().mod_revision > last);
        assert_eq!(leader.fencing_token(), leadership.fencing_token());
        last = leader.key_value().mod_revision;
    }
}

/// Go's `TestElectionObserveCompacted`.
#[tokio::test(start_paused = true)]
async fn observer_yields_leader_older_than_the_compaction() {
    let store = Client::new(MemBackend::new());
    let _leadership = election(&store).await.campaign("a").await.unwrap();
    store.put("other", "1").await.unwrap();
    let revision = store.put("other", "2").await.unwrap().header.revision;
    store.compact(Compact::new(revision)).await.unwrap();
    assert_eq!(shown(&mut first_observer(&store)).await, [some("a")]);
}

#[tokio::test(start_paused = true)]
async fn observer_waits_while_store_is_unavailable() {
    for kind in ["range", "watch"] {
        let store = Client::new(MemBackend::new());
        let backend = behind(&store, nth(kind, 1, 6, Action::DropRequest));
        let mut leaders = Election::observer(&backend, "e").observe();
        let first = timeout(secs(60), leaders.next()).await.expect("it comes back");
        assert_eq!(first.unwrap().unwrap(), None, "{kind}");
        let _leadership = election(&store).await.campaign("a").await.unwrap();
        let next = timeout(secs(60), leaders.next()).await.expect("it comes back");
        assert_eq!(next.unwrap().unwrap().unwrap().value(), "a", "{kind}");
    }
}

/// The fault: asked once more after it had said that it ended, the stream panicked, for `unfold`
/// may not be polled then.
#[tokio::test(start_paused = true)]
async fn observer_ends_after_a_permanent_error() {
    for kind in ["range", "watch"] {
        let denied = Error::PermissionDenied { reason: "no reading here".to_owned() };
        let backend = behind(&Client::new(MemBackend::new()), only(kind, Action::Fail(denied)));
        let mut leaders = Election::observer(&backend, "e").observe();
        if kind == "watch" {
            assert_eq!(leaders.next().await.unwrap().unwrap(), None);
        }
        let error = leaders.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        for _ in 0..3 {
            assert!(leaders.next().await.is_none(), "ended, and stays so");
            assert!(StreamExt::next(&mut leaders).await.is_none(), "as a stream too");
        }
    }
}

/// The same when it is the watch that says so, after it was registered.
#[tokio::test(start_paused = true)]
async fn observer_ends_after_a_permanent_watch_error() {
    let store = Client::new(MemBackend::new());
    let denied = Error::PermissionDenied { reason: "not any more".to_owned() };
    let lives = move || (secs(1), Some(denied.clone()));
    let backend = Breaking { inner: store, lives, lag: 0.into() };
    let mut leaders = Election::observer(&Client::new(backend), "e").observe();
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    let error = leaders.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(leaders.next().await.is_none());
}

/// The fault: etcd's check for duplicate keys does not see a delete without end (issue 22445), so
/// that a transaction can put a key and delete it again. The observer believed the put: it showed a
/// leader that was not, or went on showing one that had gone.
#[tokio::test(start_paused = true)]
async fn key_put_and_deleted_in_one_revision_never_leads() {
    let store = Client::new(MemBackend::new());
    let both = |key: &str| {
        let ops: [Op; 2] =
            [Put::new(key, "ghost").into(), Delete::new(KeyRange::starting_at("e/")).into()];
        Txn::new().and_then(ops)
    };
    let mut leaders = first_observer(&store);
    assert_eq!(shown(&mut leaders).await, [None]);
    store.txn(both("e/ghost")).await.unwrap();
    assert_eq!(shown(&mut leaders).await, [], "nobody led before, nobody does now");

    let leadership = election(&store).await.campaign("a").await.unwrap();
    let key = leadership.key().escape_ascii().to_string();
    store.txn(both(&key)).await.unwrap();
    assert_eq!(shown(&mut leaders).await, [some("a"), None]);
    election(&store).await.campaign("b").await.unwrap().resign().await.unwrap();
    assert_eq!(shown(&mut leaders).await, [some("b"), None], "and it goes on");
}

/// Whoever is slow misses nothing that the store still knows.
#[tokio::test(start_paused = true)]
async fn slow_observer_misses_no_change() {
    let store = Client::new(MemBackend::new());
    let mut leaders = first_observer(&store);
    assert_eq!(shown(&mut leaders).await, [None]);
    let election = election(&store).await;
    let mut expected = Vec::new();
    for n in 0..30 {
        let leadership = election.campaign(format!("{n} in")).await.unwrap();
        for step in 0..100 {
            leadership.proclaim(format!("{n} {step}")).await.unwrap();
            expected.push(some(&format!("{n} {step}")));
        }
        expected.insert(expected.len() - 100, some(&format!("{n} in")));
        leadership.resign().await.unwrap();
        expected.push(None);
    }
    assert_eq!(shown(&mut leaders).await, expected);
}

/// A watch that is silent keeps an observer waiting, but its cost is known: nothing.
#[tokio::test(start_paused = true)]
async fn unpolled_observer_sends_no_request() {
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let rule = move |_: &Call| {
        *count.lock().unwrap() += 1;
        Action::Pass
    };
    let leaders = Election::observer(&behind(&Client::new(MemBackend::new()), rule), "e").observe();
    settle().await;
    drop(leaders);
    assert_eq!(*asked.lock().unwrap(), 0);
}

/// As the header of an answer of etcd's Election service.
#[tokio::test(start_paused = true)]
async fn leader_has_the_revision_of_its_response() {
    let store = Client::new(MemBackend::new());
    let election = election(&store).await;
    let first = election.campaign("first").await.unwrap();
    store.put("elsewhere", "").await.unwrap();
    let mut leaders = election.observe();
    let mut seen = async || {
        let leader = leaders.next().await.unwrap().unwrap().expect("somebody leads");
        (leader.header().revision, leader.key_value().mod_revision)
    };
    // That was there already.
    assert_eq!(seen().await, (Revision(3), Revision(2)));
    assert_eq!(election.leader().await.unwrap().unwrap().header().revision, Revision(3));
    // That came.
    first.proclaim("still first").await.unwrap();
    assert_eq!(seen().await, (Revision(4), Revision(4)));
    // That was next when the first resigned.
    let second = election.enter("second").await.unwrap();
    store.put("elsewhere", "").await.unwrap();
    first.resign().await.unwrap();
    assert_eq!(seen().await, (Revision(7), Revision(5)));
    drop(second);
}
