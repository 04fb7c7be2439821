//! Hand-off: a release reads the position of the successor, if both use one client.
//!
//! The hand-off saves requests and nothing depends on it: the successor acquires whatever happens
//! to the release.

use std::time::Duration;

use coord_core::queue::{Contender, WaitQueue};
use coord_core::{
    Client,
    error::{LossReason, PrimitiveError},
    kv::{Op, Range},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Calls, Recorder, Rule, poll_at_most};
use futures_util::poll;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::enqueue;
use crate::support::{POLLS_MAX, intercepted, keys, secs, session, session_on, settle};

/// Enqueues on a new session of `client`.
async fn enqueue_through(client: &Client) -> Contender {
    enqueue(&session_on(client).await).await
}

/// Tasks that wait with contenders, and return each contender when it has acquired.
#[derive(Default)]
struct WaiterTasks(JoinSet<Contender>);

impl WaiterTasks {
    /// Starts to wait with `contender`, and returns when it is attached to its predecessor.
    async fn start(&mut self, mut contender: Contender) {
        self.0.spawn(async move {
            contender.acquired().await.expect("the contender acquires");
            contender
        });
        settle().await;
    }

    /// The contender that acquires within 50 ms.
    async fn next_acquired_within_50_ms(&mut self) -> Option<Contender> {
        timeout(Duration::from_millis(50), self.next_acquired()).await.ok()
    }

    /// Waits until a contender acquires.
    async fn next_acquired(&mut self) -> Contender {
        self.0.join_next().await.expect("a contender waits").expect("no panic")
    }
}

/// The recorded calls on the queue: all calls except calls on leases.
fn take_queue_calls(recorder: &Recorder) -> Calls {
    let mut calls = recorder.take();
    calls.0.retain(|call| !call.name().starts_with("lease"));
    calls
}

fn is_delete(op: &Op) -> bool {
    matches!(op, Op::Delete(_))
}

