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
//! late                  the cleanup arrives; 15 s later the request, which creates the key
//! delivered             the response arrives, and only then the future is dropped, with it
//! one delayed           one message before the drop is late or overtaken: a run for each
//! ```
//!
//! After a drop the cases check three things:
//!
//! - *others proceed*: another client locks, is elected or commits within [`Trial::proceeds`];
//! - *nothing is left*: when the messages have arrived, no key is under the name of the primitive,
//!   although the session still lives; when the session is closed, no lease exists, and no key
//!   except data of the case;
//! - *at most once*: a change has not been applied twice, and fencing tokens grow.
//!
//! Each case names the functions that it drops. [`every_public_async_function_has_a_case`] compares
//! these names with the public async functions of `coord-core`.

mod barrier;
mod client;
mod double_barrier;
mod election;
mod leases;
mod membership;
mod message_queue;
mod multi_lock;
mod mutex;
mod prefix_cache;
mod queue;
mod rate_limiter;
mod release_requests;
mod resume;
mod rwlock;
mod semaphore;
mod session;
mod shard_assignment;
mod shared_values;
mod stm;
mod supervisor;
mod trial;

use std::collections::BTreeSet;
use std::fmt;

use coord_testkit::sim::{Fault, Sim, Sweep};
use futures_util::future::BoxFuture;

use crate::support::POLLS_MAX;
use crate::tidy::public_async_functions;
use trial::{Ends, Trial, assert_nothing_left};

/// What becomes of the messages of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Schedule {
    /// They arrive after a millisecond.
    OnTime,
    /// The process is partitioned from the store for some time, then they arrive in order.
    Partitioned,
    /// Messages in flight at the drop arrive late; messages that are sent after it overtake them.
    Late,
    /// The next message has arrived: the future is dropped when it is woken, instead of
    /// polled again.
    Delivered,
    /// One message before the drop, of any process, is delayed by 5 ms, 50 ms or 1 s, or one ready
    /// task or message is processed after another: one run for each of these.
    OneDelayed,
}

impl Schedule {
    const ALL: [Self; 5] =
        [Self::OnTime, Self::Partitioned, Self::Late, Self::Delivered, Self::OneDelayed];
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

    /// Runs one drop point under one schedule. Returns the number of runs, and whether the future
    /// was dropped in any of them.
    fn run_once(&self, polls: usize, schedule: Schedule) -> (u64, bool) {
        let ends = Ends::default();
        let scenario = |sim: Sim| {
            let trial = |process| Trial::new(&sim, process, (polls, schedule), ends.clone());
            let _subject = sim.spawn("subject", |process| (self.run)(trial(process)));
            async move {
                sim.join().await;
                assert_nothing_left(sim.client()).await;
            }
        };
        let sweep = Sweep::new(&format!("{self}, {polls} polls, {schedule:?}"));
        let runs = if schedule == Schedule::OneDelayed {
            sweep.faults([Fault::Latency, Fault::Reorder]).exhaust(1, scenario).runs
        } else {
            sweep.replay("", scenario);
            1
        };
        (runs, ends.has_any_dropped())
    }

    /// Drops the future at its first await, its second, and so on, until it completes, under each
    /// schedule. Returns the number of drop points and of runs.
    fn drop_at_every_await(&self) -> (usize, u64) {
        let (mut points, mut runs) = (0, 0);
        for schedule in Schedule::ALL {
            let mut polls = 0;
            loop {
                polls += 1;
                assert!(polls < POLLS_MAX, "{self}: not complete after {polls} polls");
                let (run, is_dropped) = self.run_once(polls, schedule);
                runs += run;
                if !is_dropped {
                    break;
                }
            }
            assert!(polls > 1, "{self}: complete after one poll, and so never dropped");
            points += polls - 1;
        }
        (points, runs)
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
    let mut all_runs = 0;
    for case in cases {
        let (points, runs) = case.drop_at_every_await();
        println!("{points:>3} drop points, {runs:>4} runs: {case}");
        all_runs += runs;
    }
    println!("{all_runs} runs");
}

/// A new public async function needs a case.
#[test]
fn every_public_async_function_has_a_case() {
    let cases = [
        barrier::cases(),
        client::cases(),
        double_barrier::cases(),
        election::cases(),
        leases::cases(),
        membership::cases(),
        message_queue::cases(),
        multi_lock::cases(),
        mutex::cases(),
        prefix_cache::cases(),
        queue::cases(),
        rate_limiter::cases(),
        release_requests::cases(),
        resume::cases(),
        rwlock::cases(),
        semaphore::cases(),
        session::cases(),
        shard_assignment::cases(),
        shared_values::cases(),
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
