//! Read-only transactions on a follower that is behind: they see old data at the levels that permit
//! it, and never at the others.
//!
//! A leader sends a follower at most 512 changes before the follower acknowledges one. So a
//! follower that was paused during more changes stays behind the last ones for as long as the other
//! members are paused instead:
//!
//! ```text
//! leader     x = old | 600 changes, x = new | paused            | resumed
//! follower   x = old | paused               | resumed: x = old  | catches up: x = new
//! ```

use coord_core::stm::Isolation::{self, *};
use coord_core::{Client, Error, Stm};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::{Cluster, ClusterBuilder, Release};
use coord_testkit::history::HistoryRecorder;
use coord_testkit::isolation::{self, Level, Status, Verdict};
use coord_testkit::{Intercept, Recorder};
use futures_util::future::join_all;

use super::print;
use crate::support::{client, secs, wait_until, within};

/// How many changes are made while the follower is paused, before the changes that it must miss:
/// more than a leader sends without an acknowledgement.
///
/// Source: etcd 3.5 `server/etcdserver/raft.go`, `maxInflightMsgs`; the same in 3.4.
const CHANGES: usize = 600;

/// How often a cluster gets a stale follower, and how many transactions of each kind read it then.
const ROUNDS: usize = 3;
const READS: usize = 5;

/// The name that the checker gives to a read-only transaction that saw old data.
const STALE: &str = "stale read-only transaction";

/// Read-only transactions of one kind.
struct Kind {
    isolation: Isolation,
    keys: &'static [&'static str],
    /// Whether they may see old data.
    may_be_stale: bool,
}

/// The kinds that may see old data are the last ones.
///
/// At `RepeatableReads`, the commit of a transaction that has read several keys is linearizable.
const KINDS: [Kind; 5] = [
    Kind { isolation: SerializableSnapshot, keys: &["x", "y"], may_be_stale: false },
    Kind { isolation: Serializable, keys: &["x", "y"], may_be_stale: false },
    Kind { isolation: RepeatableReads, keys: &["x", "y"], may_be_stale: false },
    Kind { isolation: RepeatableReads, keys: &["x"], may_be_stale: true },
    Kind { isolation: ReadCommitted, keys: &["x", "y"], may_be_stale: true },
];

/// Transactions of one kind, which have keys and a history of their own.
struct Subject {
    kind: &'static Kind,
    prefix: String,
    recorder: HistoryRecorder,
}

impl Subject {
    fn new(number: usize, kind: &'static Kind) -> Self {
        Self { kind, prefix: format!("{number}/"), recorder: HistoryRecorder::new() }
    }

    fn stm(&self, client: &Client, process: &str) -> Stm {
        let stm = Stm::new(client).isolation(self.kind.isolation);
        stm.record(self.recorder.process(process))
    }

    fn keys(&self) -> impl Iterator<Item = String> {
        self.kind.keys.iter().map(|key| format!("{}{key}", self.prefix))
    }

    /// Puts all keys.
    async fn write(&self, client: &Client, value: &str) {
        let stm = self.stm(client, "writer");
        let put = stm.run(async |tx| {
            self.keys().for_each(|key| tx.put(key, value));
            Ok::<_, Error>(())
        });
        put.await.unwrap();
    }

    /// Reads all keys in a transaction. Returns whether it saw the old values.
    async fn reads_old_values(&self, client: &Client) -> bool {
        let (stm, keys) = (self.stm(client, "reader"), self.keys().collect::<Vec<_>>());
        let values = stm.run(async |tx| tx.get_many(&keys).await).await.unwrap().value;
        assert!(values.iter().all(|value| *value == values[0]), "not from one revision");
        values[0].as_ref().unwrap() == "old"
    }

    /// How many of [`READS`] transactions at the same time saw old values.
    async fn count_stale(&self, client: &Client) -> usize {
        let reads = (0..READS).map(|_| self.reads_old_values(client));
        join_all(reads).await.into_iter().filter(|is_old| *is_old).count()
    }
}

