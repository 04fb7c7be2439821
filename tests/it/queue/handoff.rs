//! Who leaves looks for who is next, if that one is in the same process. Nothing depends on it:
//! whatever becomes of the one who leaves, the next one is served when its turn has come.

use coord_mem::MemBackend;
use std::time::Duration;

use coord_core::queue::{Contender, WaitQueue};
use coord_core::{
    Client,
    error::{LossReason, PrimitiveError},
    kv::Op,
};
use coord_testkit::{Action, Call, Calls, Recorder, Rule, poll_at_most};
use futures_util::poll;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::support::{POLLS_MAX, behind, keys, secs, session, session_on, settle};

/// A process: sessions on one backend.
struct Process {
    backend: Client,
}

impl Process {
    fn new(store: &Client, rule: impl Rule) -> Self {
        Self { backend: behind(store, rule) }
    }

    /// One more session of it, in the line `l`.
    async fn join(&self) -> Contender {
        let session = session_on(self.backend.clone()).await;
        WaitQueue::new(&session, "l").enqueue("").await.expect("the store is there")
    }
}

/// Contenders that wait, and give themselves back when they are served.
#[derive(Default)]
struct Waiting(JoinSet<Contender>);

impl Waiting {
    async fn add(&mut self, mut contender: Contender) {
        self.0.spawn(async move {
            contender.acquired().await.expect("its turn comes");
            contender
        });
        // It has its watch, and sleeps.
        settle().await;
    }

    /// Who is served within a moment.
    async fn served(&mut self) -> Option<Contender> {
        let served = timeout(Duration::from_millis(50), self.0.join_next()).await.ok()??;
        Some(served.expect("no panic"))
    }
}

/// What was asked about the line.
fn asked(record: &Recorder) -> Calls {
    let mut calls = record.take();
    calls.0.retain(|call| !call.name().starts_with("lease"));
    calls
}

