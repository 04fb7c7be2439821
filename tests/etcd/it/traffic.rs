//! Traffic for fault tests: writers, watchers, lockers and sessions that run while faults are
//! injected into their cluster, and the checks of their results.
//!
//! Each has connections of its own. At the end a watch without faults reads the whole history, and
//! the results are checked against it:
//!
//! - A *writer* puts numbers, one after the other. A confirmed put is in the history once, at the
//!   reported revision; a refused one is not; one with unknown outcome is there at most once.
//! - A *watcher* received the history batch by batch, without gap or duplicate.
//! - A *locker* acquires a lock, writes with guarded transactions, and releases it. Two lockers
//!   never hold it at once, and the fencing tokens that they wrote never decrease.
//! - A *sleeper* has a session and a key on it. If the key is deleted, the session was lost before.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard as StdMutexGuard};
use std::time::Duration;

use coord_core::{
    Client, Mutex, Session,
    error::{Outcome, PrimitiveError},
    kv::{Event, EventKind, KeyRange, Put, Revision, Txn, Watch, WatchFilter, Watcher},
    mutex::MutexGuard,
    session::SessionState,
};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::{client, secs, session, until};

/// Long enough for a session to survive an election and a restart.
const TTL: u64 = 20;
const WRITERS: usize = 2;
const LOCKERS: usize = 3;
const SLEEPERS: usize = 3;
const PAUSE: Duration = Duration::from_millis(5);
/// The key of the last put.
const LAST_KEY: &str = "zzz";

type Batch = (Revision, Vec<Event>);

/// The result of one put of a writer.
#[derive(Debug)]
enum PutResult {
    Applied(Revision),
    NotApplied,
    Unknown,
}

/// The results of all tasks.
#[derive(Default)]
struct Results {
    puts: [StdMutex<Vec<PutResult>>; WRITERS],
    /// How many times each locker has held the lock.
    held: [AtomicUsize; LOCKERS],
    /// How many lockers hold the lock now.
    holders: AtomicUsize,
    violations: StdMutex<Vec<String>>,
}

fn locked<T>(shared: &StdMutex<T>) -> StdMutexGuard<'_, T> {
    shared.lock().expect("no holder of the lock panics")
}

impl Results {
    fn add_violation(&self, violation: String) {
        locked(&self.violations).push(violation);
    }

    /// The progress of each writer and each locker.
    fn progress(&self) -> Vec<usize> {
        let confirmed = |puts: &StdMutex<Vec<PutResult>>| {
            locked(puts).iter().filter(|put| matches!(put, PutResult::Applied(_))).count()
        };
        let held = self.held.iter().map(|held| held.load(Ordering::Relaxed));
        self.puts.iter().map(confirmed).chain(held).collect()
    }
}

/// The running tasks.
pub(crate) struct Traffic {
    endpoints: Vec<String>,
    results: Arc<Results>,
    first: Revision,
    workers: JoinSet<()>,
    watchers: JoinSet<Vec<Batch>>,
    sleepers: Vec<Session>,
}

impl Traffic {
    /// Starts the tasks. Consecutive clients prefer different members.
    pub(crate) async fn start(endpoints: &[String]) -> Self {
        let results = Arc::new(Results::default());
        let mut traffic = Self {
            endpoints: endpoints.to_vec(),
            results: Arc::clone(&results),
            first: Revision::ZERO,
            workers: JoinSet::new(),
            watchers: JoinSet::new(),
            sleepers: Vec::new(),
        };
        let first = traffic.client(0).await.put("first", "").await.expect("the store is there");
        traffic.first = first.header.revision;
        for n in 0..endpoints.len() {
            // One starts in the past, the others from now on.
            let kv = traffic.client(n).await;
            let request = Watch::new(KeyRange::all());
            let request = if n == 0 { request.start_at(traffic.first) } else { request };
            let watch = kv.watch(request).await.expect("the store is there");
            traffic.watchers.spawn(collect(watch));
        }
        for n in 0..SLEEPERS {
            let kv = traffic.client(n).await;
            let session = session(&kv, TTL).await;
            let key = format!("alive/{n}");
            let deleted = Watch::new(key.clone()).filter(WatchFilter::NoPut);
            let deleted = kv.watch(deleted).await.expect("the store is there");
            let put = Put::new(key, "").lease(session.lease_id());
            kv.put_with(put).await.expect("the lease was just granted");
            traffic.workers.spawn(check_loss(deleted, session.clone(), Arc::clone(&results)));
            traffic.sleepers.push(session);
        }
        for n in 0..WRITERS {
            traffic.workers.spawn(write(traffic.client(n).await, n, Arc::clone(&results)));
        }
        for n in 0..LOCKERS {
            traffic.workers.spawn(lock(traffic.client(n).await, n, Arc::clone(&results)));
        }
        traffic
    }

