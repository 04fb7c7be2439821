//! What the simulator guarantees for the code of a process: tasks of tokio, slow stores, exits, and
//! what it detects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coord_core::Client;
use coord_core::kv::{FencingToken, Revision};
use coord_testkit::sim::{Exit, Sweep};
use coord_testkit::{Action, Call, Intercept};
use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::run_once;
use crate::support::secs;

/// The driver waits for the next message when the task sends its request.
#[test]
#[expect(clippy::disallowed_methods, reason = "the code under test may use tokio")]
fn request_of_a_tokio_task_is_delivered_at_its_time() {
    run_once(|sim| async move {
        sim.spawn("a", |process| async move {
            let client = process.client().clone();
            let task = tokio::spawn(async move {
                sleep(secs(3)).await;
                let began = Instant::now();
                client.put("k", "1").await.map(|_| began.elapsed())
            });
            let elapsed = task.await.unwrap().expect("no request is lost");
            assert!(elapsed < Duration::from_millis(10), "{elapsed:?}");
        });
        sim.join().await;
    });
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the code under test may use tokio")]
fn failure_of_a_tokio_task_ends_the_run_at_once() {
    let sweep = Sweep::new("failure_of_a_tokio_task_ends_the_run_at_once").seeds(0);
    let report = sweep.check(|sim| async move {
        let failing = sim.clone();
        drop(tokio::spawn(async move {
            sleep(secs(3)).await;
            failing.fail("paper", "out of paper");
        }));
        sleep(secs(100)).await;
    });
    let report = report.unwrap_err();
    assert_eq!(report.failure.to_string(), "paper: out of paper");
    assert_eq!(report.history.0.last().unwrap().at, secs(3));
}

/// A request that takes long does not delay other requests.
#[test]
fn store_may_take_time_for_a_request() {
    let delay = |call: &Call| match call {
        Call::Put(_) => Action::Delay(secs(3)),
        _ => Action::Pass,
    };
    let sweep = Sweep::new("store_may_take_time_for_a_request").seeds(0);
    sweep.wrap_store(move |store| Client::new(Intercept::new(store, delay))).run(
        |sim| async move {
            for (name, time) in [("slow", secs(3)), ("fast", Duration::ZERO)] {
                sim.spawn(name, move |process| async move {
                    let began = Instant::now();
                    if name == "slow" {
                        process.client().put("k", "1").await.unwrap();
                    } else {
                        process.client().get("k").await.unwrap();
                    }
                    let elapsed = began.elapsed();
                    assert!(elapsed >= time && elapsed < time + secs(1), "{name}: {elapsed:?}");
                });
            }
            sim.join().await;
        },
    );
}

#[test]
fn process_that_crashes_as_it_returns_has_crashed() {
    run_once(|sim| async move {
        let lives = Arc::new(AtomicU64::new(0));
        let started = Arc::clone(&lives);
        sim.service("service", move |process| {
            let life = started.fetch_add(1, Ordering::Relaxed);
            async move {
                if life == 0 {
                    process.crash();
                    return Err("returned in the poll of the crash");
                }
                Ok(())
            }
        });
        sim.spawn("a", |process| async move { process.crash() });
        sim.join().await;
        sleep(secs(10)).await;
        assert_eq!(lives.load(Ordering::Relaxed), 2, "it starts again once");
        assert_eq!(sim.exit("a"), Some(Exit::Crashed));
    });
}

#[test]
fn request_from_another_thread_is_an_escape() {
    let sweep = Sweep::new("request_from_another_thread_is_an_escape").seeds(0);
    let report = sweep.check(|sim| async move {
        sim.spawn("a", |process| async move {
            let (client, runtime) = (process.client().clone(), Handle::current());
            let thread = std::thread::spawn(move || {
                let _runtime = runtime.enter();
                assert!(client.put("k", "1").now_or_never().is_none(), "it is not applied");
            });
            thread.join().unwrap();
        });
        sim.join().await;
    });
    let report = report.expect_err("no seed can reproduce the order of two threads");
    assert_eq!(report.failure.oracle, "escape", "{report}");
}

const TOKEN: FencingToken = FencingToken(Revision(5));

/// With one guard, a holder may use the resource twice, also at the same time.
#[test]
fn holder_enters_twice_with_one_token() {
    run_once(|sim| async move {
        let printer = sim.exclusive("printer");
        let a = sim.process("a");
        let first = printer.enter_while(&a, TOKEN, || true);
        let second = printer.enter_while(&a, TOKEN, || true);
        drop((first, second));
        drop(printer.enter_while(&a, TOKEN, || true));
        assert_eq!(printer.entered(), 3);
    });
}

/// `still_held` was called under the lock of the holders: this test did not end.
#[test]
fn condition_of_a_holder_may_use_the_resource() {
    run_once(|sim| async move {
        let printer = sim.exclusive("printer");
        let (a, b) = (sim.process("a"), sim.process("b"));
        let counted = printer.clone();
        let first = printer.enter_while(&a, TOKEN, move || counted.entered() != 1);
        drop(printer.enter_while(&b, FencingToken(Revision(6)), || true));
        drop(first);
        assert_eq!(printer.entered(), 2);
    });
}

#[test]
fn other_process_with_an_old_token_is_a_failure() {
    let sweep = Sweep::new("other_process_with_an_old_token_is_a_failure").seeds(0);
    let report = sweep.check(|sim| async move {
        let (printer, a, b) = (sim.exclusive("printer"), sim.process("a"), sim.process("b"));
        drop(printer.enter_while(&a, TOKEN, || true));
        drop(printer.enter_while(&b, TOKEN, || true));
    });
    let text = "printer: b entered with token 5, not larger than token 5 of an earlier holder";
    assert_eq!(report.unwrap_err().failure.to_string(), text);
}
