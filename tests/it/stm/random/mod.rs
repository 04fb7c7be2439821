//! Random programs under random schedules and faults, each judged against the history of the store.
//!
//! Some tasks run transactions whose steps proptest chose; what becomes of each request is chosen
//! as well, and so is when the store is compacted, and where another client writes between two
//! steps. An attempt may take another path than the attempt before. A watch tells the store's state
//! at each revision, so nothing has to be searched to judge a transaction: its program is
//! *replayed* on the state just before its commit, or on the state that its info names if it
//! wrote nothing, and must see what it saw.
//!
//! Each attempt, committed or not, must have seen one of those states, and none that was over
//! before its transaction began. Each transaction that writes also puts a tag, which tells who made
//! which revision.

mod judge;
mod program;

use coord_mem::MemBackend;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use coord_core::{
    Client, Error, Stm,
    error::Outcome,
    kv::{Compact, Delete, EventKind, KeyRange, Op, Put, Revision, Txn, Watch},
    stm::Isolation,
};
use coord_testkit::Action;
use futures_util::future::join_all;
use proptest::prelude::*;
use tokio::task::yield_now;
use tokio::time::sleep;

use judge::{Attempt, Ran, judge_attempts, judge_commit, judge_outcome};
use program::{State, Step, asks, key, take, writes};

use super::{LEVELS, STRONG_LEVELS, client_with_timeout, put_all};
use crate::support::{any_fate, cases, newest, on_virtual_time, scripted, secs, session};

/// What one task does: a level, the transactions in turn, and whether answers that are lost matter.
///
/// A transaction is a list of paths: its first attempt takes the first, the second the next, and
/// all that follow the last.
#[derive(Clone, Debug)]
struct Task {
    level: Isolation,
    programs: Vec<Vec<Vec<Step>>>,
    exactly_once: bool,
    prefetch: Vec<u8>,
    actions: Vec<Action>,
}

/// The last attempt of a transaction between whose steps another client writes, counted from 0.
const DISTURBED: usize = 3;

async fn work(store: &Client, kv: Client, name: usize, task: Task, told: &AtomicI64) -> Vec<Ran> {
    let session = session(store).await;
    let mut stm = Stm::new(&kv).isolation(task.level).prefetch(task.prefetch.into_iter().map(key));
    if task.exactly_once {
        stm = stm.exactly_once(&session);
    }
    let mut all = Vec::new();
    for (i, paths) in task.programs.into_iter().enumerate() {
        let known = Revision(told.load(Ordering::Relaxed));
        let (mut attempts, mut after_first) = (Vec::<Attempt>::new(), None);
        let run = stm.run(async |tx| {
            let nth = attempts.len();
            let tag = format!("{name}.{i}.{nth}");
            let path = paths.get(nth).or(paths.last());
            let program = path.unwrap().clone();
            attempts.push(Attempt { program, tag: tag.clone(), seen: Vec::new() });
            let attempt = attempts.last_mut().unwrap();
            let (program, seen) = (&attempt.program, &mut attempt.seen);
            after_first = None;
            for (j, step) in program.iter().enumerate() {
                match step {
                    Step::Yield => yield_now().await,
                    Step::Pause(ms) => sleep(Duration::from_millis((*ms).into())).await,
                    // A client that never stops would make the transaction conflict forever.
                    Step::Other(_) if nth > DISTURBED => {}
                    Step::Other(keys) => {
                        let revision = write_as_another_client(store, keys, &tag, j).await;
                        told.fetch_max(revision.0, Ordering::Relaxed);
                    }
                    Step::GiveUp => return Err(Error::EmptyKey),
                    Step::Compact => {
                        // Refused if somebody was faster.
                        let _ = store.compact(Compact::new(newest(store).await)).await;
                    }
                    step => {
                        let saw = take(step, tx, format!("{tag}.{j}")).await?;
                        if asks(step, &program[..j]) && after_first.is_none() {
                            after_first = Some(newest(store).await);
                        }
                        seen.extend(saw);
                    }
                }
            }
            if writes(program) {
                tx.put(format!("tag/{name}"), tag);
            }
            Ok(())
        });
        let outcome = run.await.map(|committed| committed.info);
        if let Ok(info) = &outcome {
            told.fetch_max(info.revision.0, Ordering::Relaxed);
        }
        all.push(Ran { level: task.level, attempts, known, after_first, outcome });
    }
    all
}

/// Puts or deletes keys between two steps of an attempt, and returns the revision.
async fn write_as_another_client(
    store: &Client,
    keys: &[(u8, bool)],
    tag: &str,
    step: usize,
) -> Revision {
    let keys: BTreeMap<_, _> = keys.iter().copied().collect();
    let write = |(n, puts): (u8, bool)| {
        if puts {
            Op::Put(Put::new(key(n), format!("{tag}.{step} beside")))
        } else {
            Op::Delete(Delete::new(key(n)))
        }
    };
    let txn = Txn::new().and_then(keys.into_iter().map(write));
    store.txn(txn).await.unwrap().header.revision
}