    /// A client that prefers the `n`th member.
    async fn client(&self, n: usize) -> Client {
        let mut endpoints = self.endpoints.clone();
        let first = n % endpoints.len();
        endpoints.rotate_left(first);
        client(&endpoints).await
    }

    /// Waits until every writer and every locker has advanced by three.
    pub(crate) async fn advances(&self) {
        let before = self.results.progress();
        until("every writer and locker has advanced", async || {
            self.results.progress().iter().zip(&before).all(|(now, before)| *now >= before + 3)
        })
        .await;
    }

    /// The number of sessions that are not lost.
    pub(crate) fn alive(&self) -> usize {
        let alive = |session: &&Session| !matches!(session.state(), SessionState::Lost(_));
        self.sleepers.iter().filter(alive).count()
    }

    /// Ends all tasks and checks their results. The cluster must be healthy.
    pub(crate) async fn finish(mut self) {
        let kv = self.client(0).await;
        for (n, session) in self.sleepers.iter().enumerate() {
            let key = kv.get(format!("alive/{n}")).await.expect("the store is there");
            let alive = session.state() == SessionState::Alive;
            assert!(key.is_some() || !alive, "session {n} is alive, and its key is deleted");
        }
        self.workers.shutdown().await;
        kv.put(LAST_KEY, "").await.expect("the store is there");
        let watch = Watch::new(KeyRange::all()).start_at(self.first);
        let watch = kv.watch(watch).await.expect("the store is there");
        let history = timeout(secs(60), collect(watch)).await.expect("the history has an end");
        let watched = timeout(secs(60), self.watchers.join_all()).await;

        let violations = locked(&self.results.violations);
        assert!(violations.is_empty(), "{violations:#?}");
        for seen in watched.expect("every watcher receives the last put") {
            check_watcher(&seen, &history);
        }
        check_writers(&self.results, &history);
        check_tokens(&history);
        let progress = self.results.progress();
        assert!(progress.iter().all(|count| *count > 0), "{progress:?}");
    }
}

/// The batches of a watch, up to the last put.
async fn collect(mut watch: Watcher) -> Vec<Batch> {
    let mut seen = Vec::new();
    loop {
        let batch = watch.next().await.expect("a watch has no end");
        let batch = batch.expect("nothing is compacted, so the watch resumes");
        if batch.events.is_empty() {
            continue;
        }
        let last = batch.events.iter().any(|event| event.kv.key == LAST_KEY);
        seen.push((batch.revision, batch.events));
        if last {
            return seen;
        }
    }
}

/// Checks that the session is lost when its key is deleted.
async fn check_loss(mut deleted: Watcher, session: Session, results: Arc<Results>) {
    let batch = deleted.next().await;
    let state = session.state();
    if !matches!(state, SessionState::Lost(_)) {
        results.add_violation(format!("a session was {state} without its key: {batch:?}"));
    }
}

