//! Randomized fault test of transactions: random programs, schedules and faults.
//!
//! proptest chooses the steps of each transaction, the fault of each request, the compactions, and
//! the writes of another client between two steps. The attempts of one transaction may have
//! different steps.
//!
//! A watch records the state of the store at each revision, so the check need not search for an
//! order of the transactions. It *replays* the program of a committed transaction on the state
//! before the commit, or on the state at the reported revision if the transaction wrote nothing;
//! the replay must read what the transaction has read, except at `ReadCommitted`. Each attempt at a
//! strong level, committed or not, must have observed one of the states since its transaction
//! started. Each transaction that writes also puts a tag, which identifies its revision.

mod check;
mod program;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use coord_core::{
    Client, Error, Stm,
    error::Outcome,
    kv::{Compact, Delete, EventKind, KeyRange, Op, Put, Revision, Txn, Watch},
    stm::Isolation,
};
use coord_mem::MemBackend;
use coord_testkit::Action;
use futures_util::future::join_all;
use proptest::prelude::*;
use tokio::task::yield_now;
use tokio::time::sleep;

use check::{ProgramAttempt, TransactionRun, check_attempts, check_commit, check_outcome};
use program::{Step, StoreState, key, perform, reads_store, writes};

use super::{STRONG_LEVELS, client_with_timeout, put_all};
use crate::support::{
    any_action, cases, newest_revision, on_virtual_time, scripted, secs, session,
};

/// A task: transactions that run in sequence, and the faults of its requests.
#[derive(Clone, Debug)]
struct Task {
    level: Isolation,
    /// For each transaction a list of programs: the first attempt runs the first, the second the
    /// next, and all further attempts the last.
    transactions: Vec<Vec<Vec<Step>>>,
    exactly_once: bool,
    prefetch: Vec<u8>,
    actions: Vec<Action>,
}

/// The last attempt with writes of another client between its steps, counted from 0. If these never
/// stopped, the transaction would conflict forever.
const LAST_ATTEMPT_WITH_INTERFERENCE: usize = 3;

/// Runs the transactions of a task. `newest_known` is the newest revision that any client has
/// received.
async fn run_task(
    store: &Client,
    kv: Client,
    name: usize,
    task: Task,
    newest_known: &AtomicI64,
) -> Vec<TransactionRun> {
    let session = session(store).await;
    let mut stm = Stm::new(&kv).isolation(task.level).prefetch(task.prefetch.into_iter().map(key));
    if task.exactly_once {
        stm = stm.exactly_once(&session);
    }
    let mut all = Vec::new();
    for (i, programs) in task.transactions.into_iter().enumerate() {
        let known_at_start = Revision(newest_known.load(Ordering::Relaxed));
        let (mut attempts, mut after_first_read) = (Vec::<ProgramAttempt>::new(), None);
        let run = stm.run(async |tx| {
            let nth = attempts.len();
            let tag = format!("{name}.{i}.{nth}");
            let program = programs.get(nth).or(programs.last()).unwrap().clone();
            attempts.push(ProgramAttempt { program, tag: tag.clone(), observed: Vec::new() });
            let attempt = attempts.last_mut().unwrap();
            let (program, observed) = (&attempt.program, &mut attempt.observed);
            after_first_read = None;
            for (j, step) in program.iter().enumerate() {
                match step {
                    Step::Yield => yield_now().await,
                    Step::Pause(ms) => sleep(Duration::from_millis((*ms).into())).await,
                    Step::Interfere(_) if nth > LAST_ATTEMPT_WITH_INTERFERENCE => {}
                    Step::Interfere(keys) => {
                        let revision = write_as_another_client(store, keys, &tag, j).await;
                        newest_known.fetch_max(revision.0, Ordering::Relaxed);
                    }
                    Step::Abort => return Err(Error::EmptyKey),
                    Step::Compact => {
                        // Refused if another task has compacted this revision.
                        let _ = store.compact(Compact::new(newest_revision(store).await)).await;
                    }
                    step => {
                        let observation = perform(step, tx, format!("{tag}.{j}")).await?;
                        if reads_store(step, &program[..j]) && after_first_read.is_none() {
                            after_first_read = Some(newest_revision(store).await);
                        }
                        observed.extend(observation);
                    }
                }
            }
            if writes(program) {
                tx.put(format!("tag/{name}"), tag);
            }
            Ok(())
        });
        let result = run.await.map(|committed| committed.info);
        if let Ok(info) = &result {
            newest_known.fetch_max(info.revision.0, Ordering::Relaxed);
        }
        let level = task.level;
        all.push(TransactionRun { level, attempts, known_at_start, after_first_read, result });
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
            Op::Put(Put::new(key(n), format!("{tag}.{step} other")))
        } else {
            Op::Delete(Delete::new(key(n)))
        }
    };
    let txn = Txn::new().and_then(keys.into_iter().map(write));
    store.txn(txn).await.unwrap().header.revision
}

/// The states of the store by revision, and the revisions by tag.
struct StoreHistory {
    states: BTreeMap<Revision, StoreState>,
    tags: BTreeMap<String, Revision>,
}

