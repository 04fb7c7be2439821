//! The shard assignment: members join, leave and vanish; shards are revoked, drained and handed
//! over; typed errors, and requests.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as SyncMutex};
use std::task::Poll;
use std::time::Duration;

use coord_core::error::{Error, ErrorKind, LossReason, PrimitiveError};
use coord_core::kv::{FencingToken, Op, Put, Txn, WatchBatch};
use coord_core::recipes::shard_assignment::assign;
use coord_core::recipes::{
    Membership, Shard, ShardAssignment, ShardAssignmentError, ShardMember, ShardOwners,
};
use coord_core::{Client, Mutex, Session, sync};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule};
use futures_util::FutureExt as _;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{intercepted, is_keep_alive, keys, only, secs, session, session_on, settle};

/// The number of shards of most tests.
const SHARDS: usize = 12;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

fn shards_on(session: &Session) -> ShardAssignment {
    ShardAssignment::new(session, "s", names(SHARDS)).unwrap()
}

/// A member that keeps the guards of its shards, and drops them when they are revoked or lost.
struct Owner {
    session: Session,
    owned: Arc<SyncMutex<BTreeMap<String, FencingToken>>>,
    _task: JoinSet<()>,
}

impl Owner {
    async fn join(session: Session, name: &str) -> Self {
        Self::of(shards_on(&session).join(name.to_owned()).await.unwrap())
    }

    fn of(mut member: ShardMember) -> Self {
        let owned = Arc::default();
        let (session, shared) = (member.session().clone(), Arc::clone(&owned));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut working = JoinSet::new();
            while let Ok(shard) = member.next().await {
                working.spawn(own(shard, Arc::clone(&shared)));
            }
            working.join_all().await;
        });
        Self { session, owned, _task: task }
    }

    /// The names of the owned shards, in order.
    fn owned(&self) -> Vec<String> {
        sync::lock(&self.owned).keys().cloned().collect()
    }
}

async fn own(shard: Shard, owned: Arc<SyncMutex<BTreeMap<String, FencingToken>>>) {
    let name = shard.name().escape_ascii().to_string();
    sync::lock(&owned).insert(name.clone(), shard.fencing_token());
    tokio::select! {
        biased;
        _ = shard.lost() => {}
        () = shard.revoked() => {}
    }
    sync::lock(&owned).remove(&name);
}

/// The shards that the function assigns to each of these members.
fn expected(members: &[&str]) -> Vec<Vec<String>> {
    let mut shards = names(SHARDS);
    shards.sort();
    let assigned = assign(members, &shards);
    let of = |member| {
        let pairs = shards.iter().zip(&assigned).filter(|(_, owner)| **owner == member);
        pairs.map(|(shard, _)| shard.clone()).collect()
    };
    (0..members.len()).map(of).collect()
}

#[tokio::test(start_paused = true)]
async fn shards_are_spread_over_the_members_that_are_present() {
    let store = Client::new(MemBackend::new());
    let first = Owner::join(session(&store).await, "a").await;
    settle().await;
    assert_eq!(first.owned().len(), SHARDS, "alone it owns all");
    let second = Owner::join(session(&store).await, "b").await;
    let third = Owner::join(session(&store).await, "c").await;
    settle().await;
    assert_eq!([first.owned(), second.owned(), third.owned()], *expected(&["a", "b", "c"]));
    second.session.close().await.unwrap();
    settle().await;
    assert_eq!([first.owned(), third.owned()], *expected(&["a", "c"]));
    assert_eq!(second.owned(), [""; 0]);
}

/// Only the shards that move are revoked: the others keep their guards, and their tokens.
#[tokio::test(start_paused = true)]
async fn shards_that_do_not_move_keep_their_token() {
    let store = Client::new(MemBackend::new());
    let first = Owner::join(session(&store).await, "a").await;
    settle().await;
    let before = sync::lock(&first.owned).clone();
    let second = Owner::join(session(&store).await, "b").await;
    settle().await;
    for (shard, token) in &*sync::lock(&first.owned) {
        assert_eq!(before.get(shard), Some(token), "{shard}");
    }
    for (shard, token) in &*sync::lock(&second.owned) {
        assert!(*token > before[shard], "{shard}");
    }
    let moved = SHARDS - first.owned().len();
    assert_eq!(moved, second.owned().len());
    assert!(moved <= 8, "5/4 of the mean at most");
}

