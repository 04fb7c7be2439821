//! Random transactions of several clients, while a follower is paused and resumed: their history
//! keeps the level of each.
//!
//! One client sends its requests to all members but the follower, and the other client only to the
//! follower:
//!
//! ```text
//! follower          runs    | paused                      | resumed, behind
//! client 0          commits | commits                     | commits
//! client 1          commits | waits; a commit times out   | stale reads, commits
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use coord_core::stm::{Isolation, StmError, Transaction};
use coord_core::{Client, Error, Stm, kv::KeyRange};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::{Cluster, ClusterBuilder, Release};
use coord_testkit::history::HistoryRecorder;
use coord_testkit::isolation::{Checker, Status, Values, Verdict};
use fastrand::Rng;
use tokio::task::JoinSet;

use super::print;
use crate::support::{client, secs, wait_until, within};

const KEYS: [&str; 3] = ["p/x", "p/y", "p/z"];

/// How often the follower is paused at each level.
const PAUSES: usize = 3;
/// How many transactions a task commits before the follower is paused or resumed.
const COMMITS: usize = 20;
/// A commit that is sent to the paused follower fails after this time, with unknown outcome.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

/// Reads, puts and deletes keys: the kind of each operation, and the number of its key.
async fn access(tx: &mut Transaction, ops: &[(u8, usize)], value: &str) -> Result<(), Error> {
    for (kind, key) in ops {
        let key = KEYS[*key];
        match kind {
            0..3 => drop(tx.get(key).await?),
            3 => tx.put(key, value),
            4 => tx.delete(key),
            _ => drop(tx.range(KeyRange::prefix("p/")).await?),
        }
    }
    Ok(())
}

/// Tasks that run random transactions until they are stopped.
struct Workers {
    tasks: JoinSet<()>,
    /// How many transactions each task has committed.
    committed: Vec<Arc<AtomicUsize>>,
    is_stopped: Arc<AtomicBool>,
}

impl Workers {
    /// Starts two tasks for each client.
    fn start(stms: &[Stm], level: Isolation) -> Self {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (mut tasks, mut committed) = (JoinSet::new(), Vec::new());
        for (task, stm) in stms.iter().flat_map(|stm| [stm, stm]).cloned().enumerate() {
            let (is_stopped, count) = (Arc::clone(&is_stopped), Arc::new(AtomicUsize::new(0)));
            committed.push(Arc::clone(&count));
            tasks.spawn(async move {
                let mut rng = Rng::with_seed(task as u64);
                for number in 0.. {
                    if is_stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let op = |_| (rng.u8(..6), rng.usize(..KEYS.len()));
                    let ops: Vec<_> = (0..1 + number % 3).map(op).collect();
                    let value = format!("{level}, task {task}, transaction {number}");
                    // A transaction that fails is recorded as well.
                    if stm.run(async move |tx| access(tx, &ops, &value).await).await.is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        Self { tasks, committed, is_stopped }
    }

    /// Waits until each of the first `tasks` tasks has committed some more transactions.
    async fn wait_for_commits(&self, tasks: usize) {
        let committed = || self.committed.iter().take(tasks).map(|n| n.load(Ordering::Relaxed));
        let before: Vec<_> = committed().collect();
        let all_have_committed =
            async || committed().zip(&before).all(|(now, before)| now >= before + COMMITS);
        wait_until("every task commits transactions", all_have_committed).await;
    }

    /// Ends all tasks. Returns how many transactions were committed.
    async fn stop(mut self) -> usize {
        self.is_stopped.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.committed.iter().map(|committed| committed.load(Ordering::Relaxed)).sum()
    }
}

/// Runs random transactions at one level. Returns how many were committed, and the verdict.
async fn run_at(cluster: &Cluster, level: Isolation) -> (usize, Verdict) {
    let follower = (cluster.leader().await + 1) % 3;
    let mut others = cluster.endpoints();
    let of_follower = [others.remove(follower)];
    let builder = EtcdBackend::builder(of_follower).request_timeout(REQUEST_TIMEOUT);
    let clients = [client(&others).await, Client::new(builder.connect().await.unwrap())];
    let recorder = HistoryRecorder::new();
    let mut changes = recorder.watch_changes(&clients[0]).await.unwrap();
    let stms = [0, 1].map(|number: usize| {
        let process = recorder.process(&format!("client {number}"));
        Stm::new(&clients[number]).isolation(level).record(process)
    });

    let workers = Workers::start(&stms, level);
    for pause in 0..PAUSES {
        workers.wait_for_commits(4).await;
        cluster[follower].pause();
        workers.wait_for_commits(2).await;
        let value = format!("{level}, pause {pause}");
        let put = stms[1].run(async |tx| {
            tx.put(KEYS[0], value.clone());
            Ok::<_, Error>(())
        });
        let ended = within(secs(30), put).await;
        assert!(matches!(ended, Err(StmError::OutcomeUnknown(_))), "{ended:?}");
        cluster[follower].resume();
    }
    workers.wait_for_commits(4).await;
    let committed = workers.stop().await;

    within(secs(30), changes.catch_up()).await.unwrap();
    let mut checker = Checker::new().values(Values::Unique);
    recorder.take().0.iter().for_each(|event| checker.push(event));
    (committed, checker.finish())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_keep_their_level_while_a_member_pauses() {
    for release in Release::all().unwrap() {
        let cluster = ClusterBuilder::new(release.clone()).members(3).start().await;
        for level in Isolation::ALL {
            let (committed, verdict) = run_at(&cluster, level).await;
            print(&format!("{release}, {level}\n{verdict}"));
            assert_eq!(verdict.declared(), Status::Holds, "{verdict}");
            let coverage = verdict.coverage();
            assert!(coverage.transactions >= committed, "{committed}\n{verdict}");
            assert_eq!(coverage.reads, coverage.resolved_reads, "{verdict}");
            let unknown = coverage.matched_unknown + coverage.unmatched_unknown;
            assert!(unknown >= PAUSES, "{verdict}");
        }
    }
}