/// Everything that the store ever was, by revision, and who made which revision.
async fn history(
    store: &Client,
    run: impl AsyncFnOnce() -> Vec<Ran>,
) -> (BTreeMap<Revision, State>, BTreeMap<String, Revision>, Vec<Ran>) {
    put_all(store, &[("x/a", 1), ("x/c", 1), ("x/d", 1)]).await;
    let start = newest(store).await;
    let mut watch = store.watch(Watch::new(KeyRange::all())).await.unwrap();
    let mut state: State = BTreeMap::new();
    for kv in store.get_prefix("").await.unwrap() {
        state.insert(kv.key, (kv.value, kv.mod_revision));
    }
    let (mut states, mut tags) = (BTreeMap::from([(start, state.clone())]), BTreeMap::new());
    let ran = run().await;
    // What is still on its way arrives.
    sleep(secs(10)).await;
    store.put("~", "").await.unwrap();
    loop {
        let batch = watch.next().await.expect("it goes on").expect("nothing is missed");
        let revision = batch.revision;
        for event in batch.events {
            let kv = event.kv;
            if kv.key == "~" {
                return (states, tags, ran);
            }
            if kv.key.starts_with(b"tag/") {
                let tag = kv.value.escape_ascii().to_string();
                assert!(tags.insert(tag, revision).is_none(), "one attempt was applied twice");
            } else if event.kind == EventKind::Delete {
                state.remove(&kv.key);
            } else if kv.key.starts_with(b"x/") {
                state.insert(kv.key, (kv.value, revision));
            }
        }
        states.insert(revision, state.clone());
    }
}

/// Runs the tasks, in one process or each in one of its own, and judges each transaction; tells how
/// many committed.
async fn storm(tasks: Vec<Task>, together: bool) -> usize {
    let (store, told) = (Client::new(MemBackend::new()), AtomicI64::new(0));
    let actions = tasks.iter().flat_map(|task| task.actions.clone()).collect();
    let shared = together.then(|| client_with_timeout(&store, scripted(actions)));
    let exactly_once: Vec<_> =
        tasks.iter().flat_map(|task| task.programs.iter().map(|_| task.exactly_once)).collect();
    let run = async || {
        let tasks = tasks.into_iter().enumerate();
        let all = tasks.map(|(name, task)| {
            let own = || client_with_timeout(&store, scripted(task.actions.clone()));
            let kv = shared.clone().unwrap_or_else(own);
            work(&store, kv, name, task, &told)
        });
        join_all(all).await.into_iter().flatten().collect()
    };
    let (states, tags, ran) = history(&store, run).await;
    for (ran, exactly_once) in ran.iter().zip(exactly_once) {
        judge_outcome(ran, &tags);
        if STRONG_LEVELS.contains(&ran.level) {
            judge_attempts(ran, &states);
        }
        match &ran.outcome {
            Ok(info) => judge_commit(ran, info, &states),
            Err(error) => assert!(!exactly_once || error.outcome() == Outcome::NotApplied),
        }
    }
    ran.iter().filter(|ran| ran.outcome.is_ok()).count()
}

fn any_step(ranges: bool) -> impl Strategy<Value = Step> {
    let n = || 0..5_u8;
    let of_ranges = u32::from(ranges);
    let beside = prop_oneof![
        3 => Just(Step::Yield),
        1 => (1..700_u16).prop_map(Step::Pause),
        4 => prop::collection::vec((n(), any::<bool>()), 1..3).prop_map(Step::Other),
        1 => Just(Step::Compact),
    ];
    prop_oneof![
        6 => n().prop_map(Step::Get),
        2 => prop::collection::vec(n(), 1..4).prop_map(Step::GetMany),
        2 => n().prop_map(Step::RevisionOf),
        6 => n().prop_map(Step::Put),
        3 => n().prop_map(Step::Delete),
        9 => beside,
        1 => Just(Step::GiveUp),
        3 * of_ranges => (n(), n()).prop_map(|(from, to)| Step::Range(from, to)),
        of_ranges => (n(), n()).prop_map(|(from, to)| Step::DeleteRange(from, to)),
    ]
}

fn a_fate() -> impl Strategy<Value = Action> {
    let away = Error::Unavailable {
        outcome: Outcome::NotApplied,
        reason: "refused".to_owned(),
        source: None,
    };
    let future = Error::FutureRevision { requested: None, current: None };
    prop_oneof![
        12 => Just(Action::Yield),
        6 => any_fate(),
        1 => Just(Action::Fail(away)),
        1 => Just(Action::Fail(future)),
    ]
}

fn a_task() -> impl Strategy<Value = Task> {
    let level = prop_oneof![4 => Just(0_usize), 4 => Just(1), 2 => Just(2), 1 => Just(3)];
    level.prop_flat_map(|level| {
        // At the weak levels a range may see what comes into it: no replay can tell.
        let path = prop::collection::vec(any_step(level < 2), 1..8);
        let paths = prop::collection::vec(path, 1..4);
        let programs = prop::collection::vec(paths, 1..4);
        let prefetch = prop_oneof![Just(Vec::new()), prop::collection::vec(0..5_u8, 1..3)];
        let actions = prop::collection::vec(a_fate(), 0..40);
        (Just(LEVELS[level]), programs, any::<bool>(), prefetch, actions).prop_map(
            |(level, programs, exactly_once, prefetch, actions)| Task {
                level,
                programs,
                exactly_once,
                prefetch,
                actions,
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(20_000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_programs_keep_the_guarantees_of_their_level(
        tasks in prop::collection::vec(a_task(), 2..5),
        together: bool,
    ) {
        on_virtual_time(storm(tasks, together));
    }
}

/// The storm proves something only if its transactions commit.
#[test]
fn programs_without_faults_all_commit() {
    let program = vec![Step::Get(0), Step::Range(1, 4), Step::Yield, Step::Put(0), Step::Delete(2)];
    for level in LEVELS {
        let task = Task {
            level,
            programs: vec![vec![program.clone()]; 5],
            exactly_once: true,
            prefetch: vec![1],
            actions: vec![Action::Yield; 30],
        };
        let tasks = if STRONG_LEVELS.contains(&level) { vec![task; 4] } else { vec![task; 1] };
        let all = tasks.len() * 5;
        for together in [false, true] {
            assert_eq!(on_virtual_time(storm(tasks.clone(), together)), all);
        }
    }
}