#[tokio::test(start_paused = true)]
async fn shard_is_handed_over_when_its_guard_is_dropped() {
    let store = Client::new(MemBackend::new());
    let one = ["one"];
    let on = |session: &Session| ShardAssignment::new(session, "s", one).unwrap();
    // Of these two, `first` is the first choice for the shard.
    let (second, first) = if assign(&["a", "b"], &one) == [1] { ("a", "b") } else { ("b", "a") };
    let mut member = on(&session(&store).await).join(second).await.unwrap();
    let shard = member.next().await.unwrap();
    let mut other = on(&session(&store).await).join(first).await.unwrap();
    timeout(secs(1), shard.revoked()).await.expect("revoked at once");
    assert!(shard.is_revoked());
    assert!(timeout(secs(3600), other.next()).await.is_err(), "an hour of draining");
    shard.txn(Txn::new().and_then([Put::new("drained", "1")])).await.unwrap();
    let token = shard.fencing_token();
    shard.release().await.unwrap();
    let moved = timeout(secs(1), other.next()).await.expect("at once").unwrap();
    assert!(moved.fencing_token() > token);
    assert_eq!(moved.name(), "one");

    // The first choice leaves, and its guard is still valid until it is dropped.
    other.leave().await.unwrap();
    assert!(moved.is_revoked());
    moved.txn(Txn::new()).await.unwrap();
    assert!(timeout(secs(60), member.next()).await.is_err());
    drop(moved);
    drop(timeout(secs(1), member.next()).await.expect("at once").unwrap());
}

/// The lease of a member whose keep-alives hang ends after the member was notified, also if the
/// store counts time faster.
#[tokio::test(start_paused = true)]
async fn partitioned_member_stops_before_its_shards_move() {
    for clock_rate in [1.0, 1.05] {
        let store = Client::new(MemBackend::builder().lease_clock_rate(clock_rate).build());
        let cut_off = intercepted(&store, only("lease_keep_alive", Action::Hang));
        let mut member = shards_on(&session_on(cut_off).await).join("a").await.unwrap();
        let mut guards = Vec::new();
        while guards.len() < SHARDS {
            guards.push(member.next().await.unwrap());
        }
        let next = Owner::join(session(&store).await, "b").await;
        let shard = guards.iter().find(|guard| !guard.is_revoked()).expect("some stay");
        let (reason, lost_at) = (shard.lost().await, Instant::now());
        assert_eq!(reason, LossReason::DeadlineUnconfirmed);
        assert_eq!(next.owned(), [""; 0], "the guards of revoked shards exist too");
        assert_eq!(member.next().await.unwrap_err().loss(), Some(reason));
        assert!(guards.iter().all(Shard::is_revoked));
        sleep(secs(2)).await;
        assert_eq!(next.owned().len(), SHARDS, "within the TTL: {:?}", lost_at.elapsed());
    }
}

/// A rule under which nothing is delivered until a second watch is registered.
#[derive(Default)]
struct FirstWatchSilent(AtomicUsize);

impl Rule for FirstWatchSilent {
    fn action(&self, call: &Call) -> Action {
        if matches!(call, Call::Watch(_)) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Action::Pass
    }

    fn delivers(&self, _: &WatchBatch) -> bool {
        self.0.load(Ordering::Relaxed) >= 2
    }
}

