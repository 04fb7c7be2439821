//! Simulated runs as values of a proptest strategy.

use coord_testkit::sim::{Sim, Sweep, plans};
use proptest::test_runner::{Config, TestError, TestRunner};

/// Fails if both processes fail, each because of a fault of its own.
async fn both_fail(sim: Sim) {
    for name in ["a", "b"] {
        sim.spawn(name, |process| async move {
            for n in 0..5 {
                process.client().put(n.to_string(), "").await?;
            }
            Ok::<_, coord_core::Error>(())
        });
    }
    sim.join().await;
    let has_failed = |name| sim.exit(name).is_some_and(|exit| exit.to_string() != "finished");
    assert!(!(has_failed("a") && has_failed("b")), "both failed");
}

#[test]
fn proptest_shrinks_a_plan_to_the_deviations_it_needs() {
    let config = Config { cases: 500, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    )
    .run(&plans(), |plan| {
        let run = plan.run(&Sweep::new("both_fail"), both_fail);
        run.map_err(|failure| proptest::test_runner::TestCaseError::fail(failure.to_string()))
    });
    let Err(TestError::Fail(reason, plan)) = result else { panic!("no plan fails: {result:?}") };
    assert!(reason.to_string().contains("both failed"), "{reason}");
    let deviations = plan.deviations().expect("proptest has simplified the plan");
    assert_eq!(deviations.0.len(), 2, "{deviations}");
}
