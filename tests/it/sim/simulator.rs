//! Tests of the simulator itself: what a run reproduces, what a fault does, and what a report
//! states.

mod backup;
mod faults;
mod panics;
mod processes;
mod reports;
mod restored;
mod store_check;
mod sweeps;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use coord_core::error::PrimitiveError;
use coord_core::{KvBackend, Mutex, Session};
use coord_testkit::sim::{
    Deviations, FailureReport, Fault, ParseDeviationError, Process, ProcessResult, Sim, Sweep,
};
use tokio::time::sleep;

use crate::support::{cases, secs};

/// Runs a scenario once, without random faults.
fn run_once<F: Future<Output = ()> + Send + 'static>(scenario: impl Fn(Sim) -> F + Sync) {
    Sweep::new("run_once").seeds(0).run(scenario);
}

/// The report of the run with one list, which must fail.
pub(super) fn replayed<R: ProcessResult, F: Future<Output = R> + Send + 'static>(
    name: &str,
    list: &Deviations,
    scenario: impl Fn(Sim) -> F + Sync,
) -> Box<FailureReport> {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), name, &list.to_string());
    let sweep = Sweep::new(name).seeds(0).saved_in(folder.path());
    sweep.check(scenario).expect_err("the saved list fails")
}

/// Saves a list as a failure of a sweep.
fn save(folder: &Path, name: &str, list: &str) {
    std::fs::write(folder.join(format!("{name}.sim")), format!("# A comment.\n{list}\n")).unwrap();
}

/// Two services with two tasks each contend for a lock.
fn contend(sim: &Sim) {
    for name in ["a", "b"] {
        sim.service(name, move |process| async move {
            let session = Session::builder(process.client()).ttl(secs(10)).open().await?;
            let worker = |process: &Process, session: &Session| {
                let (client, mutex) = (process.client().clone(), Mutex::new(session, "printer"));
                process.spawn(async move {
                    let guard = mutex.lock().await?;
                    client.put("last", guard.fencing_token().to_string()).await?;
                    guard.unlock().await?;
                    Ok::<_, PrimitiveError>(())
                })
            };
            let (one, two) = (worker(&process, &session), worker(&process, &session));
            one.await?;
            two.await?;
            session.close().await?;
            Ok::<_, PrimitiveError>(())
        });
    }
}

/// Contends, and fails with the contents of the store at a point of the test, from the run
/// `fails_from` on.
fn contend_and_fail(
    runs: &Arc<AtomicU64>,
    fails_from: u64,
) -> impl Fn(Sim) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Sync {
    let runs = Arc::clone(runs);
    move |sim| {
        let run = runs.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            contend(&sim);
            sim.join().await;
            let contents = sim.client().get_prefix("").await;
            if sim.buggify("end") && run >= fails_from {
                sim.fail("end", format!("{contents:?} at {:?}", sim.elapsed()));
            }
        })
    }
}

/// A run depends on its list alone: not on the seeds before it, nor on the random source.
#[test]
fn list_gives_the_same_history_first_and_after_many_seeds() {
    let name = "list_gives_the_same_history_first_and_after_many_seeds";
    let before = u64::from(cases(1_000));
    let sweep = Sweep::new(name).seeds(2 * before).shrink_runs(0);
    let sweep = sweep.without_canary().without_coverage();
    let runs = Arc::new(AtomicU64::new(0));
    let last = sweep.check(contend_and_fail(&runs, before)).expect_err("a seed fails");
    assert!(last.seed >= Some(before - 1) && last.deviations.0.len() > 1, "{last}");
    let first = replayed(name, &last.deviations, contend_and_fail(&Arc::default(), 1));
    assert_eq!(last.history.first_difference(&first.history), None);
    assert_eq!(last.history.to_string(), first.history.to_string());
    assert_eq!((&last.failure, &last.words), (&first.failure, &first.words));
    assert_eq!(last.deviations, first.deviations);
}

