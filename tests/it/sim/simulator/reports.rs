//! What fails a sweep, and what its report states.

use std::panic::AssertUnwindSafe;
use std::task::Poll;

use coord_core::error::PrimitiveError;
use coord_core::kv::{LeaseGrant, LeaseId};
use coord_core::{Error, Mutex, Session};
use coord_testkit::sim::{FailureReport, Fault, Sim, Sweep};
use tokio::time::sleep;

use super::save;
use crate::support::secs;

/// The report of a sweep that fails without any fault.
fn failed<F: Future<Output = ()> + Send + 'static>(
    scenario: impl Fn(Sim) -> F + Sync,
) -> Box<FailureReport> {
    let sweep = Sweep::new("failed").max_steps(2_000).settle_time(secs(60));
    let report = sweep.check(scenario).expect_err("the run without faults fails");
    assert!(report.to_string().contains("it fails without any fault"), "{report}");
    report
}

/// The lease of a crashed process expires, and one that was revoked does not.
#[test]
fn history_notes_the_expiry_of_a_lease() {
    let report = failed(|sim| async move {
        for name in ["crashed", "closed"] {
            sim.spawn(name, move |process| async move {
                let client = process.client();
                let grant = LeaseGrant::new(secs(5)).id(LeaseId::new(name.len() as i64));
                let lease = client.lease_grant(grant).await?.id;
                match name {
                    "crashed" => process.crash(),
                    _ => drop(client.lease_revoke(lease).await?),
                }
                Ok::<_, Error>(())
            });
        }
        sleep(secs(20)).await;
        sim.fail("end", "the history is reported");
    });
    let text = report.history.to_string();
    let expired: Vec<_> = text.lines().filter(|line| line.contains("has expired")).collect();
    let [line] = expired[..] else { panic!("{text}") };
    assert!(line.contains("lease 7 of crashed has expired"), "{text}");
}

#[test]
fn wake_up_from_another_thread_is_an_escape() {
    let report = failed(|sim| async move {
        sim.spawn("a", |_| async {
            let mut is_woken = false;
            std::future::poll_fn(|cx| {
                if std::mem::replace(&mut is_woken, true) {
                    return Poll::Ready(());
                }
                let waker = cx.waker().clone();
                std::thread::spawn(move || waker.wake()).join().unwrap();
                Poll::Pending
            })
            .await;
        });
        sim.join().await;
    });
    assert_eq!(report.failure.oracle, "escape");
    assert!(report.failure.text.contains("do not use threads, spawn_blocking or sockets"));
}

#[test]
fn liveness_report_names_the_waiter_and_its_key() {
    let report = failed(|sim| async move {
        for (name, delay) in [("holder", 0), ("waiter", 1)] {
            sim.spawn(name, move |process| async move {
                sleep(secs(delay)).await;
                let session = Session::builder(process.client()).open().await?;
                let _guard = Mutex::new(&session, "printer").lock().await?;
                std::future::pending::<()>().await;
                Ok::<_, PrimitiveError>(())
            });
        }
        sim.join().await;
    });
    assert_eq!(report.failure.oracle, "liveness");
    let text = &report.failure.text;
    assert!(
        text.starts_with(
            "60s after the faults ended, not finished: holder (running), its key \"printer/"
        ),
        "{text}"
    );
    let (_, waiter) = text.split_once("; waiter (running), its key \"printer/").unwrap();
    assert!(waiter.contains("\" is behind \"printer/"), "{text}");
    assert!(waiter.ends_with(" of holder (running)"), "{text}");
}

/// The time to finish counts from the end of the faults, also from an early one.
#[test]
fn liveness_is_checked_a_settle_time_after_an_early_heal() {
    let report = failed(|sim| async move {
        sim.spawn("stuck", |_| std::future::pending::<()>());
        sleep(secs(5)).await;
        sim.heal();
        sim.join().await;
    });
    assert_eq!(report.failure.oracle, "liveness");
    assert_eq!(report.history.0.last().unwrap().at, secs(65));
}

