//! One run of a case: drops the future under test, and lets other clients proceed.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex as SyncMutex};
use std::task::Poll;
use std::time::Duration;

use coord_core::kv::{FencingToken, KeyRange, Range};
use coord_core::{Client, Mutex, Session, sync};
use coord_testkit::poll_at_most;
use coord_testkit::sim::{Process, Sim};
use tokio::time::{sleep, timeout};

use super::Schedule;
use crate::support::{keys, secs};

/// The TTL of the sessions and leases of all cases.
pub(super) const TTL: Duration = secs(10);

/// How long a partitioned process is cut from the store after the drop.
const PARTITION: Duration = secs(3);

/// How much later the messages arrive that are in flight at the drop: later than every timeout, and
/// than a TTL.
pub(super) const LATENESS: Duration = secs(15);

/// How late one message is at most that was sent before the drop.
const DELAY_MAX: Duration = secs(1);

/// How long another client may take for a follow-up while no message is held back.
pub(super) const FOLLOW_UP: Duration = secs(1);

/// Whether the future under test was dropped.
#[derive(Clone, Default)]
pub(super) struct Ends(Arc<SyncMutex<EndsState>>);

#[derive(Default)]
struct EndsState {
    /// In the current run; `None` until it was dropped or has completed.
    is_dropped: Option<bool>,
    /// In any run of the drop point.
    has_any_dropped: bool,
}

impl Ends {
    /// Notes that a run starts.
    fn start_run(&self) {
        sync::lock(&self.0).is_dropped = None;
    }

    fn note(&self, is_dropped: bool) {
        let mut ends = sync::lock(&self.0);
        assert_eq!(ends.is_dropped.replace(is_dropped), None, "a case drops one future");
        ends.has_any_dropped |= is_dropped;
    }

    /// Whether the future was dropped in any run.
    ///
    /// # Panics
    /// If the last run has not called [`Trial::drop_at_await`].
    pub(super) fn has_any_dropped(&self) -> bool {
        let ends = sync::lock(&self.0);
        assert!(ends.is_dropped.is_some(), "the case has not called `drop_at_await`");
        ends.has_any_dropped
    }
}

/// One run of a case: one drop point under one schedule.
#[derive(Clone)]
pub(super) struct Trial {
    sim: Sim,
    /// The process whose future is dropped.
    pub(super) process: Process,
    /// Another process, which must proceed after the drop.
    pub(super) other: Process,
    /// A process that holds what the future under test waits for.
    pub(super) holder: Process,
    polls: usize,
    pub(super) schedule: Schedule,
    ends: Ends,
}

impl Trial {
    pub(super) fn new(
        sim: &Sim,
        process: Process,
        (polls, schedule): (usize, Schedule),
        ends: Ends,
    ) -> Self {
        ends.start_run();
        // The processes have no task of their own: the case uses their clients.
        let (other, holder) = (sim.spawn("other", async |_| {}), sim.spawn("holder", async |_| {}));
        Self { sim: sim.clone(), process, other, holder, polls, schedule, ends }
    }

    /// The client of the process whose future is dropped.
    pub(super) const fn client(&self) -> &Client {
        self.process.client()
    }

    /// Opens a session of the process whose future is dropped.
    pub(super) async fn session(&self) -> Session {
        session_of(&self.process).await
    }

    /// Polls the future under test up to the drop point of this run, and drops it there. Returns
    /// its output if it has completed before.
    pub(super) async fn drop_at_await<F: Future + Send>(&self, future: F) -> Option<F::Output> {
        let output = match self.schedule {
            Schedule::Delivered => drop_when_woken(self.polls, future).await,
            _ => poll_at_most(self.polls, future).await,
        };
        self.ends.note(output.is_none());
        match self.schedule {
            Schedule::Partitioned if output.is_none() => self.process.partition(PARTITION),
            Schedule::Late if output.is_none() => self.process.delay_in_flight(LATENESS),
            // Later messages are on time.
            Schedule::OneDelayed => self.sim.heal(),
            _ => {}
        }
        output
    }