/// Counts itself while it exists.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A crash runs no destructor, as when a machine loses power; the end of the run leaks nothing.
#[test]
fn crash_drops_no_future_before_the_end_of_the_run() {
    let alive = Arc::new(AtomicUsize::new(0));
    let stores = std::sync::Mutex::new(Vec::new());
    let sweep = Sweep::new("crash_drops_no_future_before_the_end_of_the_run").seeds(50);
    let sweep = sweep.faults([Fault::Reorder, Fault::Latency]);
    sweep.run(|sim| {
        stores.lock().unwrap().push(Arc::downgrade(sim.client().backend()));
        let alive = Arc::clone(&alive);
        async move {
            let count = Arc::clone(&alive);
            let process = sim.spawn("a", |process| async move {
                let _main = Counted::new(&count);
                let task = Counted::new(&count);
                drop(process.spawn(async move {
                    let _task = task;
                    std::future::pending::<()>().await;
                }));
                let session = Session::builder(process.client()).ttl(secs(10)).open().await?;
                let _guard = Mutex::new(&session, "printer").lock().await?;
                process.crash();
                sleep(secs(1)).await;
                unreachable!("a crashed process is not polled");
                #[expect(unreachable_code, reason = "the type of the result")]
                Ok::<_, PrimitiveError>(())
            });
            sim.join().await;
            assert_eq!(process.name(), "a");
            assert_eq!(alive.load(Ordering::Relaxed), 2, "both tasks still exist");
        }
    });
    assert_eq!(alive.load(Ordering::Relaxed), 0, "every task is dropped");
    let stores = stores.into_inner().unwrap();
    assert!(stores.len() > 50 && stores.iter().all(|store| store.upgrade().is_none()));
}

#[test]
fn restarted_service_has_a_new_client_and_no_memory() {
    Sweep::new("restarted_service_has_a_new_client_and_no_memory").seeds(0).run(|sim| async move {
        let clients = Arc::new(std::sync::Mutex::new(Vec::new()));
        let lives = Arc::clone(&clients);
        sim.service("a", move |process| {
            let life = {
                let mut lives = lives.lock().unwrap();
                lives.push(Arc::clone(process.client().backend()));
                lives.len()
            };
            async move {
                let session = Session::builder(process.client()).ttl(secs(30)).open().await?;
                let guard = Mutex::new(&session, "printer").lock().await?;
                if life == 1 {
                    process.crash();
                    sleep(secs(1)).await;
                }
                guard.unlock().await?;
                session.close().await?;
                Ok::<_, PrimitiveError>(())
            }
        });
        sim.join().await;
        // The lock of the first life is released by the lease, not by a hand-off within a client.
        assert!(sim.elapsed() >= secs(20), "{:?}", sim.elapsed());
        let clients: Vec<Arc<dyn KvBackend>> = std::mem::take(&mut clients.lock().unwrap());
        let [first, second] = &clients[..] else { panic!("{} lives", clients.len()) };
        assert!(!Arc::ptr_eq(first, second));
    });
}

#[test]
fn deviation_that_cannot_be_parsed_is_shown_with_an_example() {
    let malformed =
        ["b.request=5/9", "b.request#3", "b.request#x=5/9", "b.request#3=5", "b#3=5/70000"];
    let impossible = ["b.request#3=9/9", "b.request#3=0/9", "b.request#0=5/9"];
    for text in malformed.into_iter().chain(impossible) {
        let error = text.parse::<Deviations>().unwrap_err();
        let message =
            format!("invalid deviation {text:?}: must look like b.request#3=5/11, option");
        assert!(error.to_string().starts_with(&message), "{error}");
    }
    let parse = |text: &str| text.parse::<Deviations>();
    let Ok::<_, ParseDeviationError>(empty) = parse("") else { panic!("the empty list is a list") };
    assert_eq!(empty, Deviations::default());
    let list = parse(" a.process#7=2/9\nb.request#3=5/9, \n").unwrap();
    assert_eq!(list.to_string(), "a.process#7=2/9,b.request#3=5/9");
    assert_eq!(parse(&list.to_string()), Ok(list));
}
