//! Several sweeps in one test, what the environment selects, and what a sweep refuses.

use std::env;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use coord_core::Error;
use coord_testkit::sim::{Fault, FaultCount, Sim, Sweep};
use tokio::time::sleep;

use crate::support::secs;

/// A process that puts a key.
async fn put(sim: Sim) {
    sim.spawn("a", |process| async move { process.client().put("k", "1").await.map(drop) });
    sim.join().await;
}

/// The message of the panic of `run`.
fn message(run: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(run)).expect_err("it is refused");
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).expect("a message")
}

/// The process that repeats some seeds of the second sweep runs the first one as usual.
#[test]
fn sweeps_of_one_test_each_have_their_canary() {
    for name in ["first", "second"] {
        let sweep = Sweep::new(name).seeds(101).faults([Fault::RequestLost]).without_coverage();
        let report = sweep.run(put);
        assert_eq!(report.seeds, 101);
        assert!(env::var("COORD_SIM_CANARY").is_ok() || report.canary_runs == 1, "{report}");
    }
}

/// Runs in a process of its own, which prints how many runs each sweep made.
#[test]
fn environment_selects_a_run_of_a_sweep_by_name() {
    let Ok(_) = env::var("COORD_SIM") else { return check_selected_runs() };
    let sweep = |name| Sweep::new(name).faults([Fault::RequestLost]).seeds(3);
    let checked =
        [("first", sweep("first").run(put).seeds), ("second", sweep("second").run(put).seeds)];
    let explored = sweep("explored").exhaust(1, put).runs;
    sweep("replayed").replay("", put);
    print_runs(&format!("{checked:?} {explored}"));
}

#[expect(clippy::print_stdout, reason = "the other process reads it")]
fn print_runs(runs: &str) {
    println!("runs: {runs};");
}

fn check_selected_runs() {
    let test = "sim::simulator::sweeps::environment_selects_a_run_of_a_sweep_by_name";
    let output = |request: &str, seeds: Option<&str>| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture"]).env("COORD_SIM", request);
        let output = command.envs(seeds.map(|seeds| ("COORD_SIM_SEEDS", seeds))).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let (_, runs) = text.split_once("runs: ").expect("the runs are printed");
        runs.split_once(';').unwrap().0.to_owned()
    };
    let (all, one) = (output("another:", None), r#"[("first", 1), ("second", 3)]"#);
    assert!(all.starts_with(r#"[("first", 3), ("second", 3)]"#), "{all}");
    assert!(output("first:a.request#1=5/11", None).starts_with(one));
    assert_eq!(output("", None), r#"[("first", 1), ("second", 1)] 1"#);
    assert_eq!(output("explored:", None), r#"[("first", 3), ("second", 3)] 1"#);
    assert_eq!(output("explored:", Some("5")), r#"[("first", 5), ("second", 5)] 1"#);
    assert_eq!(output("explored:", Some("20..27")), r#"[("first", 7), ("second", 7)] 1"#);
}

#[tokio::test]
async fn sweep_inside_a_runtime_is_refused() {
    let message = message(|| drop(Sweep::new("inside").seeds(0).run(put)));
    assert!(message.contains("use a plain #[test] instead of #[tokio::test]"), "{message}");
}

#[tokio::test]
async fn sweep_on_a_thread_for_blocking_code_runs() {
    let sweep = || Sweep::new("blocking").seeds(3).run(put).seeds;
    assert_eq!(tokio::task::spawn_blocking(sweep).await.unwrap(), 3);
}

#[test]
fn names_that_would_be_ambiguous_are_refused() {
    let fails = |scenario: fn(Sim)| {
        let sweep = Sweep::new("names").seeds(0);
        let report = sweep.check(move |sim| async move { scenario(sim) });
        report.expect_err("the name is refused").failure.text
    };
    for text in [
        fails(|sim| drop(sim.process("test"))),
        fails(|sim| drop(sim.process("store"))),
        fails(|sim| drop((sim.process("a"), sim.process("a")))),
    ] {
        assert!(text.contains("is in use or reserved: give each process its own"), "{text}");
    }
    for text in [
        fails(|sim| drop(sim.process("a.b"))),
        fails(|sim| assert!(!sim.buggify("slow, then fast"))),
    ] {
        assert!(text.contains("use letters, digits, `_` and `-`"), "{text}");
    }
}

/// What a sweep of one fault covers.
fn covered<F: Future<Output = ()> + Send + 'static>(
    fault: Fault,
    scenario: impl Fn(Sim) -> F + Sync,
) -> FaultCount {
    let sweep = Sweep::new("covered").seeds(200).without_canary().without_coverage();
    sweep.faults([fault]).run(scenario).coverage.count(fault)
}

/// A batch for a watch that the process had dropped could be late, and counted as a fault that
/// mattered.
#[test]
fn fault_of_a_dropped_watch_is_not_covered() {
    let watch = |is_dropped: bool| {
        covered(Fault::WatchLate, move |sim| async move {
            sim.spawn("a", move |process| async move {
                let watch = process.client().watch("k").await?;
                let watch = (!is_dropped).then_some(watch);
                process.client().put("k", "1").await?;
                drop(watch);
                Ok::<_, Error>(())
            });
            sim.join().await;
        })
    };
    assert!(watch(false).mattered > 0);
    assert_eq!(watch(true), FaultCount::default());
}

/// A pause of a process whose main task had ended counted as a fault that mattered, although the
/// run waits for none of its other tasks.
#[test]
fn fault_of_an_exited_process_does_not_matter() {
    let pause = |outlives: bool| {
        covered(Fault::Pause, move |sim| async move {
            sim.spawn("a", move |process| async move {
                let client = process.client().clone();
                let put_twice = process.spawn(async move {
                    client.put("k", "1").await?;
                    client.put("k", "2").await
                });
                if !outlives {
                    put_twice.await?;
                }
                Ok::<_, Error>(())
            });
            sim.join().await;
            sleep(secs(1)).await;
        })
    };
    assert!(pause(false).mattered > 0);
    let outlived = pause(true);
    assert!(outlived.fired > 0 && outlived.mattered == 0, "{outlived:?}");
}

/// The text of a note was made under the lock of the run, so a text that uses the run blocked it
/// forever.
#[test]
fn text_of_a_note_may_use_the_run() {
    struct Healed(Sim);
    impl fmt::Display for Healed {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "is healed: {}", self.0.is_healed())
        }
    }
    let sweep = Sweep::new("text_of_a_note_may_use_the_run").seeds(0);
    let report = sweep.check(|sim| async move {
        sim.note(Healed(sim.clone()));
        sim.fail("end", Healed(sim.clone()));
    });
    let report = report.expect_err("the scenario fails the run");
    assert_eq!(report.failure.text, "is healed: false");
    assert!(report.history.to_string().contains("is healed: false\n"), "{report}");
}