    /// Whether the future under test was dropped.
    pub(super) fn is_dropped(&self) -> bool {
        sync::lock(&self.ends.0).is_dropped == Some(true)
    }

    /// Waits for a follow-up, which must complete within a second from when the process can send
    /// messages again.
    pub(super) async fn proceeds<T>(&self, follow_up: impl Future<Output = T> + Send) -> T {
        let held = match self.schedule {
            Schedule::Partitioned => PARTITION,
            Schedule::OneDelayed => DELAY_MAX,
            _ => Duration::ZERO,
        };
        completes(FOLLOW_UP + held, follow_up).await
    }

    /// Waits for a follow-up of the same process that may wait for a message that was in flight at
    /// the drop: its limit begins when that has arrived.
    pub(super) async fn continues<T>(&self, follow_up: impl Future<Output = T> + Send) -> T {
        match self.schedule {
            Schedule::Late => completes(LATENESS + FOLLOW_UP, follow_up).await,
            _ => self.proceeds(follow_up).await,
        }
    }

    /// Another process acquires and releases the lock `name`. Returns its fencing token.
    pub(super) async fn other_locks(&self, name: &'static str) -> FencingToken {
        let session = session_of(&self.other).await;
        let guard = self.proceeds(Mutex::new(&session, name).lock()).await.unwrap();
        let token = guard.fencing_token();
        guard.unlock().await.unwrap();
        session.close().await.unwrap();
        token
    }

    /// Checks that another client can acquire the lock or other queue `name`: at once, and again
    /// when all messages have arrived. Then no key is in the queue, although the session still
    /// lives.
    pub(super) async fn queue_is_free(&self, name: &'static str) {
        let first = self.other_locks(name).await;
        self.messages_arrive().await;
        assert_eq!(keys(self.other.client(), name).await, [""; 0], "left in the queue");
        assert!(self.other_locks(name).await > first, "fencing tokens grow");
    }

    /// Waits until all messages have arrived, and what they have created is deleted or has expired.
    pub(super) async fn messages_arrive(&self) {
        let late = if self.schedule == Schedule::Late { LATENESS + TTL } else { PARTITION };
        sleep(late + TTL).await;
    }
}

/// Waits for `follow_up`, which must complete within `limit`.
async fn completes<T>(limit: Duration, follow_up: impl Future<Output = T> + Send) -> T {
    match timeout(limit, follow_up).await {
        Ok(output) => output,
        Err(_) => panic!("the follow-up does not complete within {limit:?}"),
    }
}

/// Polls `future` at most `polls` times, and drops it when it is woken once more.
async fn drop_when_woken<F: Future + Send>(polls: usize, future: F) -> Option<F::Output> {
    let (mut future, mut left) = (pin!(future), polls);
    poll_fn(move |cx| match left {
        0 => Poll::Ready(None),
        _ => {
            left -= 1;
            future.as_mut().poll(cx).map(Some)
        }
    })
    .await
}

/// Opens a session of a process.
pub(super) async fn session_of(process: &Process) -> Session {
    Session::builder(process.client()).ttl(TTL).open().await.unwrap()
}

/// Closes a session, and checks that it leaves no key and no lease.
pub(super) async fn close(session: &Session) {
    session.close().await.unwrap();
    assert_nothing_left(session.client()).await;
}

/// Checks that the store has no lease, and no key except data of the case.
pub(super) async fn assert_nothing_left(client: &Client) {
    assert_eq!(client.leases().await.unwrap().leases, [], "leases are left");
    let all = client.range(Range::new(KeyRange::all())).await.unwrap();
    let is_data = |key: &[u8]| key.starts_with(b"data/") || key.starts_with(b"coord/limit/data/");
    let left: Vec<_> = all.kvs.iter().filter(|kv| !is_data(&kv.key)).collect();
    assert!(left.is_empty(), "keys are left: {left:?}");
}