/// The members are read once in a TTL, and the watch is replaced 5 s later.
#[tokio::test(start_paused = true)]
async fn member_with_silent_watch_hands_over_after_a_ttl() {
    let store = Client::new(MemBackend::new());
    let silent = session_on(intercepted(&store, FirstWatchSilent::default())).await;
    let ttl = silent.ttl();
    let mut member = shards_on(&silent).join("a").await.unwrap();
    let mut guards = Vec::new();
    while guards.len() < SHARDS {
        guards.push(member.next().await.unwrap());
    }
    let _other = Owner::join(session(&store).await, "b").await;
    let moves = &expected(&["a", "b"])[1][0];
    let moving = guards.iter().find(|guard| guard.name() == moves).expect("owned by a");
    let within = ttl + secs(6);
    timeout(within, moving.revoked()).await.expect("the watch is replaced");
}

/// A member that starts again at once has its shards back, although its former lease lives.
#[tokio::test(start_paused = true)]
async fn member_that_starts_again_moves_no_shard_of_others() {
    let store = Client::new(MemBackend::new());
    let first = Owner::join(session(&store).await, "a").await;
    let crashing = intercepted(&store, only("lease_keep_alive", Action::Hang));
    let crashed = Owner::join(session_on(crashing).await, "b").await;
    settle().await;
    let before = sync::lock(&first.owned).clone();
    sleep(secs(1)).await;
    let again = Owner::join(session(&store).await, "b").await;
    settle().await;
    assert_eq!(crashed.owned(), [""; 0], "revoked, because a later member has its name");
    assert_eq!(again.owned().len(), SHARDS - before.len());
    sleep(secs(20)).await;
    assert_eq!(*sync::lock(&first.owned), before, "none has moved");
}

#[tokio::test(start_paused = true)]
async fn released_shard_is_acquired_again_while_it_is_assigned() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let shards = ShardAssignment::new(&session, "s", ["one"]).unwrap();
    let mut member = shards.join("a").await.unwrap();
    let first = member.next().await.unwrap();
    let token = first.fencing_token();
    first.release().await.unwrap();
    let second = member.next().await.unwrap();
    assert!(second.fencing_token() > token && !second.is_revoked());
    store.delete(second.key()).await.unwrap();
    assert_eq!(second.lost().await, LossReason::KeyDeleted);
    drop(second);
    drop(timeout(secs(5), member.next()).await.expect("again").unwrap());
}

/// A shard that no task has taken over from `next` is revoked all the same.
#[tokio::test(start_paused = true)]
async fn shards_that_next_has_not_returned_are_handed_over() {
    let store = Client::new(MemBackend::new());
    let mut busy = shards_on(&session(&store).await).join("a").await.unwrap();
    settle().await;
    let other = Owner::join(session(&store).await, "b").await;
    settle().await;
    assert_eq!(other.owned(), expected(&["a", "b"])[1]);
    let mut left = 0;
    while let Ok(shard) = timeout(secs(1), busy.next()).await {
        assert!(!shard.unwrap().is_revoked());
        left += 1;
        if left > SHARDS {
            break;
        }
    }
    assert!(left > 0, "the shards that stay are returned");
}

/// Regression: `next` returned shards that were revoked before their tasks had removed them.
#[tokio::test(start_paused = true)]
async fn next_returns_no_revoked_shard() {
    let store = Client::new(MemBackend::new());
    let mut member = shards_on(&session(&store).await).join("a").await.unwrap();
    let moves = expected(&["a", "b"]).remove(1);
    let mut guards = Vec::new();
    while guards.last().is_none_or(|shard: &Shard| *shard.name() != moves[0]) {
        guards.push(member.next().await.unwrap());
    }
    settle().await;
    let mut returning = JoinSet::new();
    returning.spawn(async move {
        let first = guards.pop().unwrap();
        // Always polled next, so it sees the revocation before the tasks of the shards.
        let mut polls = 0;
        let revoked = poll_fn(|context| {
            polls += 1;
            context.waker().wake_by_ref();
            if first.is_revoked() || polls > 10_000 { Poll::Ready(()) } else { Poll::Pending }
        });
        revoked.await;
        assert!(first.is_revoked());
        let mut returned = Vec::new();
        while let Some(shard) = member.next().now_or_never() {
            returned.push(shard.unwrap());
        }
        assert!(!returned.iter().any(Shard::is_revoked));
        guards.len() + returned.len()
    });
    let _other = shards_on(&session(&store).await).join("b").await.unwrap();
    let stay = timeout(secs(1), returning.join_next()).await.expect("revoked at once");
    let stay = stay.expect("one task").unwrap();
    assert_eq!(stay, SHARDS - moves.len());
}