async fn write(kv: Client, writer: usize, results: Arc<Results>) {
    for n in 0_usize.. {
        // Unknown until the response arrives.
        locked(&results.puts[writer]).push(PutResult::Unknown);
        let result = match kv.put(format!("n/{writer}"), n.to_string()).await {
            Ok(response) => PutResult::Applied(response.header.revision),
            Err(error) if error.outcome() == Outcome::NotApplied => PutResult::NotApplied,
            Err(_) => PutResult::Unknown,
        };
        locked(&results.puts[writer])[n] = result;
        sleep(PAUSE).await;
    }
}

/// Counts a locker as holder until it is dropped.
struct Holder<'a>(&'a Results);

impl<'a> Holder<'a> {
    fn new(results: &'a Results) -> Self {
        if results.holders.fetch_add(1, Ordering::SeqCst) > 0 {
            results.add_violation("two lockers hold the lock".to_owned());
        }
        Self(results)
    }
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        self.0.holders.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn lock(kv: Client, locker: usize, results: Arc<Results>) {
    loop {
        let opening = Session::builder(&kv).ttl(secs(TTL)).open();
        let Ok(session) = opening.await else { continue };
        let mutex = Mutex::new(&session, "m");
        while !matches!(session.state(), SessionState::Lost(_)) {
            let Ok(guard) = mutex.lock().await else {
                sleep(PAUSE).await;
                continue;
            };
            let work = async {
                let _holder = Holder::new(&results);
                for _ in 0..2 {
                    write_guarded(&guard, &results).await;
                    sleep(PAUSE).await;
                }
            };
            if guard.run_while_held(work).await.is_ok() {
                results.held[locker].fetch_add(1, Ordering::Relaxed);
            }
            let _ = guard.unlock().await;
        }
    }
}

async fn write_guarded(guard: &MutexGuard, results: &Results) {
    let put = Put::new("token", guard.fencing_token().to_string());
    match guard.txn(Txn::new().and_then([put])).await {
        Ok(_) | Err(PrimitiveError::Lost(_)) => {}
        Err(error) if error.is_retryable() => {}
        Err(error) => results.add_violation(format!("a guarded write: {error}")),
    }
}

/// Checks that a watcher received the whole history from its first batch on.
fn check_watcher(seen: &[Batch], history: &[Batch]) {
    let begin = seen.first().expect("it received the last put").0;
    let from = history.partition_point(|batch| batch.0 < begin);
    let history = &history[from..];
    for (seen, was) in seen.iter().zip(history) {
        assert_eq!(seen, was, "a watcher received another batch than the history has");
    }
    assert_eq!(seen.len(), history.len(), "a watcher received more or fewer batches");
}

fn check_writers(results: &Results, history: &[Batch]) {
    for (writer, puts) in results.puts.iter().enumerate() {
        let key = format!("n/{writer}");
        let puts = locked(puts);
        let mut revisions = vec![Vec::new(); puts.len()];
        for (revision, event) in events(history).filter(|(_, event)| event.kv.key == key) {
            revisions[number(event)].push(revision);
        }
        for (n, (result, were)) in puts.iter().zip(&revisions).enumerate() {
            let is_true = match result {
                PutResult::Applied(revision) => were[..] == [*revision],
                PutResult::NotApplied => were.is_empty(),
                PutResult::Unknown => were.len() <= 1,
            };
            assert!(is_true, "put {n} of writer {writer}: {result:?}, found at {were:?}");
        }
    }
}

fn check_tokens(history: &[Batch]) {
    let tokens: Vec<_> = events(history)
        .filter(|(_, event)| event.kv.key == "token")
        .map(|(_, event)| number(event))
        .collect();
    assert!(tokens.is_sorted(), "an earlier holder wrote after a later one: {tokens:?}");
}

fn events(history: &[Batch]) -> impl Iterator<Item = (Revision, &Event)> {
    let events = history.iter().flat_map(|(at, events)| events.iter().map(|event| (*at, event)));
    events.filter(|(_, event)| event.kind == EventKind::Put)
}

fn number(event: &Event) -> usize {
    let text = std::str::from_utf8(&event.kv.value).expect("digits");
    text.parse().expect("a number")
}
