//! Randomized fault test of an observer: it yields exactly the leaders that the oracle computes,
//! except that compacted ones may be missing.
//!
//! Keys of the election are put and deleted in random order, while the observer's reads fail and
//! its watches break.

use std::sync::Mutex;
use std::time::Duration;

use coord_core::{
    Client, Election, Error, Result,
    election::Leaders,
    error::Outcome,
    kv::{Compact, Delete, KeyRange, KeyValue, LeaseGrant, LeaseId, Op, Put, Range, Revision, Txn},
};
use coord_mem::MemBackend;
use coord_testkit::Action;
use proptest::prelude::*;
use tokio::time::{sleep, timeout};

use super::oracle::Oracle;
use crate::support::{intercepted, newest_revision, on_virtual_time, scripted, secs};
use crate::watch_faults::{UNLIMITED_LIFETIME, WatchFaults, WatchLifetime};

/// One step of a run: a change of the store, or time that passes.
#[derive(Clone, Debug)]
enum ObserveStep {
    /// Creates a key or changes its value, on one of two leases or none.
    Put { key: u8, value: u8, lease: usize },
    /// Puts keys in one revision.
    PutMany(Vec<u8>),
    /// Deletes keys in one revision.
    Delete(Vec<u8>),
    /// Puts a key and deletes all keys from another on, in one revision, in either order.
    PutAndDeleteFrom { put: u8, from: u8, put_first: bool },
    /// Revokes one of the two leases.
    RevokeLease(usize),
    /// Puts or deletes keys of two other elections: a child name, and a name that begins the same.
    ChangeOtherElections { key: u8, put: bool },
    /// Compacts history up to now.
    Compact,
    /// Takes that many items from the observer, if it yields them.
    Take(u8),
    /// Lets milliseconds pass.
    Sleep(u64),
}

fn observe_step() -> impl Strategy<Value = ObserveStep> {
    let key = || 0..5_u8;
    let keys = || prop::collection::vec(key(), 1..4);
    prop_oneof![
        6 => (key(), any::<u8>(), 0..3_usize)
            .prop_map(|(key, value, lease)| ObserveStep::Put { key, value, lease }),
        2 => keys().prop_map(ObserveStep::PutMany),
        4 => keys().prop_map(ObserveStep::Delete),
        1 => (key(), key(), any::<bool>()).prop_map(|(put, from, put_first)| {
            ObserveStep::PutAndDeleteFrom { put, from, put_first }
        }),
        2 => (0..2_usize).prop_map(ObserveStep::RevokeLease),
        2 => (key(), any::<bool>())
            .prop_map(|(key, put)| ObserveStep::ChangeOtherElections { key, put }),
        1 => Just(ObserveStep::Compact),
        4 => (1..4_u8).prop_map(ObserveStep::Take),
        2 => (1..3_000_u64).prop_map(ObserveStep::Sleep),
    ]
}

/// An action for a read. None of them hangs: the observer would only retry the read, after 10 s.
fn read_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => Just(Action::Pass),
        2 => Just(Action::Yield),
        2 => (1..2_000_u64).prop_map(|ms| Action::Delay(Duration::from_millis(ms))),
        1 => Just(Action::DropRequest),
        1 => Just(Action::DropResponse),
    ]
}

/// The lifetimes of the first watches, each of which ends with an error or without.
fn watch_lifetimes() -> impl Strategy<Value = Vec<WatchLifetime>> {
    let lifetime = (0..3_000_u64, any::<bool>()).prop_map(|(ms, with_error)| {
        let error = Error::Unavailable {
            outcome: Outcome::NotApplied,
            reason: "broken".to_owned(),
            source: None,
        };
        (Duration::from_millis(ms), with_error.then_some(error))
    });
    prop::collection::vec(lifetime, 0..12)
}

/// The leaders, in order; `None` while there is no leader.
type LeaderChanges = Vec<Option<KeyValue>>;

/// The store, an observer behind faults, and the oracle.
struct ObserverRun {
    store: Client,
    oracle: Oracle,
    leases: [Option<LeaseId>; 2],
    leaders: Leaders,
    yielded: LeaderChanges,
}

impl ObserverRun {
    async fn new(actions: Vec<Action>, lifetimes: Vec<WatchLifetime>) -> Result<Self> {
        let store = Client::new(MemBackend::new());
        let oracle = Oracle::new(&store).await?;
        // The first read passes, so that it is known at which revision the stream starts.
        let actions = [vec![Action::Pass], actions].concat();
        let lifetimes = Mutex::new(lifetimes.into_iter());
        let next_lifetime = move || {
            let mut lifetimes = lifetimes.lock().expect("the lock is not poisoned");
            lifetimes.next().unwrap_or(UNLIMITED_LIFETIME)
        };
        let faulty = WatchFaults::new(intercepted(&store, scripted(actions)), next_lifetime);
        let leaders = Election::observer(&Client::new(faulty), "e").observe();
        let mut run = Self { store, oracle, leases: [None; 2], leaders, yielded: Vec::new() };
        assert!(run.take(secs(1)).await, "the first item is the current leader");
        Ok(run)
    }

    /// Runs the steps and takes all items. Returns what the observer yielded, and what the oracle
    /// expects.
    async fn run(
        steps: Vec<ObserveStep>,
        actions: Vec<Action>,
        lifetimes: Vec<WatchLifetime>,
    ) -> Result<(LeaderChanges, LeaderChanges)> {
        let mut run = Self::new(actions, lifetimes).await?;
        for step in steps {
            run.step(step).await?;
        }
        while run.take(secs(60)).await {}
        Ok((run.yielded, run.oracle.changes(Revision(1))))
    }