/// Whether a call puts a key, as an enqueue does.
fn is_enqueue(call: &Call) -> bool {
    matches!(call, Call::Txn(txn) if txn.success.iter().any(|op| matches!(op, Op::Put(_))))
}

/// Regression: the guards were not revoked, and the key of the member stayed.
#[tokio::test(start_paused = true)]
async fn member_whose_enqueue_is_refused_hands_all_shards_over() {
    let store = Client::new(MemBackend::new());
    let is_refused = Arc::new(AtomicBool::new(false));
    let refuses = Arc::clone(&is_refused);
    let rule = move |call: &Call| {
        if refuses.load(Ordering::Relaxed) && is_enqueue(call) {
            Action::Fail(Error::PermissionDenied { reason: "no".to_owned() })
        } else {
            Action::Pass
        }
    };
    let session_of_first = session_on(intercepted(&store, rule)).await;
    let mut member = shards_on(&session_of_first).join("a").await.unwrap();
    let mut guards = Vec::new();
    while guards.len() < SHARDS {
        guards.push(member.next().await.unwrap());
    }
    is_refused.store(true, Ordering::Relaxed);
    guards.pop().unwrap().release().await.unwrap();
    settle().await;
    assert!(guards.iter().all(Shard::is_revoked));
    let error = member.next().await.unwrap_err();
    assert!(
        matches!(&error, PrimitiveError::Backend(e) if e.kind() == ErrorKind::PermissionDenied)
    );
    drop(guards);
    let other = Owner::join(session(&store).await, "b").await;
    settle().await;
    assert_eq!(other.owned().len(), SHARDS);
    member.leave().await.unwrap();
}

/// Regression: `next` waited for its tasks alone, which were dropped with the runtime.
#[test]
fn member_ends_when_the_runtime_of_its_session_shuts_down() {
    let runtime =
        || Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (session_runtime, member_runtime) = (runtime(), runtime());
    let (mut member, shard) = session_runtime.block_on(async {
        let store = Client::new(MemBackend::new());
        let mut member = shards_on(&session(&store).await).join("a").await.unwrap();
        let shard = member.next().await.unwrap();
        settle().await;
        (member, shard)
    });
    let waiter = member_runtime.spawn(async move {
        let error = loop {
            match member.next().await {
                Ok(shard) => drop(shard),
                Err(error) => break error,
            }
        };
        shard.revoked().await;
        error
    });
    member_runtime.block_on(settle());
    drop(session_runtime);
    let ended = member_runtime.block_on(async { timeout(secs(60), waiter).await });
    assert_eq!(ended.expect("next returns").unwrap().loss(), Some(LossReason::Expired));
}