/// The TTL of a lease may be longer than the settle time.
#[test]
fn lease_that_ends_after_the_settle_time_is_no_failure() {
    let sweep = Sweep::new("lease_that_ends_after_the_settle_time_is_no_failure").seeds(0);
    sweep.fault_time(secs(10)).settle_time(secs(10)).run(|sim| async move {
        sim.spawn("a", |process| async move {
            let lease = LeaseGrant::new(secs(600));
            process.client().lease_grant(lease).await.map(drop)
        });
        sim.join().await;
    });
}

#[test]
fn livelock_report_names_the_processes_that_run() {
    let report = failed(|sim| async move {
        sim.spawn("busy", |process| async move {
            while process.name() == "busy" {
                tokio::task::yield_now().await;
            }
        });
        sim.join().await;
    });
    assert_eq!(report.failure.oracle, "livelock");
    assert_eq!(report.failure.text, "no end after 2000 steps, not finished: busy (running)");
}

#[test]
fn panic_of_a_process_is_reported_with_its_place() {
    let report = failed(|sim| async move {
        sim.spawn("a", |process| async move { assert_ne!(process.name(), "a", "out of paper") });
        sim.join().await;
    });
    assert_eq!(report.failure.oracle, "panic");
    assert!(report.failure.text.contains("tests/it/sim/simulator/reports.rs"));
    assert!(report.failure.text.contains("out of paper"));
}

#[test]
fn error_of_a_process_without_faults_fails_the_run() {
    let report = failed(|sim| async move {
        sim.spawn("a", |_| async { Err("no paper") });
        sim.join().await;
    });
    assert_eq!(report.failure.to_string(), "process: a failed without any fault: no paper");
}

#[test]
fn oracles_fail_a_run_by_their_names() {
    let always = failed(|sim| async move {
        let started = tokio::time::Instant::now();
        sim.always("early", move || started.elapsed() < secs(5));
        sleep(secs(10)).await;
    });
    assert_eq!(always.failure.to_string(), "early: the condition does not hold any more");
    let eventually = failed(|sim| async move {
        sim.eventually("never", secs(3), || false).await;
    });
    let text = "never: the condition does not hold within 3s";
    assert_eq!(eventually.failure.to_string(), text);
    let leads_to = failed(|sim| async move {
        sim.leads_to("reply", || true, || false, secs(4));
        sleep(secs(10)).await;
    });
    assert_eq!(leads_to.failure.to_string(), "reply: the effect did not follow within 4s");
}

/// A process that only reads.
async fn read(sim: Sim) {
    sim.spawn("a", |process| async move {
        for _ in 0..10 {
            process.client().get("k").await?;
        }
        Ok::<_, Error>(())
    });
    sim.join().await;
}

#[test]
fn condition_that_never_holds_fails_the_sweep() {
    let sweep = Sweep::new("condition_that_never_holds_fails_the_sweep").seeds(100).faults([]);
    let scenario = |sim: Sim| async move {
        sim.sometimes("it rains", false);
        sim.sometimes("it is dry", true);
    };
    let report = sweep.check(scenario).expect_err("a condition never held");
    assert_eq!(report.failure.oracle, "coverage");
    let text = &report.failure.text;
    assert!(text.starts_with("never exercised in 100 seeds: it rains; run more seeds"), "{text}");
}

/// A lost response of a read is no fault that matters.
#[test]
fn fault_that_never_matters_fails_the_sweep_by_name() {
    let sweep = Sweep::new("fault_that_never_matters_fails_the_sweep_by_name").seeds(100);
    let report = sweep.faults([Fault::Refused, Fault::ResponseLost]).check(read);
    let report = report.expect_err("a fault never mattered");
    assert_eq!(report.failure.oracle, "coverage");
    let text = &report.failure.text;
    assert!(text.starts_with("never exercised in 100 seeds: response lost; run more"), "{text}");
    // No run failed, so there is none to repeat.
    assert!(!report.to_string().contains("COORD_SIM"), "{report}");
}