    /// Takes an item, if the observer yields one in time.
    async fn take(&mut self, within: Duration) -> bool {
        let Ok(item) = timeout(within, self.leaders.next()).await else { return false };
        let leader = item.expect("the stream does not end").expect("reads are retried");
        self.yielded.push(leader.map(|leader| leader.key_value().clone()));
        true
    }

    async fn step(&mut self, step: ObserveStep) -> Result<()> {
        let name = |key: u8| format!("e/{key}");
        match step {
            ObserveStep::Put { key, value, lease } => {
                let lease = self.lease(lease).await?;
                apply(&self.store, [Put::new(name(key), vec![value]).lease(lease).into()]).await?;
            }
            ObserveStep::PutMany(keys) => {
                let puts = distinct(keys).into_iter().map(|key| Put::new(name(key), "many").into());
                apply(&self.store, puts).await?;
            }
            ObserveStep::Delete(keys) => {
                let deletes = distinct(keys).into_iter().map(|key| Delete::new(name(key)).into());
                apply(&self.store, deletes).await?;
            }
            ObserveStep::PutAndDeleteFrom { put, from, put_first } => {
                let put: Op = Put::new(name(put), "put").into();
                let delete: Op = Delete::new(KeyRange::starting_at(name(from))).into();
                apply(&self.store, if put_first { [put, delete] } else { [delete, put] }).await?;
            }
            ObserveStep::RevokeLease(n) => {
                if let Some(lease) = self.leases[n].take() {
                    self.store.lease_revoke(lease).await?;
                }
            }
            ObserveStep::ChangeOtherElections { key, put } => {
                for other in [format!("e/{key}/x"), format!("e{key}/x")] {
                    let op: Op =
                        if put { Put::new(other, "").into() } else { Delete::new(other).into() };
                    apply(&self.store, [op]).await?;
                }
            }
            ObserveStep::Compact => {
                let now = newest_revision(&self.store).await;
                // Fails if nothing was written since the last compaction.
                let _ = self.store.compact(Compact::new(now)).await;
            }
            ObserveStep::Take(n) => {
                for _ in 0..n {
                    self.take(Duration::from_millis(100)).await;
                }
            }
            ObserveStep::Sleep(ms) => sleep(Duration::from_millis(ms)).await,
        }
        self.oracle.catch_up();
        Ok(())
    }

    /// The lease with index `n`, which is granted if it does not exist. `None` beyond the last
    /// index.
    async fn lease(&mut self, n: usize) -> Result<Option<LeaseId>> {
        let Some(lease) = self.leases.get_mut(n) else { return Ok(None) };
        if lease.is_none() {
            *lease = Some(self.store.lease_grant(LeaseGrant::new(secs(1_000_000))).await?.id);
        }
        Ok(*lease)
    }
}

/// Applies changes in one revision.
async fn apply(store: &Client, ops: impl IntoIterator<Item = Op> + Send) -> Result<()> {
    store.txn(Txn::new().and_then(ops)).await.map(drop)
}

fn distinct(mut keys: Vec<u8>) -> Vec<u8> {
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn is_subsequence<T: PartialEq>(part: &[T], of: &[T]) -> bool {
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
        steps in prop::collection::vec(observe_step(), 0..60),
        actions in prop::collection::vec(read_action(), 0..20),
        lifetimes in watch_lifetimes(),
    ) {
        let is_not_compact = |step: &ObserveStep| !matches!(step, ObserveStep::Compact);
        let steps = steps.into_iter().filter(is_not_compact).collect();
        let run = ObserverRun::run(steps, actions, lifetimes);
        let (yielded, expected) = on_virtual_time(run).expect("the store is available");
        assert_eq!(yielded, expected);
    }

    /// Compacted changes may be missing. No phantom leader is yielded, and the last leader is
    /// correct.
    #[test]
    fn observer_across_compaction_yields_no_phantom_leader(
        steps in prop::collection::vec(observe_step(), 0..60),
        actions in prop::collection::vec(read_action(), 0..20),
        lifetimes in watch_lifetimes(),
    ) {
        let run = ObserverRun::run(steps, actions, lifetimes);
        let (yielded, expected) = on_virtual_time(run).expect("the store is available");
        assert!(
            is_subsequence(&yielded, &expected),
            "{yielded:#?}\nis not part of\n{expected:#?}"
        );
        assert_eq!(yielded.last(), expected.last());
    }
}

/// The randomized tests compare with the oracle, so the oracle is compared with reads.
#[tokio::test(start_paused = true)]
async fn oracle_matches_historic_reads() {
    let store = Client::new(MemBackend::new());
    let mut oracle = Oracle::new(&store).await.unwrap();
    for key in ["e/b", "e/a", "e/b/c", "e/b", "e2/a"] {
        store.put(key, key).await.unwrap();
    }
    for key in ["e/b", "e/a", "e/b/c"] {
        store.delete(key).await.unwrap();
    }
    oracle.catch_up();
    for revision in 1..=9 {
        let read = store.range(Range::prefix("e/").at(Revision(revision))).await.unwrap();
        let contenders = read.kvs.iter().filter(|kv| kv.key != "e/b/c");
        let leader = contenders.min_by_key(|kv| kv.create_revision);
        assert_eq!(oracle.leader_at(Revision(revision)), leader, "at revision {revision}");
    }
}
