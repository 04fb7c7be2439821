//! Cancellation: drops every public async function of `coord-core` at every await.
//!
//! A [`Case`] is an ordinary async function that prepares something, calls the function under test
//! in [`Trial::drop_at_await`], and then checks what is left. The harness runs it in a world of its
//! own with the first poll only, then with two polls, and so on, until the future completes. In the
//! world each request and each response takes a millisecond, so that every await of a response is
//! an await at which the future can be dropped. Each drop point is run under each [`Schedule`]:
//!
//! ```text
//! subject      lock(): sends a request ... dropped here, at poll k
//! on time               the request arrives, then the cleanup that the drop has started
//! partitioned           3 s later: first the request, then the cleanup
//! late                  the cleanup arrives; 10 s later the request, which creates the key
//! delivered             the response arrives, and only then the future is dropped, with it
//! ```
//!
//! After a drop each case checks three things:
//!
//! - *others proceed*: another client locks, is elected or commits within [`Trial::proceeds`];
//! - *nothing is left*: when the messages have arrived, no key is under the name of the primitive,
//!   although the session still lives; when the session is closed, no key and no lease exists;
//! - *at most once*: a change has not been applied twice, and fencing tokens grow.
//!
//! The table that [`every_public_async_function_has_a_case`] checks is the cases themselves: each
//! names the functions that it drops.

mod client;
mod election;
mod leases;
mod mutex;
mod queue;
mod session;
mod stm;
mod supervisor;

use std::collections::BTreeSet;
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex as SyncMutex};
use std::task::Poll;
use std::time::Duration;

use coord_core::kv::KeyRange;
use coord_core::{Client, Mutex, Session};
use coord_testkit::poll_at_most;
use coord_testkit::sim::{Process, Sim, Sweep};
use futures_util::future::BoxFuture;
use tokio::time::{sleep, timeout};

use crate::support::{POLLS_MAX, keys, secs};
use crate::tidy::public_async_functions;

/// The TTL of the sessions and leases of all cases.
const TTL: Duration = secs(10);

/// How long a partitioned process is cut from the store after the drop.
const PARTITION: Duration = secs(3);

/// How much later the messages arrive that are in flight at the drop: later than every timeout.
const LATENESS: Duration = secs(10);

/// How long another client may take for a follow-up while no message is held back.
const FOLLOW_UP: Duration = secs(1);

/// What becomes of the messages of the process after the drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Schedule {
    /// They arrive after a millisecond.
    OnTime,
    /// The process is partitioned from the store for some time, then they arrive in order.
    Partitioned,
    /// Those in flight arrive late, those that are sent after the drop arrive before them.
    Late,
    /// The next one has arrived: the future is dropped when it is woken, instead of polled again.
    Delivered,
}

impl Schedule {
    const ALL: [Self; 4] = [Self::OnTime, Self::Partitioned, Self::Late, Self::Delivered];
}

/// What became of the future under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Dropped,
    Completed,
}

/// Functions of `coord-core`, and how they are called, dropped and checked.
struct Case {
    /// `Type::function`, for each function that the case covers.
    functions: &'static [&'static str],
    /// What distinguishes the case from others of the same functions.
    when: &'static str,
    run: Box<dyn Fn(Trial) -> BoxFuture<'static, ()> + Sync>,
}

impl Case {
    fn new<F: Future<Output = ()> + Send + 'static>(
        functions: &'static [&'static str],
        when: &'static str,
        run: impl Fn(Trial) -> F + Sync + 'static,
    ) -> Self {
        Self { functions, when, run: Box::new(move |trial| Box::pin(run(trial))) }
    }

    /// Runs one drop point under one schedule, and returns whether the future was dropped there.
    fn run_once(&self, polls: usize, schedule: Schedule) -> End {
        let end = Arc::new(SyncMutex::new(None));
        let name = format!("{self}, {polls} polls, {schedule:?}");
        Sweep::new(&name).replay("", |sim| {
            let trial = |process| Trial::new(&sim, process, (polls, schedule), Arc::clone(&end));
            let _subject = sim.spawn("subject", |process| (self.run)(trial(process)));
            async move {
                sim.join().await;
                assert_nothing_left(sim.client()).await;
            }
        });
        let end = end.lock().unwrap().take();
        end.unwrap_or_else(|| panic!("{name}: `drop_at_await` was not called"))
    }

    /// Drops the future at its first await, its second, and so on, until it completes. Returns the
    /// number of drop points.
    fn drop_at_every_await(&self) -> usize {
        for polls in 1..POLLS_MAX {
            let ends = Schedule::ALL.map(|schedule| self.run_once(polls, schedule));
            assert!(ends.iter().all(|end| *end == ends[0]), "{self}: {ends:?} at poll {polls}");
            if ends[0] == End::Completed {
                assert!(polls > 1, "{self}: complete after one poll, and so never dropped");
                return polls - 1;
            }
        }
        panic!("{self}: not complete after {POLLS_MAX} polls");
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.functions.join(", "), self.when)
    }
}

/// Drops the functions of all cases at every await, and prints how many drop points each has.
#[expect(clippy::print_stdout, reason = "the output of a test that is run with `--nocapture`")]
fn drop_all(cases: &[Case]) {
    for case in cases {
        println!("{:>3} drop points: {case}", case.drop_at_every_await());
    }
}

