//! The isolation of the real transactions, under every schedule of small programs: what a level
//! permits occurs, and what it forbids never does. Wrong transactions are detected.

mod mutants;
mod pairs;
mod table;
mod weakest;
mod witnesses;

use coord_testkit::isolation::AnomalyKind;
use coord_testkit::programs::{Case, Checked};

/// Prints a line of a report.
#[expect(clippy::print_stdout, reason = "these tests report what they measure")]
fn print(text: &str) {
    println!("{text}");
}

/// A case whose programs have the level `level`, where the text has `LEVEL`.
fn case(text: &str, level: impl std::fmt::Display) -> Case {
    text.replace("LEVEL", &level.to_string()).parse().unwrap_or_else(|error| panic!("{error}"))
}

/// Whether an anomaly of a run has the name.
fn has_name(checked: &Checked, name: &str) -> bool {
    let mut anomalies = checked.verdict.anomalies().iter();
    anomalies.any(|anomaly| anomaly.name == Some(name))
}

fn has_kind(checked: &Checked, kinds: &[AnomalyKind]) -> bool {
    checked.verdict.anomalies().iter().any(|anomaly| kinds.contains(&anomaly.kind))
}
