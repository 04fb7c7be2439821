//! The table of anomalies in `docs/semantics.md`: for each anomaly a case, all of its schedules at
//! each level, and how often it occurs under random schedules, also with twice the transactions.
//! The page must have the same table.
//!
//! The anomalies G0 to G2 and their names are those of Hermitage, which tests SQL databases:
//! Kleppmann, "Hermitage: Testing the 'I' in ACID" (2014). The other rows are coord's.

use std::ops::ControlFlow;

use coord_core::stm::Isolation::{self, *};
use coord_testkit::history::{Attempt, AttemptEnd, EventKind};
use coord_testkit::isolation::AnomalyKind::*;
use coord_testkit::programs::{Case, Checked, Explorer};

use super::{case, has_kind, has_name, print};

/// How many random schedules are run of each case.
const RANDOM_RUNS: u64 = 400;

/// The page with the table.
const PAGE: &str = include_str!("../../../docs/semantics.md");

struct TableRow {
    name: &'static str,
    case: &'static str,
    occurs: fn(&Checked) -> bool,
    /// The levels that permit it.
    permitted: &'static [Isolation],
    /// The levels of Go's package that permit it, by its source.
    go: &'static str,
}

const NO: &[Isolation] = &[];
const WEAKEST: &[Isolation] = &[ReadCommitted];
const WEAK: &[Isolation] = &[RepeatableReads, ReadCommitted];
const ALL_BUT_STRONGEST: &[Isolation] = &[Serializable, RepeatableReads, ReadCommitted];

const ROWS: [TableRow; 16] = [
    TableRow {
        name: "dirty write (G0)",
        case: "initial: x y\nT1 LEVEL: w(x) w(y)\nT2 LEVEL: w(x) w(y)",
        occurs: |checked| has_kind(checked, &[G0, SplitCommit]),
        permitted: NO,
        go: "no",
    },
    TableRow {
        name: "aborted read (G1a)",
        case: "initial: x\nT1 LEVEL: w(x) abort\nT2 LEVEL: r(x) r(x)",
        occurs: |checked| has_kind(checked, &[G1a, AbortedWrite]),
        permitted: NO,
        go: "no",
    },
    TableRow {
        name: "intermediate read (G1b)",
        case: "initial: x\nT1 LEVEL: w(x) w(x)\nT2 LEVEL: r(x)",
        occurs: |checked| has_kind(checked, &[G1b]),
        permitted: NO,
        go: "no",
    },
    TableRow {
        name: "circular information flow (G1c)",
        case: "initial: x y\nT1 LEVEL: w(x) r(y)\nT2 LEVEL: w(y) r(x)",
        occurs: |checked| has_kind(checked, &[G1c]),
        permitted: NO,
        go: "no",
    },
    TableRow {
        name: "observed transaction vanishes (OTV)",
        case: "initial: x y\nT1 LEVEL: w(x) w(y)\nT2 LEVEL: w(x) w(y)\nT3 LEVEL: r(x) r(y)",
        occurs: vanishes,
        permitted: WEAKEST,
        go: "`ReadCommitted`",
    },
    TableRow {
        name: "predicate-many-preceders (PMP)",
        case: "initial: p/a\nT1 LEVEL: range(p/) range(p/)\nT2 LEVEL: w(p/b)",
        occurs: |checked| has_kind(checked, &[GSingle]),
        permitted: WEAK,
        go: "no ranges",
    },
    TableRow {
        name: "lost update (P4)",
        case: "initial: x\nT1 LEVEL: r(x) w(x)\nT2 LEVEL: r(x) w(x)",
        occurs: |checked| has_name(checked, "lost update"),
        permitted: WEAKEST,
        go: "`ReadCommitted`",
    },
    TableRow {
        name: "read skew (G-single)",
        case: "initial: x y\nT1 LEVEL: r(x) r(y)\nT2 LEVEL: w(x) w(y)",
        occurs: |checked| has_kind(checked, &[GSingleItem]),
        permitted: WEAKEST,
        go: "`ReadCommitted`",
    },
    TableRow {
        name: "write skew (G2-item)",
        case: "initial: x y\nT1 LEVEL: r(x) w(y)\nT2 LEVEL: r(y) w(x)",
        occurs: |checked| has_name(checked, "write skew"),
        permitted: WEAKEST,
        go: "`ReadCommitted`",
    },
    TableRow {
        name: "phantom (G2)",
        case: "initial: p/a\nT1 LEVEL: range(p/) w(p/b)\nT2 LEVEL: range(p/) w(p/c)",
        occurs: |checked| has_kind(checked, &[G2]),
        permitted: WEAK,
        go: "no ranges",
    },
    TableRow {
        name: "phantom by delete",
        case: "initial: p/a q\nT1 LEVEL: range(p/) w(q)\nT2 LEVEL: r(q) d(p/a)",
        occurs: |checked| has_kind(checked, &[G2Item, G2]),
        permitted: WEAKEST,
        go: "no ranges",
    },
    TableRow {
        name: "long fork",
        case: "initial: x y\nT1 LEVEL: w(x)\nT2 LEVEL: w(y)\nT3 LEVEL: r(x) r(y)\nT4 LEVEL: r(y) r(x)",
        occurs: |checked| has_name(checked, "long fork"),
        permitted: WEAKEST,
        go: "`ReadCommitted`",
    },
    TableRow {
        name: "fractured reads, then a write",
        case: "initial: x y\nT1 LEVEL: w(x) w(y)\nT2 LEVEL: r(x) r(y) w(z)",
        occurs: |checked| has_kind(checked, &[GSingleItem]),
        permitted: WEAKEST,
        go: "`ReadCommitted`",
    },
    TableRow {
        name: "stale read-only transaction",
        case: "initial: x\nT1 LEVEL: w(x)\nT2 LEVEL: r(x)",
        occurs: |checked| has_name(checked, "stale read-only transaction"),
        permitted: WEAK,
        go: "`RepeatableReads`, `ReadCommitted`",
    },
    TableRow {
        name: "blind write over a concurrent put",
        case: "initial: k x\nT1 LEVEL: r(x) w(k)\nT2 LEVEL: w(k)",
        occurs: overwrites_concurrent_write,
        permitted: ALL_BUT_STRONGEST,
        go: "all but `SerializableSnapshot`",
    },
    TableRow {
        name: "blind write over a concurrent delete",
        case: "initial: k x\nT1 LEVEL: r(x) w(k)\nT2 LEVEL: d(k)",
        occurs: overwrites_concurrent_write,
        permitted: ALL_BUT_STRONGEST,
        go: "all",
    },
];

