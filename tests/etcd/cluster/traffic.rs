//! Traffic for fault tests: writers, watchers, lockers and sessions that run while faults are
//! injected into their cluster, and the checks of their results.
//!
//! Each task has its own connections. At the end a watch without faults reads the whole history,
//! and the results are checked against it:
//!
//! - A *writer* puts numbers, one after the other. An applied put is in the history once, at the
//!   returned revision; a put that was not applied is absent; a put with an unknown outcome is
//!   there at most once.
//! - A *watcher* received the history batch by batch, without gap or duplicate.
//! - A *locker* acquires a lock, writes with guarded transactions, and releases the lock. Two
//!   lockers never hold it at the same time, and the fencing tokens that they wrote never decrease.
//! - An *idle session* has a key on its lease. If the key is deleted, the session was lost before.

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
use tokio::time::sleep;

use crate::support::{client, secs, session, wait_until, within};

/// The TTL of sessions: long enough to survive an election and a restart.
const TTL_SECS: u64 = 20;
const WRITERS: usize = 2;
const LOCKERS: usize = 3;
const IDLE_SESSIONS: usize = 3;
/// The pause of a writer or a locker after each put, and of a locker after a failed lock.
const REQUEST_INTERVAL: Duration = Duration::from_millis(5);
/// The key of the last put, which ends the history.
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
    /// The number of times that each locker has held the lock.
    held: [AtomicUsize; LOCKERS],
    /// The number of lockers that hold the lock now.
    holders: AtomicUsize,
    violations: StdMutex<Vec<String>>,
}

/// Locks a mutex that tasks share. Panics if a task has panicked while it held the lock.
fn lock_shared<T>(shared: &StdMutex<T>) -> StdMutexGuard<'_, T> {
    shared.lock().unwrap()
}

impl Results {
    fn add_violation(&self, violation: String) {
        lock_shared(&self.violations).push(violation);
    }