/// One run of a case: one drop point under one schedule.
#[derive(Clone)]
struct Trial {
    /// The process whose future is dropped.
    process: Process,
    /// Another process, which must proceed after the drop.
    other: Process,
    /// A process that holds what the future under test waits for.
    holder: Process,
    polls: usize,
    schedule: Schedule,
    end: Arc<SyncMutex<Option<End>>>,
}

impl Trial {
    fn new(
        sim: &Sim,
        process: Process,
        (polls, schedule): (usize, Schedule),
        end: Arc<SyncMutex<Option<End>>>,
    ) -> Self {
        *end.lock().unwrap() = None;
        // The processes have no task of their own: the case uses their clients.
        let (other, holder) = (sim.spawn("other", async |_| {}), sim.spawn("holder", async |_| {}));
        Self { process, other, holder, polls, schedule, end }
    }

    /// The client of the process whose future is dropped.
    const fn client(&self) -> &Client {
        self.process.client()
    }

    /// Opens a session of the process whose future is dropped.
    async fn session(&self) -> Session {
        session_of(&self.process).await
    }

    /// Polls the future under test up to the drop point of this run, and drops it there. Returns
    /// its output if it has completed before.
    async fn drop_at_await<F: Future + Send>(&self, future: F) -> Option<F::Output> {
        let output = match self.schedule {
            Schedule::Delivered => drop_when_woken(self.polls, future).await,
            _ => poll_at_most(self.polls, future).await,
        };
        let end = if output.is_some() { End::Completed } else { End::Dropped };
        let earlier = self.end.lock().unwrap().replace(end);
        assert_eq!(earlier, None, "a case drops one future");
        if end == End::Dropped {
            match self.schedule {
                Schedule::OnTime | Schedule::Delivered => {}
                Schedule::Partitioned => self.process.partition(PARTITION),
                Schedule::Late => self.process.delay_in_flight(LATENESS),
            }
        }
        output
    }

    /// Whether the future under test was dropped.
    fn is_dropped(&self) -> bool {
        *self.end.lock().unwrap() == Some(End::Dropped)
    }

    /// Waits for a follow-up, which must complete within a second from when the process can send
    /// messages again.
    async fn proceeds<T>(&self, follow_up: impl Future<Output = T> + Send) -> T {
        let held = if self.schedule == Schedule::Partitioned { PARTITION } else { Duration::ZERO };
        completes(FOLLOW_UP + held, follow_up).await
    }

    /// Waits for a follow-up of the same process that may wait for a message that was in flight at
    /// the drop: its limit begins when that has arrived.
    async fn continues<T>(&self, follow_up: impl Future<Output = T> + Send) -> T {
        match self.schedule {
            Schedule::Late => completes(LATENESS + FOLLOW_UP, follow_up).await,
            _ => self.proceeds(follow_up).await,
        }
    }

    /// Another process acquires and releases the lock `name`. Returns its fencing token.
    async fn other_locks(&self, name: &'static str) -> i64 {
        let session = session_of(&self.other).await;
        let guard = self.proceeds(Mutex::new(&session, name).lock()).await.unwrap();
        let token = guard.fencing_token();
        guard.unlock().await.unwrap();
        session.close().await.unwrap();
        token.0.0
    }

    /// Checks that the lock or other queue `name` is left to others: at once, and again when all
    /// messages have arrived. Then no key is in the queue, although the session still lives.
    async fn queue_is_free(&self, name: &'static str) {
        let first = self.other_locks(name).await;
        self.messages_arrive().await;
        assert_eq!(keys(self.other.client(), name).await, [""; 0], "left in the queue");
        assert!(self.other_locks(name).await > first, "fencing tokens grow");
    }

    /// Waits until all messages have arrived, and the cleanup of what they have created has ended.
    async fn messages_arrive(&self) {
        sleep(LATENESS + 2 * TTL).await;
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
async fn session_of(process: &Process) -> Session {
    Session::builder(process.client()).ttl(TTL).open().await.unwrap()
}

/// Closes a session, and checks that it leaves no key and no lease.
async fn close(session: &Session) {
    session.close().await.unwrap();
    assert_nothing_left(session.client()).await;
}

/// Checks that the store has no lease, and no key except data of the case.
async fn assert_nothing_left(client: &Client) {
    assert_eq!(client.leases().await.unwrap().leases, [], "leases are left");
    let all = client.range(coord_core::kv::Range::new(KeyRange::all())).await.unwrap();
    let left: Vec<_> = all.kvs.iter().filter(|kv| !kv.key.starts_with(b"data/")).collect();
    assert!(left.is_empty(), "keys are left: {left:?}");
}

/// A new public async function needs a case.
#[test]
fn every_public_async_function_has_a_case() {
    let cases = [
        client::cases(),
        election::cases(),
        leases::cases(),
        mutex::cases(),
        queue::cases(),
        session::cases(),
        stm::cases(),
        supervisor::cases(),
    ];
    let covered: BTreeSet<_> =
        cases.iter().flatten().flat_map(|case| case.functions).map(ToString::to_string).collect();
    let public = public_async_functions("crates/coord-core/src");
    let missing: Vec<_> = public.difference(&covered).collect();
    assert!(missing.is_empty(), "add a case to tests/it/sim/cancellation for {missing:?}");
    let unknown: Vec<_> = covered.difference(&public).collect();
    assert!(unknown.is_empty(), "cases of functions that do not exist: {unknown:?}");
}
