//! Fixed schedules that show what each level permits, and searches of every schedule for two faults
//! of Go's package.
//!
//! ```text
//! T1 T2 T1 T2      read, read, commit, commit
//! T1 T2-1          a commit, then a read from a member that has not applied it
//! ```

use std::cell::Cell;
use std::rc::Rc;

use coord_core::Error;
use coord_core::stm::Isolation::{self, *};
use coord_testkit::isolation::AnomalyKind;
use coord_testkit::programs::{Closures, Explorer, Schedule};

use super::{case, has_kind, has_name};

/// The name of an anomaly, the levels that permit it, a case, and a schedule that shows it.
type Witness = (&'static str, &'static [Isolation], &'static str, &'static str);

const WITNESSES: [Witness; 8] = [
    (
        "lost update",
        &[ReadCommitted],
        "initial: x\nT1 LEVEL: r(x) w(x)\nT2 LEVEL: r(x) w(x)",
        "T1 T2 T1 T2",
    ),
    (
        "write skew",
        &[ReadCommitted],
        "initial: x y\nT1 LEVEL: r(x) w(y)\nT2 LEVEL: r(y) w(x)",
        "T1 T2 T1 T2",
    ),
    (
        "read skew",
        &[ReadCommitted],
        "initial: x y\nT1 LEVEL: r(x) r(y)\nT2 LEVEL: w(x) w(y)",
        "T1 T2 T1",
    ),
    (
        "read skew",
        &[ReadCommitted],
        "initial: x y\nT1 LEVEL: r(x) r(y) w(z)\nT2 LEVEL: w(x) w(y)",
        "T1 T2 T1 T1",
    ),
    (
        "stale read-only transaction",
        &[RepeatableReads, ReadCommitted],
        "initial: x\nT1 LEVEL: w(x)\nT2 LEVEL: r(x)",
        "T1 T2-1",
    ),
    (
        "lost update",
        &[ReadCommitted],
        "initial: x\nT1 LEVEL: w(x)\nT2 LEVEL: r(x) w(x)",
        "T1 T2-1 T2",
    ),
    (
        "long fork",
        &[ReadCommitted],
        "initial: x y\nT1 LEVEL: w(x)\nT2 LEVEL: w(y)\nT3 LEVEL: r(y) r(x)\nT4 LEVEL: r(x) r(y)",
        "T3 T1 T3 T4-1 T2 T4",
    ),
    (
        "phantom",
        &[RepeatableReads, ReadCommitted],
        "initial: p/a\nT1 LEVEL: range(p/) w(q)\nT2 LEVEL: r(q) w(p/c)",
        "T1 T2 T2 T1",
    ),
];

#[test]
fn witness_shows_its_anomaly_at_the_levels_that_permit_it() {
    for (name, permitted, text, schedule) in WITNESSES {
        let schedule: Schedule = schedule.parse().unwrap();
        for level in [SerializableSnapshot, Serializable, RepeatableReads, ReadCommitted] {
            let checked = Explorer::new().replay(&case(text, level), &schedule);
            let is_shown = has_name(&checked, name);
            assert_eq!(is_shown, permitted.contains(&level), "{name} {level}\n{}", checked.verdict);
            assert!(!checked.is_broken(), "{level} was kept\n{}", checked.verdict);
        }
    }
}

/// An attempt that does not commit sees values that never existed together, at the weak levels.
#[test]
fn attempt_sees_an_inconsistent_state_at_the_weak_levels_only() {
    let text = "initial: x y\nT1 LEVEL: r(x) r(y) w(x)\nT2 LEVEL: w(x) w(y)";
    for level in [SerializableSnapshot, Serializable, RepeatableReads] {
        let checked = Explorer::new().replay(&case(text, level), &"T1 T2 T1 T1".parse().unwrap());
        let is_inconsistent = has_kind(&checked, &[AnomalyKind::InconsistentAttempt]);
        assert_eq!(is_inconsistent, level == RepeatableReads, "{level}\n{}", checked.verdict);
    }
}

/// In Go's package, reading the revision of a key after a put does not pin the snapshot.
#[test]
fn revision_of_a_written_key_pins_the_snapshot() {
    let text = "initial: x y\nT1 LEVEL: w(x) rev(x) r(y)\nT2 LEVEL: w(x) w(y)";
    for level in [SerializableSnapshot, Serializable] {
        let (found, schedules) = Explorer::new().find(&case(text, level), |checked| {
            has_kind(checked, &[AnomalyKind::InconsistentAttempt]) || checked.is_broken()
        });
        assert_eq!(found, None, "{level}");
        assert!(schedules > 5, "{schedules}");
    }
}

/// In Go's package, an attempt may use a prefetched value although its first read was of another
/// key, at a later revision. The closure reads other keys in each attempt.
#[test]
fn prefetched_key_is_used_at_its_own_revision_only() {
    for level in [SerializableSnapshot, Serializable] {
        let attempts = Rc::new(Cell::new(0));
        let closures = Closures::new(level).put("k", "0").put("z", "0").process(async move |stm| {
            let attempts = Rc::clone(&attempts);
            attempts.set(0);
            let stm = stm.prefetch(["k"]);
            let run = stm.run(async |tx| {
                attempts.set(attempts.get() + 1);
                if attempts.get() > 1 {
                    tx.get("z").await?;
                }
                tx.get("k").await?;
                tx.put("out", "1");
                Ok::<_, Error>(())
            });
            run.await.map(drop)
        });
        let both = async |tx: &mut coord_core::stm::Transaction| {
            tx.put("k", "1");
            tx.put("z", "1");
            Ok::<_, Error>(())
        };
        let explored = closures.transaction(both).transaction(both).run();
        assert!(explored.is_complete && explored.schedules > 10, "{explored}");
    }
}
