//! Random histories: both engines against the oracle, and no refutation of correct histories.

use proptest::prelude::*;

use coord_core::stm::Isolation;

use super::generator::{Execution, Op, PlannedTransaction, execute, programs};
use super::oracle::permits;
use super::{assert_all_hold, assert_same_levels, verdict};
use crate::isolation::{Checker, Engine, Level, Status, Values, Verdict};

/// How many random cases to try: `cases`, or the environment variable `COORD_CASES`.
pub(super) fn cases(cases: u64) -> u64 {
    match std::env::var("COORD_CASES") {
        Ok(cases) => cases.parse().expect("COORD_CASES is a number"),
        Err(_) => cases,
    }
}

fn checked(execution: &Execution, engine: Engine) -> Verdict {
    let mut checker = Checker::new().engine(engine).values(Values::Unique);
    execution.history.0.iter().for_each(|event| checker.push(event));
    checker.finish()
}

/// Compares both engines with the oracle at every level. Returns how many levels are refuted.
fn compare(execution: &Execution) -> usize {
    let verdict = checked(execution, Engine::Intervals);
    assert_same_levels(&verdict, &checked(execution, Engine::WholeGraph), &execution.history);
    let shows_nothing = verdict.coverage().transactions == 0;
    let expected = |level| match permits(execution, level) {
        true if shows_nothing => Status::Unknown,
        true => Status::Holds,
        false => Status::Not,
    };
    let history = &execution.history;
    for level in Level::ALL {
        // The oracle tries all orders of snapshots.
        if level == Level::SnapshotIsolation && execution.transactions.len() > 8 {
            continue;
        }
        let is_same = match (expected(Some(level)), verdict.status(level)) {
            (Status::Not, status) => status.is_refuted(),
            (expected, status) => expected == status,
        };
        assert!(
            is_same,
            "{level}: the oracle expects {:?}\n{history}{verdict}",
            expected(Some(level))
        );
    }
    assert_eq!(expected(None), verdict.declared(), "declared\n{history}{verdict}");
    assert_examples_fit(&verdict, execution);
    verdict.levels().filter(|(_, status)| status.is_refuted()).count()
}

/// A verdict has an anomaly exactly if it refutes a level, and each anomaly is a simple cycle.
fn assert_examples_fit(verdict: &Verdict, execution: &Execution) {
    let is_refuted = verdict.levels().any(|(_, status)| status.is_refuted());
    let (history, anomalies) = (&execution.history, verdict.anomalies());
    assert_eq!(is_refuted, !anomalies.is_empty(), "{history}{verdict}");
    for anomaly in anomalies {
        let next = anomaly.steps.iter().cycle().skip(1);
        let is_cycle = anomaly.steps.iter().zip(next).all(|(step, next)| step.to == next.from);
        assert!(is_cycle && anomaly.steps.len() > 1, "{history}{verdict}");
        let mut participants = anomaly.participants.clone();
        participants.sort_unstable();
        participants.dedup();
        assert_eq!(participants.len(), anomaly.steps.len(), "{history}{verdict}");
    }
}

fn any_op() -> impl Strategy<Value = Op> {
    let age = || prop_oneof![2 => Just(0_i64), 2 => 0..4_i64, 1 => -2..0_i64];
    prop_oneof![
        3 => (0..3_usize, age()).prop_map(|(key, age)| Op::Get { key, age }),
        1 => (0..3_usize, 0..3_usize, age())
            .prop_map(|(first, last, age)| Op::Range { first, last, age }),
        2 => (0..3_usize).prop_map(|key| Op::Put { key }),
        2 => (0..3_usize).prop_map(|key| Op::Delete { key }),
    ]
}

fn any_program() -> impl Strategy<Value = PlannedTransaction> {
    let isolation = prop_oneof![
        Just(Isolation::SerializableSnapshot),
        Just(Isolation::RepeatableReads),
        Just(Isolation::ReadCommitted),
    ];
    (proptest::collection::vec(any_op(), 1..5), 0..6_u64, 0..6_u64, isolation).prop_map(
        |(ops, before, after, isolation)| PlannedTransaction {
            ops,
            before,
            after,
            isolation,
            is_other: false,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: u32::try_from(cases(1000)).unwrap_or(u32::MAX),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn engines_and_oracle_agree_on_every_level(
        programs in proptest::collection::vec(any_program(), 1..7),
        changes in any::<bool>(),
    ) {
        compare(&execute(&programs, changes));
    }
}

/// The same with writes of other clients, and seven transactions.
#[test]
fn engines_and_oracle_agree_with_other_clients() {
    let mut refuted = 0;
    let count = cases(1000);
    for seed in 0..count {
        let mut rng = fastrand::Rng::with_seed(seed);
        let programs = programs(&mut rng, 7, 4, true);
        refuted += usize::from(compare(&execute(&programs, true)) > 0);
    }
    // Both outcomes are tested: a generator that always or never fails would test little.
    let share = refuted as u64 * 100 / count.max(1);
    assert!((20..90).contains(&share), "{share} % of the histories are refuted");
}

#[test]
fn correct_history_with_deletes_is_never_refuted() {
    for seed in 0..cases(2000) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = rng.usize(1..40);
        // Other clients, of which only the changes are known, in every fourth history.
        let with_changes = seed.is_multiple_of(2);
        let programs = programs(&mut rng, count, 0, seed.is_multiple_of(4));
        let execution = execute(&programs, with_changes);
        let verdict = checked(&execution, Engine::Intervals);
        let recorded = programs.iter().filter(|program| !program.is_other).count();
        let coverage = verdict.coverage();
        assert_eq!(coverage.reads, coverage.resolved_reads);
        assert_eq!(coverage.transactions, recorded);
        if recorded > 0 {
            assert_all_hold(&verdict);
        }
    }
}

#[test]
fn verdict_is_the_same_text_every_time() {
    let mut rng = fastrand::Rng::with_seed(7);
    let execution = execute(&programs(&mut rng, 60, 6, true), true);
    let text = checked(&execution, Engine::Intervals).to_string();
    assert!(text.contains("not: repeatable read, snapshot isolation\n"), "{text}");
    for _ in 0..5 {
        assert_eq!(checked(&execution, Engine::Intervals).to_string(), text);
    }
    assert_eq!(verdict(execution.history.0).levels().count(), Level::ALL.len());
}
