//! Writers, watchers, lockers and sessions that go on while their cluster is tormented, and what
//! must be true of all they have seen.
//!
//! Each has connections of its own. In the end the whole history is read once more, by a watch that
//! nothing disturbed, and held against what everybody was told:
//!
//! - a *writer* puts numbers, one after the other. What was confirmed is in the history once, at
//!   the revision that was told; what was refused is not; what is unknown is there once at most.
//! - a *watcher* was given the history, batch by batch: nothing missing, nothing twice.
//! - a *locker* takes a lock, writes under it with guarded transactions, and gives it up. Never two
//!   of them believe to hold it, and the tokens they wrote never go back.
//! - a *sleeper* has a session and a key on it. If the key is deleted, the session was lost before.

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

/// Long enough for a session to live through an election and a restart.
const TTL: u64 = 20;
const WRITERS: usize = 2;
const LOCKERS: usize = 3;
const SLEEPERS: usize = 3;
const PAUSE: Duration = Duration::from_millis(5);
/// Put when all is over.
const LAST: &str = "zzz";

type Batch = (Revision, Vec<Event>);

/// What a writer was told of its `n`th put.
#[derive(Debug)]
enum Told {
    Applied(Revision),
    NotApplied,
    Unknown,
}

/// What they all see together.
#[derive(Default)]
struct Board {
    told: [StdMutex<Vec<Told>>; WRITERS],
    /// How often each locker has held the lock.
    held: [AtomicUsize; LOCKERS],
    /// How many believe to hold it now.
    holders: AtomicUsize,
    faults: StdMutex<Vec<String>>,
}

fn locked<T>(shared: &StdMutex<T>) -> StdMutexGuard<'_, T> {
    shared.lock().expect("nobody panics with it")
}

impl Board {
    fn fault(&self, what: String) {
        locked(&self.faults).push(what);
    }

    /// How far everybody has come.
    fn marks(&self) -> Vec<usize> {
        let confirmed = |told: &StdMutex<Vec<Told>>| {
            locked(told).iter().filter(|told| matches!(told, Told::Applied(_))).count()
        };
        let held = self.held.iter().map(|held| held.load(Ordering::Relaxed));
        self.told.iter().map(confirmed).chain(held).collect()
    }
}

/// Everybody at work.
pub(crate) struct Traffic {
    endpoints: Vec<String>,
    board: Arc<Board>,
    first: Revision,
    workers: JoinSet<()>,
    watchers: JoinSet<Vec<Batch>>,
    sleepers: Vec<Session>,
}

impl Traffic {
    /// Begins. Every other client prefers another member.
    pub(crate) async fn start(endpoints: &[String]) -> Self {
        let board = Arc::new(Board::default());
        let mut traffic = Self {
            endpoints: endpoints.to_vec(),
            board: Arc::clone(&board),
            first: Revision::ZERO,
            workers: JoinSet::new(),
            watchers: JoinSet::new(),
            sleepers: Vec::new(),
        };
        let first = traffic.client(0).await.put("first", "").await.expect("the store is there");
        traffic.first = first.header.revision;
        for n in 0..endpoints.len() {
            // One from the past, the others from now on.
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
            let gone = Watch::new(key.clone()).filter(WatchFilter::NoPut);
            let gone = kv.watch(gone).await.expect("the store is there");
            let put = Put::new(key, "").lease(session.lease_id());
            kv.put_with(put).await.expect("the lease was just granted");
            traffic.workers.spawn(wake(gone, session.clone(), Arc::clone(&board)));
            traffic.sleepers.push(session);
        }
        for n in 0..WRITERS {
            traffic.workers.spawn(write(traffic.client(n).await, n, Arc::clone(&board)));
        }
        for n in 0..LOCKERS {
            traffic.workers.spawn(lock(traffic.client(n).await, n, Arc::clone(&board)));
        }
        traffic
    }

    /// A client that begins with the `n`th member.
    async fn client(&self, n: usize) -> Client {
        let mut endpoints = self.endpoints.clone();
        let turns = n % endpoints.len();
        endpoints.rotate_left(turns);
        client(&endpoints).await
    }

    /// Waits until every writer and every locker has got somewhere.
    pub(crate) async fn goes_on(&self) {
        let before = self.board.marks();
        until("everybody has got on", async || {
            self.board.marks().iter().zip(&before).all(|(now, before)| *now >= before + 3)
        })
        .await;
    }

    /// How many sessions are not lost.
    pub(crate) fn alive(&self) -> usize {
        let alive = |session: &&Session| !matches!(session.state(), SessionState::Lost(_));
        self.sleepers.iter().filter(alive).count()
    }

