//! A panic of the code under test is a failure of the run, wherever the code runs; a sweep shrinks
//! it without mistaking another panic for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coord_core::Client;
use coord_testkit::sim::{Fault, Process, Sim, Sweep};
use tokio::time::sleep;

use crate::support::secs;

/// The text of the panic with which the run without faults fails.
fn panic_of<F: Future<Output = ()> + Send + 'static>(
    sweep: Sweep,
    scenario: impl Fn(Sim) -> F + Sync,
) -> String {
    let report = sweep.check(scenario).expect_err("the code under test panics");
    assert_eq!(report.failure.oracle, "panic");
    assert!(report.failure.text.contains("tests/it/sim/simulator/panics.rs"), "{report}");
    report.failure.text
}

fn sweep(name: &str) -> Sweep {
    Sweep::new(name).seeds(0)
}

#[test]
fn panic_before_the_first_await_of_a_scenario_is_reported() {
    let text = panic_of(sweep("scenario"), |sim| {
        assert!(sim.is_healed(), "out of paper");
        async {}
    });
    assert!(text.ends_with("out of paper"), "{text}");
}

#[test]
fn panic_of_a_condition_is_reported() {
    let text = panic_of(sweep("condition"), |sim| async move {
        let started = tokio::time::Instant::now();
        sim.always("paper", move || {
            assert!(started.elapsed() < secs(5), "out of paper");
            true
        });
        sleep(secs(10)).await;
    });
    assert!(text.ends_with("out of paper"), "{text}");
}

/// The closure of a service runs again when the service starts again.
#[test]
fn panic_of_a_service_that_starts_again_is_reported() {
    let has_started = AtomicBool::new(false);
    let start = move |process: Process| {
        assert!(!has_started.swap(true, Ordering::Relaxed), "out of paper");
        async move {
            process.crash();
            std::future::pending::<()>().await;
        }
    };
    let start = Arc::new(std::sync::Mutex::new(Some(start)));
    let text = panic_of(sweep("service"), |sim| {
        let start = start.lock().unwrap().take();
        async move {
            if let Some(start) = start {
                sim.service("a", start);
            } else {
                panic!("out of paper, in the run with a history");
            }
            sim.join().await;
        }
    });
    assert!(text.contains("out of paper"), "{text}");
}

#[test]
fn panic_where_the_store_is_wrapped_is_reported() {
    let sweep = sweep("store").wrap_store(|_| -> Client { panic!("out of paper") });
    let text = panic_of(sweep, |_| async {});
    assert!(text.ends_with("out of paper"), "{text}");
}

/// Panics when it is dropped.
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("out of paper");
    }
}

/// A process that never ends drops its values at the end of the run.
#[test]
fn panic_of_a_destructor_at_the_end_of_a_run_is_reported() {
    let text = panic_of(sweep("destructor"), |sim| async move {
        sim.spawn("a", |_| async {
            let _value = PanicsOnDrop;
            std::future::pending::<()>().await;
        });
        sleep(secs(1)).await;
    });
    assert!(text.ends_with("out of paper"), "{text}");
}

/// No condition is checked after the failure, which may have left the process half done.
#[test]
fn first_failure_of_a_step_is_reported() {
    let name = "first_failure_of_a_step_is_reported";
    let report = Sweep::new(name).seeds(0).check(|sim| async move {
        let has_paper = Arc::new(AtomicBool::new(true));
        let paper = Arc::clone(&has_paper);
        sim.always("paper", move || paper.load(Ordering::Relaxed));
        sim.spawn("a", |_| async move {
            has_paper.store(false, Ordering::Relaxed);
            assert!(has_paper.load(Ordering::Relaxed), "out of paper");
        });
        sim.join().await;
    });
    assert_eq!(report.unwrap_err().failure.oracle, "panic");
}

/// The scenario panics at one place with two faults, and at another with the first alone.
#[test]
fn shrinking_keeps_the_place_of_a_panic() {
    let has_both = AtomicBool::new(false);
    let sweep = Sweep::new("shrinking_keeps_the_place_of_a_panic").faults([Fault::Buggify]);
    let report = sweep.seeds(1_000).without_canary().check(|sim| {
        let has_both = &has_both;
        let (one, two) = (sim.buggify("one"), sim.buggify("two"));
        has_both.fetch_or(one && two, Ordering::Relaxed);
        let panics_with_one = has_both.load(Ordering::Relaxed);
        async move {
            assert!(!(one && two), "out of paper and ink");
            assert!(!(one && panics_with_one), "out of paper");
        }
    });
    let report = report.expect_err("a seed has both faults");
    assert!(report.failure.text.ends_with("out of paper and ink"), "{report}");
    assert_eq!(report.deviations.0.len(), 2, "{report}");
}