/// Makes a follower stale and lets transactions of each kind read from it. Returns how many of each
/// kind saw old data, with the verdict about their history.
async fn read_from_a_stale_follower(cluster: &Cluster) -> Vec<(usize, Verdict)> {
    let leader = cluster.leader().await;
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let endpoint = |member: usize| cluster[member].endpoint().to_owned();
    let writer = client(&[endpoint(leader), endpoint(other)]).await;
    let requests = Recorder::new();
    let backend = EtcdBackend::connect(&[endpoint(follower)]).await.unwrap();
    let reader = Client::new(Intercept::new(backend, requests.clone()));
    let subjects: Vec<_> =
        KINDS.iter().enumerate().map(|(number, kind)| Subject::new(number, kind)).collect();
    let mut changes = Vec::new();
    for subject in &subjects {
        changes.push(subject.recorder.watch_changes(&writer).await.unwrap());
        subject.write(&writer, "old").await;
    }
    // A linearizable read, to which the follower responds after it has applied these writes.
    reader.get("x").await.unwrap();

    cluster[follower].pause();
    for number in 0..CHANGES {
        writer.put("filler", number.to_string()).await.unwrap();
    }
    for subject in &subjects {
        subject.write(&writer, "new").await;
    }
    cluster[leader].pause();
    cluster[other].pause();
    cluster[follower].resume();
    requests.take();

    let (stale, current): (Vec<_>, Vec<_>) =
        subjects.iter().partition(|subject| subject.kind.may_be_stale);
    let mut current = join_all(current.into_iter().map(|subject| subject.count_stale(&reader)));
    let read_stale = async {
        let mut sent = 0;
        let all_sent = async || {
            sent += requests.take().0.len();
            sent >= READS * 3
        };
        wait_until("the reads that must not be stale are sent", all_sent).await;
        let mut counts = Vec::new();
        for subject in stale {
            counts.push(subject.count_stale(&reader).await);
        }
        counts
    };
    let stale = tokio::select! {
        biased;
        counts = &mut current => panic!("{counts:?}: completed without a majority of the members"),
        counts = within(secs(30), read_stale) => counts,
    };
    cluster[leader].resume();
    cluster[other].resume();
    let current = within(secs(60), current).await;

    let mut results = Vec::new();
    for ((subject, mut changes), count) in
        subjects.iter().zip(changes).zip(current.into_iter().chain(stale))
    {
        changes.catch_up().await.unwrap();
        results.push((count, isolation::check(&subject.recorder.take())));
    }
    results
}

/// Asserts that a verdict shows stale transactions exactly if there were some, and nothing else.
fn assert_fits(verdict: &Verdict, isolation: Isolation, stale: usize) {
    let names: Vec<_> = verdict.anomalies().iter().map(|found| found.name).collect();
    let expected: &[_] = if stale > 0 { &[Some(STALE)] } else { &[] };
    assert_eq!(names, expected, "{isolation}: {stale} are stale\n{verdict}");
    assert_eq!(verdict.declared(), Status::Holds, "{verdict}");
    let is_strict = verdict.status(Level::StrictSerializable) == Status::Holds;
    assert_eq!(is_strict, stale == 0, "{verdict}");
    let coverage = verdict.coverage();
    assert_eq!(coverage.reads, coverage.resolved_reads, "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_follower_is_seen_only_at_the_weak_levels() {
    for release in Release::all().unwrap() {
        let cluster = ClusterBuilder::new(release.clone()).members(3).start().await;
        let mut stale = [0; KINDS.len()];
        for _ in 0..ROUNDS {
            let results = read_from_a_stale_follower(&cluster).await;
            for ((kind, total), (count, verdict)) in KINDS.iter().zip(&mut stale).zip(results) {
                *total += count;
                assert_fits(&verdict, kind.isolation, count);
            }
        }
        for (kind, count) in KINDS.iter().zip(stale) {
            let (all, keys) = (ROUNDS * READS, kind.keys.len());
            let Kind { isolation, may_be_stale, .. } = kind;
            print(&format!("{release}, {isolation}, {keys} key(s): {count} of {all} are stale"));
            assert_eq!(count > 0, *may_be_stale, "{release}, {isolation}, {keys} key(s)");
        }
    }
}