    /// Ends everything and judges. The cluster must be well.
    pub(crate) async fn finish(mut self) {
        let kv = self.client(0).await;
        for (n, session) in self.sleepers.iter().enumerate() {
            let key = kv.get(format!("alive/{n}")).await.expect("the store is there");
            let alive = session.state() == SessionState::Alive;
            assert!(key.is_some() || !alive, "session {n} believes to be alive, its key is gone");
        }
        self.workers.shutdown().await;
        kv.put(LAST, "").await.expect("the store is there");
        let watch = Watch::new(KeyRange::all()).start_at(self.first);
        let watch = kv.watch(watch).await.expect("the store is there");
        let history = timeout(secs(60), collect(watch)).await.expect("the history has an end");
        let watched = timeout(secs(60), self.watchers.join_all()).await;

        let faults = locked(&self.board.faults);
        assert!(faults.is_empty(), "{faults:#?}");
        for seen in watched.expect("every watcher sees the end") {
            compare(&seen, &history);
        }
        judge_writers(&self.board, &history);
        judge_tokens(&history);
        assert!(self.board.marks().iter().all(|mark| *mark > 0), "{:?}", self.board.marks());
    }
}

/// Everything a watch says, until the very last.
async fn collect(mut watch: Watcher) -> Vec<Batch> {
    let mut seen = Vec::new();
    loop {
        let batch = watch.next().await.expect("a watch has no end");
        let batch = batch.expect("nothing is compacted, so every loss can be mended");
        if batch.events.is_empty() {
            continue;
        }
        let last = batch.events.iter().any(|event| event.kv.key == LAST);
        seen.push((batch.revision, batch.events));
        if last {
            return seen;
        }
    }
}

/// Tells whether the session knew before its key was deleted.
async fn wake(mut gone: Watcher, session: Session, board: Arc<Board>) {
    let batch = gone.next().await;
    let state = session.state();
    if !matches!(state, SessionState::Lost(_)) {
        board.fault(format!("a session was {state} when its key was gone: {batch:?}"));
    }
}

async fn write(kv: Client, writer: usize, board: Arc<Board>) {
    for n in 0_usize.. {
        // Before the answer, nobody knows.
        locked(&board.told[writer]).push(Told::Unknown);
        let told = match kv.put(format!("n/{writer}"), n.to_string()).await {
            Ok(response) => Told::Applied(response.header.revision),
            Err(error) if error.outcome() == Outcome::NotApplied => Told::NotApplied,
            Err(_) => Told::Unknown,
        };
        locked(&board.told[writer])[n] = told;
        sleep(PAUSE).await;
    }
}

/// Somebody who believes to hold the lock, as long as it is not dropped.
struct Holder<'a>(&'a Board);

impl<'a> Holder<'a> {
    fn new(board: &'a Board) -> Self {
        if board.holders.fetch_add(1, Ordering::SeqCst) > 0 {
            board.fault("two believe to hold the lock".to_owned());
        }
        Self(board)
    }
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        self.0.holders.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn lock(kv: Client, locker: usize, board: Arc<Board>) {
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
                let _holder = Holder::new(&board);
                for _ in 0..2 {
                    write_under(&guard, &board).await;
                    sleep(PAUSE).await;
                }
            };
            if guard.run_while_held(work).await.is_ok() {
                board.held[locker].fetch_add(1, Ordering::Relaxed);
            }
            let _ = guard.unlock().await;
        }
    }
}

async fn write_under(guard: &MutexGuard, board: &Board) {
    let put = Put::new("token", guard.fencing_token().to_string());
    match guard.txn(Txn::new().and_then([put])).await {
        Ok(_) | Err(PrimitiveError::Lost(_)) => {}
        Err(error) if error.is_retryable() => {}
        Err(error) => board.fault(format!("a guarded write: {error}")),
    }
}

/// A watcher has seen all of the history from where it began.
fn compare(seen: &[Batch], history: &[Batch]) {
    let begin = seen.first().expect("it has seen the last, at least").0;
    let from = history.partition_point(|batch| batch.0 < begin);
    let history = &history[from..];
    for (seen, was) in seen.iter().zip(history) {
        assert_eq!(seen, was, "a watcher saw this where the history has that");
    }
    assert_eq!(seen.len(), history.len(), "a watcher saw fewer or more than there were");
}

fn judge_writers(board: &Board, history: &[Batch]) {
    for (writer, told) in board.told.iter().enumerate() {
        let key = format!("n/{writer}");
        let told = locked(told);
        let mut revisions = vec![Vec::new(); told.len()];
        for (revision, event) in events(history).filter(|(_, event)| event.kv.key == key) {
            revisions[number(event)].push(revision);
        }
        for (n, (told, were)) in told.iter().zip(&revisions).enumerate() {
            let true_word = match told {
                Told::Applied(revision) => were[..] == [*revision],
                Told::NotApplied => were.is_empty(),
                Told::Unknown => were.len() <= 1,
            };
            assert!(true_word, "put {n} of writer {writer}: told {told:?}, was at {were:?}");
        }
    }
}

fn judge_tokens(history: &[Batch]) {
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