/// Regression: the task of the shard enqueued once more before it noticed the revocation.
#[tokio::test(start_paused = true)]
async fn member_dropped_with_its_shard_enqueues_no_more() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let session = session_on(intercepted(&store, recorder.clone())).await;
    let shards = ShardAssignment::new(&session, "s", ["one"]).unwrap();
    let mut member = shards.join("a").await.unwrap();
    let shard = member.next().await.unwrap();
    assert!(recorder.take().0.iter().any(is_enqueue));
    drop((member, shard));
    settle().await;
    assert!(!recorder.take().0.iter().any(is_enqueue));
    assert_eq!(keys(&store, "s/").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn deleted_key_of_a_member_ends_it() {
    let store = Client::new(MemBackend::new());
    let mut member = shards_on(&session(&store).await).join("a").await.unwrap();
    let shard = member.next().await.unwrap();
    store.delete(member.key()).await.unwrap();
    timeout(secs(1), shard.revoked()).await.expect("at once");
    drop(shard);
    loop {
        match member.next().await {
            Ok(shard) => drop(shard),
            Err(error) => {
                assert_eq!(error.loss(), Some(LossReason::KeyDeleted));
                break;
            }
        }
    }
    settle().await;
    assert_eq!(keys(&store, "s/").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn dropped_member_leaves_no_key() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let member = shards_on(&session).join("a").await.unwrap();
    settle().await;
    assert_eq!(keys(&store, "s/shards/").await.len(), SHARDS);
    drop(member);
    settle().await;
    assert_eq!(keys(&store, "s/").await, [""; 0]);
}

/// During a deployment that adds shards, members with both lists are present.
#[tokio::test(start_paused = true)]
async fn lists_that_differ_leave_no_shard_without_an_owner() {
    let store = Client::new(MemBackend::new());
    let old = Owner::join(session(&store).await, "a").await;
    settle().await;
    let more = ShardAssignment::new(&session(&store).await, "s", names(SHARDS + 4)).unwrap();
    let new = Owner::of(more.join("b").await.unwrap());
    settle().await;
    assert_eq!((old.owned().len(), new.owned().len()), (SHARDS, 4));
    old.session.close().await.unwrap();
    settle().await;
    assert_eq!(new.owned().len(), SHARDS + 4);
}

#[tokio::test(start_paused = true)]
async fn owners_follow_the_moves_of_shards() {
    let store = Client::new(MemBackend::new());
    let mut owners = ShardOwners::open(&store, "s").await.unwrap();
    assert_eq!(owners.all(), []);
    let first = Owner::join(session(&store).await, "a").await;
    let second = Owner::join(session(&store).await, "b").await;
    while timeout(secs(1), owners.changed()).await.is_ok() {}
    let all = owners.all();
    assert_eq!(all.len(), SHARDS);
    for (shard, owner) in all {
        let held = if owner.member == "a" { &first } else { &second };
        let name = shard.escape_ascii().to_string();
        assert_eq!(sync::lock(&held.owned).get(&name), Some(&owner.fencing_token), "{name}");
        assert_eq!(owners.owner(&shard), Some(owner));
    }
    assert!(owners.owner("1/").is_none() && owners.owner("").is_none());
    first.session.close().await.unwrap();
    while timeout(secs(1), owners.changed()).await.is_ok() {}
    assert!(owners.all().iter().all(|(_, owner)| owner.member == "b"));
}

/// Regression: the first contender behind a foreign key was the owner.
#[tokio::test(start_paused = true)]
async fn waiter_behind_a_foreign_key_is_no_owner() {
    let store = Client::new(MemBackend::new());
    store.put("s/shards/1/config", "foreign").await.unwrap();
    store.put("s/shards/2/x/y", "of a child name").await.unwrap();
    let member = Owner::join(session(&store).await, "a").await;
    settle().await;
    let owners = ShardOwners::open(&store, "s").await.unwrap();
    assert_eq!(member.owned().len(), SHARDS - 1);
    assert_eq!(owners.owner("1"), None);
    let all: Vec<_> = owners.all().into_iter().map(|(shard, _)| shard).collect();
    assert_eq!(all, member.owned());
    assert!(owners.owner("2").is_some() && owners.owner("2/x").is_none());
}

/// Regression: the owners were in the order of the keys, in which `1-a/` precedes `1/`.
#[tokio::test(start_paused = true)]
async fn owners_are_in_the_order_of_the_shards() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let shards = ShardAssignment::new(&session, "s", ["1", "1-a", "2"]).unwrap();
    let _member = shards.join("a").await.unwrap();
    settle().await;
    let owners = ShardOwners::open(&store, "s").await.unwrap().all();
    let names: Vec<_> = owners.into_iter().map(|(shard, _)| shard).collect();
    assert_eq!(names, shards.shards());
}

/// Regression: the keys of the members were in the range of the group's keys.
#[tokio::test(start_paused = true)]
async fn group_of_the_same_name_has_no_shard_members() {
    let store = Client::new(MemBackend::new());
    let _member = shards_on(&session(&store).await).join("a").await.unwrap();
    let group = Membership::<String>::new(&store, "s").members().await.unwrap();
    assert_eq!(group.list(), []);
}

#[tokio::test(start_paused = true)]
async fn operator_sees_a_shard_as_a_lock() {
    let store = Client::new(MemBackend::new());
    let owner = Owner::join(session(&store).await, "a").await;
    settle().await;
    let lock = Mutex::new(&session(&store).await, "s/shards/3");
    assert!(lock.try_lock().await.unwrap().is_none());
    owner.session.close().await.unwrap();
    assert!(lock.try_lock().await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn invalid_shards_are_refused_before_sending() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let session = session_on(intercepted(&store, recorder.clone())).await;
    recorder.take();
    let error = |names: &[&'static str]| {
        ShardAssignment::new(&session, "s", names.iter().copied()).unwrap_err()
    };
    assert!(matches!(error(&[]), ShardAssignmentError::NoShards));
    for name in ["", "a/b"] {
        let error = error(&["x", name]);
        assert!(matches!(&error, ShardAssignmentError::InvalidShard { name: n } if n == name));
        assert!(error.to_string().contains("must have no slash"), "{error}");
    }
    let twice = error(&["x", "y", "x"]);
    assert!(matches!(&twice, ShardAssignmentError::DuplicateShard { name } if name == "x"));
    let no_member = shards_on(&session).join("").await.unwrap_err();
    assert!(matches!(no_member, ShardAssignmentError::NoMember) && !no_member.is_retryable());
    assert_eq!(recorder.take().names(), "");
}

#[tokio::test(start_paused = true)]
async fn join_fails_on_a_lost_session() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    session.close().await.unwrap();
    let error = shards_on(&session).join("a").await.unwrap_err();
    assert_eq!(error.loss(), Some(LossReason::Closed));
    assert!(matches!(error, ShardAssignmentError::Primitive(PrimitiveError::Lost(_))));
}

/// A session whose requests are recorded, without keep-alives.
async fn recorded(store: &Client, recorder: &Recorder) -> Session {
    let recording = recorder.clone();
    let rule = move |call: &Call| {
        if !is_keep_alive(call) {
            recording.action(call);
        }
        Action::Pass
    };
    session_on(intercepted(store, rule)).await
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_member_grow_with_the_moves_only() {
    let store = Client::new(MemBackend::new());
    let (of_first, of_second) = (Recorder::new(), Recorder::new());
    let (first, second) = (recorded(&store, &of_first).await, recorded(&store, &of_second).await);
    of_first.take();
    of_second.take();
    let mut member = shards_on(&first).join("a").await.unwrap();
    assert_eq!(of_first.take().names(), "txn range watch");
    let mut guards = Vec::new();
    while guards.len() < SHARDS {
        guards.push(member.next().await.unwrap());
    }
    settle().await;
    let calls = of_first.take();
    assert_eq!((calls.count("txn"), calls.count("watch"), calls.count("range")), (SHARDS, 0, 0));

    let _other = shards_on(&second).join("b").await.unwrap();
    settle().await;
    guards.retain(|guard| !guard.is_revoked());
    settle().await;
    let moved = SHARDS - guards.len();
    assert_eq!(of_first.take().names(), "txn ".repeat(moved).trim_end(), "one for each move");
    let calls = of_second.take();
    let (enqueues, requests) = (1 + moved, calls.count("txn") + calls.count("range") - 1);
    assert!((enqueues + moved..=enqueues + 2 * moved).contains(&requests), "{}", calls.names());
    // The members, and for each shard its predecessor and, while it waits, the own key.
    assert!(calls.count("watch") <= 1 + 2 * moved, "{}", calls.names());
    sleep(Duration::from_secs(9)).await;
    assert_eq!((of_first.take().count("txn"), of_second.take().count("txn")), (0, 0));
}