/// The attempt of a transaction that committed, with its revision and the time of its end.
fn committed(checked: &Checked, transaction: u64) -> Option<(&Attempt, i64, std::time::Duration)> {
    checked.history().0.iter().find_map(|event| match &event.kind {
        EventKind::Attempt(attempt) if attempt.transaction == transaction => match attempt.end {
            AttemptEnd::Committed { revision } => Some((&**attempt, revision.0, event.at)),
            _ => None,
        },
        _ => None,
    })
}

/// T3 has read x of the later of T1 and T2, and y of the earlier one.
fn vanishes(checked: &Checked) -> bool {
    let commits = [1, 2].map(|transaction| committed(checked, transaction).map(|(_, at, _)| at));
    let [Some(one), Some(two)] = commits else { return false };
    let Some((reader, ..)) = committed(checked, 3) else { return false };
    let read: Vec<_> =
        reader.reads.iter().map(|read| read.found.as_ref().map(|(at, _)| at.0)).collect();
    read == [Some(one.max(two)), Some(one.min(two))]
}

/// The first attempt of T1 has committed over a write of T2 that was made since T1 began.
fn overwrites_concurrent_write(checked: &Checked) -> bool {
    let (Some(blind), Some(other)) = (committed(checked, 1), committed(checked, 2)) else {
        return false;
    };
    let is_later = other.1 < blind.1;
    blind.0.number == 1 && is_later && blind.0.began < other.2
}

/// In how many per cent of random schedules the anomaly occurs.
fn percent(row: &TableRow, case: &Case) -> u64 {
    let mut shown = 0;
    Explorer::new().random(case, 1, RANDOM_RUNS, |checked| {
        shown += u64::from((row.occurs)(&checked));
        ControlFlow::Continue(())
    });
    (shown * 100 + RANDOM_RUNS / 2) / RANDOM_RUNS
}

/// How many schedules show the anomaly, of all.
fn counts(row: &TableRow, case: &Case) -> (u64, u64) {
    let mut shown = 0;
    let explored = Explorer::new().explore(case, |checked| {
        assert!(!checked.is_broken(), "{}: {case}{}", row.name, checked.verdict);
        shown += u64::from((row.occurs)(&checked));
        ControlFlow::Continue(())
    });
    assert!(explored.is_complete, "{}", row.name);
    (shown, explored.schedules)
}

#[test]
fn anomalies_occur_exactly_at_the_levels_that_permit_them() {
    let mut table = vec![
        "| anomaly | `SerializableSnapshot` | `Serializable` | `RepeatableReads` | `ReadCommitted` | in Go |".to_owned(),
        "|---|---|---|---|---|---|".to_owned(),
    ];
    for row in &ROWS {
        let cells = Isolation::ALL.map(|level| {
            let case = case(row.case, level);
            let (shown, all) = counts(row, &case);
            let is_permitted = row.permitted.contains(&level);
            assert_eq!(shown > 0, is_permitted, "{} at {level}: {shown} of {all}", row.name);
            if is_permitted {
                let mut contended = case.clone();
                contended.programs.extend_from_slice(&case.programs);
                let (once, twice) = (percent(row, &case), percent(row, &contended));
                format!("**yes**: {shown} of {all}; {once} %, {twice} %")
            } else {
                "no".to_owned()
            }
        });
        table.push(format!("| {} | {} | {} |", row.name, cells.join(" | "), row.go));
    }
    let table = table.join("\n");
    print(&table);
    assert!(PAGE.contains(&table), "docs/semantics.md must have this table:\n{table}");
}