#[test]
fn saved_list_with_a_point_that_is_not_reached_is_refused() {
    let name = "saved_list_with_a_point_that_is_not_reached_is_refused";
    let refused = |list: &str| {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), name, list);
        let sweep = Sweep::new(name).seeds(0).saved_in(folder.path());
        let check = AssertUnwindSafe(|| sweep.check(read));
        let panic = std::panic::catch_unwind(check).expect_err("the list does not fit");
        *panic.downcast::<String>().expect("a message")
    };
    let start = format!("the list no longer fits the sweep `{name}`: ");
    let remedy = "; delete the list, or correct it";
    let unreached = "a.request#99=5/11: the run has no such point";
    assert_eq!(refused("a.request#99=5/11"), format!("{start}{unreached}{remedy}"));
    let other = "a.request#1=5/12: the point has the options 0 to 10";
    assert_eq!(refused("a.request#1=5/12"), format!("{start}{other}{remedy}"));
}

#[test]
fn failure_is_saved_and_replayed_first() {
    let folder = tempfile::tempdir().unwrap();
    let name = "failure_is_saved_and_replayed_first";
    let sweep = Sweep::new(name).seeds(200).faults([Fault::Refused]).saved_in(folder.path());
    let scenario = |sim: Sim| async move {
        read(sim.clone()).await;
        let is_failed = matches!(sim.exit("a"), Some(coord_testkit::sim::Exit::Failed(_)));
        if is_failed {
            sim.fail("refused", "a request was refused");
        }
    };
    let found = sweep.clone().check(scenario).expect_err("a seed fails");
    assert_eq!(found.deviations.0.len(), 1);
    let saved = std::fs::read_to_string(folder.path().join(format!("{name}.sim"))).unwrap();
    assert_eq!(saved, format!("{}\n", found.deviations));
    let again = sweep.check(scenario).expect_err("the saved list fails");
    assert_eq!((again.seed, &again.deviations), (None, &found.deviations));
}

/// Fails when a request of `a` is rejected as overloaded and a request of `b` times out.
async fn fail_with_both(sim: Sim) {
    let hit = |name: &'static str, is_hit: fn(&Error) -> bool| {
        sim.spawn(name, move |process| async move {
            for i in 0..10 {
                let put = process.client().put(format!("{name}/{i}"), "").await;
                if put.is_err_and(|error| is_hit(&error)) {
                    return Err("hit");
                }
            }
            Ok(())
        });
    };
    hit("a", |error| matches!(error, Error::TooManyRequests));
    hit("b", |error| matches!(error, Error::Timeout { .. }));
    sim.join().await;
    let is_hit = |name| matches!(sim.exit(name), Some(coord_testkit::sim::Exit::Failed(_)));
    if is_hit("a") && is_hit("b") {
        sim.fail("both", "both happened");
    }
}

#[test]
fn failure_of_two_faults_shrinks_to_two_deviations() {
    let sweep = Sweep::new("failure_of_two_faults_shrinks_to_two_deviations").seeds(1_000);
    // Many faults in each run, so that there is much to remove.
    let report = sweep.without_swarm().check(fail_with_both).expect_err("a seed fails");
    let mut found: Vec<_> = report.deviations.0.iter().collect();
    found.sort();
    let [a, b] = found[..] else { panic!("{report}") };
    assert_eq!((&*a.lane, a.value), ("a.request", 8), "{report}");
    assert!(b.lane.starts_with("b."), "{report}");
    assert!(report.first_deviations > 2 && report.shrink_runs < 200, "{report}");
    assert_eq!(report.words.len(), 2);
}

/// The cause of a failure was among the events that were left out, or came after its effect, and a
/// timeout of the client was in no event.
#[test]
fn report_shows_earlier_faults_before_their_effects() {
    let sweep = Sweep::new("late").seeds(200).faults([Fault::RequestLost]);
    let report = sweep.check(|sim| async move {
        sim.spawn("a", |process| async move {
            let first = process.client().put("first", "1").await;
            for number in 0..20 {
                process.client().put("later", number.to_string()).await.ok();
            }
            first.map(drop)
        });
        sim.join().await;
        let first = sim.client().get("first").await.expect("the store responds to the test");
        assert!(first.is_some(), "the first put was lost");
    });
    let text = report.expect_err("the first request is lost in some run").to_string();
    let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"));
    let history = place("\nhistory (");
    let fault = history + text[history..].find("!! request #1 of a").expect("it is shown");
    assert!(fault < place("FAILURE"), "{text}");
    assert!(!text.contains("(0 earlier events"), "{text}");
}