/// Runs transactions and records the history of the store.
async fn record_history(
    store: &Client,
    run: impl AsyncFnOnce() -> Vec<TransactionRun>,
) -> (StoreHistory, Vec<TransactionRun>) {
    put_all(store, &[("x/a", 1), ("x/c", 1), ("x/d", 1)]).await;
    let start = newest_revision(store).await;
    let mut watch = store.watch(Watch::new(KeyRange::all())).await.unwrap();
    let mut state: StoreState = BTreeMap::new();
    for kv in store.get_prefix("").await.unwrap() {
        state.insert(kv.key, (kv.value, kv.mod_revision));
    }
    let (mut states, mut tags) = (BTreeMap::from([(start, state.clone())]), BTreeMap::new());
    let runs = run().await;
    // Requests that are still delayed have time to arrive.
    sleep(secs(10)).await;
    store.put("~", "").await.unwrap();
    loop {
        let batch = watch.next().await.unwrap().unwrap();
        let revision = batch.revision;
        for event in batch.events {
            let kv = event.kv;
            if kv.key == "~" {
                return (StoreHistory { states, tags }, runs);
            }
            if kv.key.starts_with(b"tag/") {
                let tag = kv.value.escape_ascii().to_string();
                assert!(tags.insert(tag, revision).is_none(), "an attempt was applied twice");
            } else if event.kind == EventKind::Delete {
                state.remove(&kv.key);
            } else if kv.key.starts_with(b"x/") {
                state.insert(kv.key, (kv.value, revision));
            }
        }
        states.insert(revision, state.clone());
    }
}

/// Runs the tasks, on one client or each on its own, and checks each transaction. Returns the
/// number of commits.
async fn run_and_check(tasks: Vec<Task>, one_client: bool) -> usize {
    let (store, newest_known) = (Client::new(MemBackend::new()), AtomicI64::new(0));
    let actions = tasks.iter().flat_map(|task| task.actions.clone()).collect();
    let shared = one_client.then(|| client_with_timeout(&store, scripted(actions)));
    let exactly_once: Vec<_> =
        tasks.iter().flat_map(|task| task.transactions.iter().map(|_| task.exactly_once)).collect();
    let run = async || {
        let tasks = tasks.into_iter().enumerate();
        let all = tasks.map(|(name, task)| {
            let own = || client_with_timeout(&store, scripted(task.actions.clone()));
            let kv = shared.clone().unwrap_or_else(own);
            run_task(&store, kv, name, task, &newest_known)
        });
        join_all(all).await.into_iter().flatten().collect()
    };
    let (StoreHistory { states, tags }, runs) = record_history(&store, run).await;
    for (run, exactly_once) in runs.iter().zip(exactly_once) {
        check_outcome(run, &tags);
        if STRONG_LEVELS.contains(&run.level) {
            check_attempts(run, &states);
        }
        match &run.result {
            Ok(info) => check_commit(run, info, &states),
            Err(error) => assert!(!exactly_once || error.outcome() == Outcome::NotApplied),
        }
    }
    runs.iter().filter(|run| run.result.is_ok()).count()
}

fn any_step(ranges: bool) -> impl Strategy<Value = Step> {
    let n = || 0..5_u8;
    let of_ranges = u32::from(ranges);
    let events = prop_oneof![
        3 => Just(Step::Yield),
        1 => (1..700_u16).prop_map(Step::Pause),
        4 => prop::collection::vec((n(), any::<bool>()), 1..3).prop_map(Step::Interfere),
        1 => Just(Step::Compact),
    ];
    prop_oneof![
        6 => n().prop_map(Step::Get),
        2 => prop::collection::vec(n(), 1..4).prop_map(Step::GetMany),
        2 => n().prop_map(Step::RevisionOf),
        6 => n().prop_map(Step::Put),
        3 => n().prop_map(Step::Delete),
        9 => events,
        1 => Just(Step::Abort),
        3 * of_ranges => (n(), n()).prop_map(|(from, to)| Step::Range(from, to)),
        of_ranges => (n(), n()).prop_map(|(from, to)| Step::DeleteRange(from, to)),
    ]
}

fn any_action_or_error() -> impl Strategy<Value = Action> {
    let unavailable = Error::Unavailable {
        outcome: Outcome::NotApplied,
        reason: "refused".to_owned(),
        source: None,
    };
    let future = Error::FutureRevision { requested: None, current: None };
    prop_oneof![
        12 => Just(Action::Yield),
        6 => any_action(),
        1 => Just(Action::Fail(unavailable)),
        1 => Just(Action::Fail(future)),
    ]
}

fn any_task() -> impl Strategy<Value = Task> {
    let level = prop_oneof![4 => Just(0_usize), 4 => Just(1), 2 => Just(2), 1 => Just(3)];
    level.prop_flat_map(|level| {
        // No ranges at the weak levels: these permit phantoms, which a replay does not have.
        let program = prop::collection::vec(any_step(level < 2), 1..8);
        let programs = prop::collection::vec(program, 1..4);
        let transactions = prop::collection::vec(programs, 1..4);
        let prefetch = prop_oneof![Just(Vec::new()), prop::collection::vec(0..5_u8, 1..3)];
        let actions = prop::collection::vec(any_action_or_error(), 0..40);
        (Just(Isolation::ALL[level]), transactions, any::<bool>(), prefetch, actions).prop_map(
            |(level, transactions, exactly_once, prefetch, actions)| Task {
                level,
                transactions,
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
        tasks in prop::collection::vec(any_task(), 2..5),
        one_client: bool,
    ) {
        on_virtual_time(run_and_check(tasks, one_client));
    }
}

/// The checks are effective only if transactions commit.
#[test]
fn programs_without_faults_all_commit() {
    let program = vec![Step::Get(0), Step::Range(1, 4), Step::Yield, Step::Put(0), Step::Delete(2)];
    for level in Isolation::ALL {
        let task = Task {
            level,
            transactions: vec![vec![program.clone()]; 5],
            exactly_once: true,
            prefetch: vec![1],
            actions: vec![Action::Yield; 30],
        };
        let tasks = if STRONG_LEVELS.contains(&level) { vec![task; 4] } else { vec![task; 1] };
        let all = tasks.len() * 5;
        for one_client in [false, true] {
            assert_eq!(on_virtual_time(run_and_check(tasks.clone(), one_client)), all);
        }
    }
}