#[tokio::test(start_paused = true)]
async fn successor_in_the_same_process_is_served_by_the_request_that_leaves() {
    for rule in [Action::Pass, Action::Yield] {
        let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
        let recorded = record.clone();
        let process = Process::new(&store, move |call: &Call| {
            recorded.action(call);
            rule.clone()
        });
        let mut holder = process.join().await;
        let mut waiting = Waiting::default();
        for _ in 0..9 {
            waiting.add(process.join().await).await;
        }
        for left in (0..9).rev() {
            record.take();
            let token = holder.fencing_token();
            holder.release().await.unwrap();
            holder = waiting.served().await.expect("its turn came");
            assert!(token < holder.fencing_token(), "first come, first served");
            assert_eq!(asked(&record).names(), "txn", "{left} are behind it");
            let header = store.range(coord_core::kv::Range::new("-")).await.unwrap().header;
            assert_eq!(holder.header().revision, header.revision, "seen when the turn came");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn successor_whose_key_is_gone_is_not_served() {
    let store = Client::new(MemBackend::new());
    let process = Process::new(&store, Recorder::new());
    let (holder, mut waiter) = (process.join().await, process.join().await);
    let key = waiter.key().clone();
    let ((), waited) = tokio::join!(
        async {
            // Before it watches its own key.
            settle().await;
            store.delete(&key).await.unwrap();
            holder.release().await.unwrap();
        },
        waiter.acquired()
    );
    assert!(matches!(waited, Err(PrimitiveError::Lost(LossReason::KeyDeleted))), "{waited:?}");
}

/// Whoever is not first knows nothing of those before it.
#[tokio::test(start_paused = true)]
async fn one_who_gives_up_before_its_turn_does_not_look_for_its_successor() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let process = Process::new(&store, record.clone());
    let (holder, middle) = (process.join().await, process.join().await);
    let mut waiting = Waiting::default();
    waiting.add(process.join().await).await;
    record.take();
    middle.release().await.unwrap();
    assert!(waiting.served().await.is_none(), "the holder is there");
    let calls = asked(&record);
    let [Call::Txn(leave), Call::Range(_)] = &calls.0[..] else { panic!("{calls}") };
    assert!(matches!(leave.success[..], [Op::Delete(_)]), "{calls}");
    holder.release().await.unwrap();
    assert!(waiting.served().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn successor_of_one_whose_request_to_leave_fails_is_served_all_the_same() {
    let fates = [Action::DropRequest, Action::DropResponse, Action::Hang, Action::Delay(secs(1))];
    for fate in fates {
        let (store, about) = (Client::new(MemBackend::new()), format!("{fate:?}"));
        let process = Process::new(&store, move |call: &Call| match call {
            Call::Txn(txn) if txn.success.len() == 2 && is_delete(&txn.success[0]) => fate.clone(),
            _ => Action::Pass,
        });
        let (holder, waiter) = (process.join().await, process.join().await);
        let mut waiting = Waiting::default();
        waiting.add(waiter).await;
        let began = Instant::now();
        // Given up, it leaves in the background.
        let _ = timeout(secs(1) / 2, holder.release()).await;
        let served = timeout(secs(5), waiting.0.join_next()).await.expect(&about);
        let served = served.expect("it waits").expect("no panic");
        assert!(began.elapsed() <= secs(2), "{about}: {:?}", began.elapsed());
        assert_eq!(keys(&store, "l/").await, [served.key().escape_ascii().to_string()], "{about}");
    }
}

/// Its request has been applied, and nobody will ever hear what it has seen.
#[tokio::test(start_paused = true)]
async fn one_who_stops_while_it_leaves_delays_its_successor_by_a_moment() {
    let store = Client::new(MemBackend::new());
    let process = Process::new(&store, |_: &Call| Action::Yield);
    let (holder, waiter) = (process.join().await, process.join().await);
    let key = holder.key().escape_ascii().to_string();
    let mut waiting = Waiting::default();
    waiting.add(waiter).await;
    let mut leave = std::pin::pin!(holder.release());
    while keys(&store, "l/").await.contains(&key) {
        assert!(poll!(leave.as_mut()).is_pending());
    }
    let began = Instant::now();
    let _served = waiting.0.join_next().await.expect("it waits").expect("no panic");
    assert!(began.elapsed() <= Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn dropping_a_leave_at_any_await_serves_the_successor() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        let process = Process::new(&store, |_: &Call| Action::Yield);
        let (holder, waiter) = (process.join().await, process.join().await);
        let mut waiting = Waiting::default();
        waiting.add(waiter).await;
        let done = poll_at_most(polls, holder.release()).await.is_some();
        settle().await;
        let served = waiting.served().await;
        assert!(served.is_some(), "dropped after {polls} polls");
        if done {
            assert!(polls > 2, "the future was never dropped on its way");
            return;
        }
    }
    panic!("it never left");
}

/// Another backend on the same store is another client, as if it were another process.
#[tokio::test(start_paused = true)]
async fn successor_on_another_backend_looks_for_itself() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let holder = WaitQueue::new(&session(&store).await, "l").enqueue("").await.unwrap();
    let process = Process::new(&store, record.clone());
    let mut waiting = Waiting::default();
    waiting.add(process.join().await).await;
    record.take();
    holder.release().await.unwrap();
    assert!(waiting.served().await.is_some());
    assert_eq!(asked(&record).names(), "range");
}

fn is_delete(op: &Op) -> bool {
    matches!(op, Op::Delete(_))
}

/// A sleep of no time takes until the timer's next tick, so each hand-off between two clients took
/// up to two milliseconds longer.
#[tokio::test(start_paused = true)]
async fn waiter_behind_another_client_acquires_without_a_pause() {
    let store = Client::new(MemBackend::new());
    let mut contenders = Vec::new();
    for session in [session(&store).await, session(&store).await] {
        contenders.push(WaitQueue::new(&session, "q").enqueue("").await.unwrap());
    }
    let (mut waiter, holder) = (contenders.pop().unwrap(), contenders.pop().unwrap());
    // Between two ticks even an empty sleep moves the clock.
    tokio::time::advance(Duration::from_micros(500)).await;
    let began = Instant::now();
    let acquired = async { waiter.acquired().await.map(drop) };
    let released = async {
        // The waiter has its watch.
        for _ in 0..POLLS_MAX {
            tokio::task::yield_now().await;
        }
        holder.release().await
    };
    let (acquired, released) = tokio::join!(acquired, released);
    acquired.unwrap();
    released.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
}