#[tokio::test(start_paused = true)]
async fn release_hands_over_to_successor_of_same_client() {
    for action in [Action::Pass, Action::Yield] {
        let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
        let recording = recorder.clone();
        let client = intercepted(&store, move |call: &Call| {
            recording.action(call);
            action.clone()
        });
        let mut holder = enqueue_through(&client).await;
        let mut waiters = WaiterTasks::default();
        for _ in 0..9 {
            waiters.start(enqueue_through(&client).await).await;
        }
        for behind in (0..9).rev() {
            recorder.take();
            let token = holder.fencing_token();
            holder.release().await.unwrap();
            holder = waiters.next_acquired_within_50_ms().await.expect("the successor acquires");
            assert!(token < holder.fencing_token(), "contenders acquire in order");
            assert_eq!(take_queue_calls(&recorder).names(), "txn", "{behind} behind it");
            let header = store.range(Range::new("-")).await.unwrap().header;
            assert_eq!(holder.header().revision, header.revision, "header of the hand-off");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn successor_with_deleted_key_does_not_acquire() {
    let store = Client::new(MemBackend::new());
    let client = intercepted(&store, Recorder::new());
    let (holder, mut waiter) = (enqueue_through(&client).await, enqueue_through(&client).await);
    let key = waiter.key().clone();
    let ((), acquired) = tokio::join!(
        async {
            // Before the waiter watches its own key.
            settle().await;
            store.delete(&key).await.unwrap();
            holder.release().await.unwrap();
        },
        waiter.acquired()
    );
    assert!(matches!(acquired, Err(PrimitiveError::Lost(LossReason::KeyDeleted))), "{acquired:?}");
}

/// A contender that is not first cannot hand over, because other contenders are ahead of both.
#[tokio::test(start_paused = true)]
async fn release_by_waiter_does_not_read_successor() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let client = intercepted(&store, recorder.clone());
    let (holder, middle) = (enqueue_through(&client).await, enqueue_through(&client).await);
    let mut waiters = WaiterTasks::default();
    waiters.start(enqueue_through(&client).await).await;
    recorder.take();
    middle.release().await.unwrap();
    assert!(waiters.next_acquired_within_50_ms().await.is_none(), "the holder was not released");
    let calls = take_queue_calls(&recorder);
    let [Call::Txn(release), Call::Range(_)] = &calls.0[..] else { panic!("{calls}") };
    assert!(matches!(release.success[..], [Op::Delete(_)]), "{calls}");
    holder.release().await.unwrap();
    assert!(waiters.next_acquired_within_50_ms().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn successor_acquires_when_release_request_fails() {
    for action in [Action::DropRequest, Action::DropResponse, Action::Hang, Action::Delay(secs(1))]
    {
        let (store, case) = (Client::new(MemBackend::new()), format!("{action:?}"));
        let client = intercepted(&store, move |call: &Call| match call {
            Call::Txn(txn) if txn.success.len() == 2 && is_delete(&txn.success[0]) => {
                action.clone()
            }
            _ => Action::Pass,
        });
        let (holder, waiter) = (enqueue_through(&client).await, enqueue_through(&client).await);
        let mut waiters = WaiterTasks::default();
        waiters.start(waiter).await;
        let started = Instant::now();
        // A cancelled release continues in the background.
        let _ = timeout(secs(1) / 2, holder.release()).await;
        let successor = timeout(secs(5), waiters.next_acquired()).await.expect(&case);
        assert!(started.elapsed() <= secs(2), "{case}: {:?}", started.elapsed());
        let remaining = keys(&store, "l/").await;
        assert_eq!(remaining, [successor.key().escape_ascii().to_string()], "{case}");
    }
}

/// The release was applied, but its future is never polled again, so the hand-off never arrives.
#[tokio::test(start_paused = true)]
async fn successor_acquires_soon_after_release_stalls() {
    let store = Client::new(MemBackend::new());
    let client = intercepted(&store, |_: &Call| Action::Yield);
    let (holder, waiter) = (enqueue_through(&client).await, enqueue_through(&client).await);
    let key = holder.key().escape_ascii().to_string();
    let mut waiters = WaiterTasks::default();
    waiters.start(waiter).await;
    let mut release = std::pin::pin!(holder.release());
    while keys(&store, "l/").await.contains(&key) {
        assert!(poll!(release.as_mut()).is_pending());
    }
    let started = Instant::now();
    let _successor = waiters.next_acquired().await;
    assert!(started.elapsed() <= Duration::from_millis(100), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn successor_acquires_when_release_is_dropped_at_any_await() {
    for polls in 1..POLLS_MAX {
        let store = Client::new(MemBackend::new());
        let client = intercepted(&store, |_: &Call| Action::Yield);
        let (holder, waiter) = (enqueue_through(&client).await, enqueue_through(&client).await);
        let mut waiters = WaiterTasks::default();
        waiters.start(waiter).await;
        let is_complete = poll_at_most(polls, holder.release()).await.is_some();
        settle().await;
        assert!(
            waiters.next_acquired_within_50_ms().await.is_some(),
            "dropped after {polls} polls"
        );
        if is_complete {
            assert!(polls > 2, "complete after {polls} polls: never dropped at an await");
            return;
        }
    }
    panic!("not complete after {POLLS_MAX} polls");
}

/// Two clients of one store share nothing, like two processes.
#[tokio::test(start_paused = true)]
async fn successor_of_another_client_reads_its_position() {
    let (store, recorder) = (Client::new(MemBackend::new()), Recorder::new());
    let holder = enqueue(&session(&store).await).await;
    let client = intercepted(&store, recorder.clone());
    let mut waiters = WaiterTasks::default();
    waiters.start(enqueue_through(&client).await).await;
    recorder.take();
    holder.release().await.unwrap();
    assert!(waiters.next_acquired_within_50_ms().await.is_some());
    assert_eq!(take_queue_calls(&recorder).names(), "range");
}

/// A sleep of no time takes until the timer's next tick, so each waiter behind a holder of another
/// client acquired up to two milliseconds late.
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