    /// The number of applied puts of each writer, and of holds of each locker.
    fn progress(&self) -> Vec<usize> {
        let confirmed = |puts: &StdMutex<Vec<PutResult>>| {
            lock_shared(puts).iter().filter(|put| matches!(put, PutResult::Applied(_))).count()
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
    idle_sessions: Vec<Session>,
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
            idle_sessions: Vec::new(),
        };
        let first = traffic.client(0).await.put("first", "").await.unwrap();
        traffic.first = first.header.revision;
        for n in 0..endpoints.len() {
            // One watcher starts at the first put, the others at the current revision.
            let kv = traffic.client(n).await;
            let request = Watch::new(KeyRange::all());
            let request = if n == 0 { request.start_at(traffic.first) } else { request };
            let watch = kv.watch(request).await.unwrap();
            traffic.watchers.spawn(collect(watch));
        }
        for n in 0..IDLE_SESSIONS {
            let kv = traffic.client(n).await;
            let session = session(&kv, TTL_SECS).await;
            let key = format!("alive/{n}");
            let deleted = Watch::new(key.clone()).filter(WatchFilter::NoPut);
            let deleted = kv.watch(deleted).await.unwrap();
            let put = Put::new(key, "").lease(session.lease_id());
            kv.put_with(put).await.unwrap();
            traffic.workers.spawn(check_loss(deleted, session.clone(), Arc::clone(&results)));
            traffic.idle_sessions.push(session);
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

    /// Waits until every writer has three more applied puts, and every locker three more holds.
    pub(crate) async fn wait_for_progress(&self) {
        let before = self.results.progress();
        wait_until("every writer and locker makes progress", async || {
            self.results.progress().iter().zip(&before).all(|(now, before)| *now >= before + 3)
        })
        .await;
    }

    /// The number of sessions that are not lost.
    pub(crate) fn live_sessions(&self) -> usize {
        let is_live = |session: &&Session| !matches!(session.state(), SessionState::Lost(_));
        self.idle_sessions.iter().filter(is_live).count()
    }

    /// Ends all tasks and checks their results. No fault may be active any more.
    pub(crate) async fn finish(mut self) {
        let kv = self.client(0).await;
        for (n, session) in self.idle_sessions.iter().enumerate() {
            let key = kv.get(format!("alive/{n}")).await.unwrap();
            let alive = session.state() == SessionState::Alive;
            assert!(key.is_some() || !alive, "session {n} is alive, but its key is deleted");
        }
        self.workers.shutdown().await;
        kv.put(LAST_KEY, "").await.unwrap();
        let watch = Watch::new(KeyRange::all()).start_at(self.first);
        let watch = kv.watch(watch).await.unwrap();
        let history = within(secs(60), collect(watch)).await;
        let watched = within(secs(60), self.watchers.join_all()).await;

        let violations = lock_shared(&self.results.violations);
        assert!(violations.is_empty(), "{violations:#?}");
        for received in watched {
            check_watcher(&received, &history);
        }
        check_writers(&self.results, &history);
        check_tokens(&history);
        let progress = self.results.progress();
        assert!(progress.iter().all(|count| *count > 0), "{progress:?}");
    }
}

/// The batches of a watch, up to the last put.
async fn collect(mut watch: Watcher) -> Vec<Batch> {
    let mut received = Vec::new();
    loop {
        let batch = watch.next().await.unwrap().unwrap();
        if batch.events.is_empty() {
            continue;
        }
        let last = batch.events.iter().any(|event| event.kv.key == LAST_KEY);
        received.push((batch.revision, batch.events));
        if last {
            return received;
        }
    }
}

/// Records a violation if the session is not lost when its key is deleted.
async fn check_loss(mut deleted: Watcher, session: Session, results: Arc<Results>) {
    let batch = deleted.next().await;
    let state = session.state();
    if !matches!(state, SessionState::Lost(_)) {
        results
            .add_violation(format!("a session is {state} although its key is deleted: {batch:?}"));
    }
}

async fn write(kv: Client, writer: usize, results: Arc<Results>) {
    for n in 0_usize.. {
        // The outcome is unknown until the response arrives.
        lock_shared(&results.puts[writer]).push(PutResult::Unknown);
        let result = match kv.put(format!("n/{writer}"), n.to_string()).await {
            Ok(response) => PutResult::Applied(response.header.revision),
            Err(error) if error.outcome() == Outcome::NotApplied => PutResult::NotApplied,
            Err(_) => PutResult::Unknown,
        };
        lock_shared(&results.puts[writer])[n] = result;
        sleep(REQUEST_INTERVAL).await;
    }
}

/// Counts its locker as a holder until it is dropped.
struct Holder<'a>(&'a Results);

impl<'a> Holder<'a> {
    fn new(results: &'a Results) -> Self {
        if results.holders.fetch_add(1, Ordering::SeqCst) > 0 {
            results.add_violation("two lockers hold the lock at the same time".to_owned());
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
        let opening = Session::builder(&kv).ttl(secs(TTL_SECS)).open();
        let Ok(session) = opening.await else { continue };
        let mutex = Mutex::new(&session, "m");
        while !matches!(session.state(), SessionState::Lost(_)) {
            let Ok(guard) = mutex.lock().await else {
                sleep(REQUEST_INTERVAL).await;
                continue;
            };
            let work = async {
                let _holder = Holder::new(&results);
                for _ in 0..2 {
                    write_guarded(&guard, &results).await;
                    sleep(REQUEST_INTERVAL).await;
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
        Err(error) => results.add_violation(format!("a guarded write failed: {error}")),
    }
}

/// Asserts that a watcher received the whole history from its first batch on.
fn check_watcher(received: &[Batch], history: &[Batch]) {
    let begin = received.first().unwrap().0;
    let from = history.partition_point(|batch| batch.0 < begin);
    let history = &history[from..];
    for (received, expected) in received.iter().zip(history) {
        assert_eq!(received, expected, "a watcher received a batch that is not in the history");
    }
    assert_eq!(received.len(), history.len(), "a watcher received more or fewer batches");
}

fn check_writers(results: &Results, history: &[Batch]) {
    for (writer, puts) in results.puts.iter().enumerate() {
        let key = format!("n/{writer}");
        let puts = lock_shared(puts);
        let mut revisions = vec![Vec::new(); puts.len()];
        for (revision, event) in events(history).filter(|(_, event)| event.kv.key == key) {
            revisions[number(event)].push(revision);
        }
        for (n, (result, found)) in puts.iter().zip(&revisions).enumerate() {
            let is_consistent = match result {
                PutResult::Applied(revision) => found[..] == [*revision],
                PutResult::NotApplied => found.is_empty(),
                PutResult::Unknown => found.len() <= 1,
            };
            assert!(is_consistent, "put {n} of writer {writer}: {result:?}, found at {found:?}");
        }
    }
}

fn check_tokens(history: &[Batch]) {
    let tokens: Vec<_> = events(history)
        .filter(|(_, event)| event.kv.key == "token")
        .map(|(_, event)| number(event))
        .collect();
    assert!(tokens.is_sorted(), "an earlier holder wrote after a later holder: {tokens:?}");
}

fn events(history: &[Batch]) -> impl Iterator<Item = (Revision, &Event)> {
    let events = history.iter().flat_map(|(at, events)| events.iter().map(|event| (*at, event)));
    events.filter(|(_, event)| event.kind == EventKind::Put)
}

fn number(event: &Event) -> usize {
    let text = std::str::from_utf8(&event.kv.value).unwrap();
    text.parse().unwrap()
}
