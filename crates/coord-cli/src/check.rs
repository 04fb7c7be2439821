//! `coord check`: which isolation levels a recorded history refutes.
//!
//! The subcommand needs no store. Its exit statuses are its own: a script must distinguish a
//! history that refutes a level from a file that cannot be read, and 2 means that the level is
//! unknown. So its usage errors have status 3 too (see `usage`).

mod input;

use std::path::PathBuf;

use clap::Args;
use coord_testkit::isolation::{Anomaly, Checker, Level, Status, Step, Values, Verdict};
use coord_testkit::report::Report;
use serde_json::{Value, json};

use self::input::{Input, write};
use crate::exit::{ExitError, print};
use crate::text;

/// Exit status: the history refutes the level.
const REFUTED_STATUS: u8 = 1;
/// Exit status: the history neither refutes the level nor shows that it holds.
const UNKNOWN_STATUS: u8 = 2;
/// Exit status: an error, also in the command line.
pub(crate) const ERROR_STATUS: u8 = 3;

/// Check the isolation of recorded transactions.
///
/// Reads a history of transactions and prints which isolation levels it refutes, with a
/// counterexample for each kind of anomaly: its transactions over the revisions of the store, the
/// edges of its cycle, the serial orders that were tried, and the compare that would have prevented
/// it. A history never proves a level: the report states how much of it could be checked.
///
/// The level that decides the exit status is the one that each transaction was run with, or
/// --level. The levels are read-uncommitted, read-committed, repeatable-read, snapshot-isolation,
/// serializable, strict-serializable, and those of coord: coord-read-committed,
/// coord-repeatable-reads, coord-serializable, coord-serializable-snapshot.
#[derive(Args, Debug)]
#[command(after_long_help = after_help())]
pub(crate) struct Check {
    #[command(flatten)]
    input: Input,
    /// Level that the transactions must have, instead of the level that each was run with
    #[arg(long, value_parser = level)]
    level: Option<Level>,
    /// State that no two transactions put the same value to a key, which shows reads and writes of
    /// aborted transactions, and commits that were applied twice
    #[arg(long)]
    unique_values: bool,
    /// Print one JSON object: `status`, `level`, `levels`, `anomalies` and `coverage`
    #[arg(long)]
    json: bool,
    /// Write a page for a browser, which needs no other file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the cycles as a graph for Graphviz
    #[arg(long, value_name = "FILE")]
    dot: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  coord check history.jsonl
      print what the history shows, and whether each transaction had its level
  coord check history.jsonl --level serializable --html violation.html
      the same for one level; open violation.html in a browser
  coord check - --json < history.jsonl | jq -r '.anomalies[] | .name // .kind'
      print the names of the anomalies, or the kinds of those without a name
  coord check history.edn --transaction-order order.json
      check a file of Elle's, with the order in which its transactions were committed
  coord check history.jsonl --dot cycle.dot && dot -Tsvg cycle.dot > cycle.svg
      draw the cycles with Graphviz";

const EXIT_STATUS: &str = "\
Exit status:
  0  the level holds, as far as checked
  1  the history refutes the level
  2  unknown: nothing contradicts the level, and too little could be checked
  3  a file cannot be read or written, or is no history, or usage error";

fn after_help() -> String {
    [EXAMPLES, EXIT_STATUS].join("\n\n")
}

impl Check {
    pub(crate) fn run(self) -> Result<(), ExitError> {
        let history = self.input.read()?;
        let values = if self.unique_values { Values::Unique } else { Values::Any };
        let mut checker = Checker::new().values(values);
        history.0.iter().for_each(|event| checker.push(event));
        let verdict = checker.finish();
        let mut report = Report::new(&history, &verdict);
        if let Some(level) = self.level {
            report = report.level(level);
        }
        if let Some(file) = &self.html {
            write(file, &report.html())?;
        }
        if let Some(file) = &self.dot {
            write(file, &report.dot())?;
        }
        let printed = if self.json {
            print(text::json_line(&as_json(&report, self.level, &verdict)))
        } else {
            print(report.to_string().trim_end())
        };
        printed.map_err(|error| ExitError::from_error(ERROR_STATUS, error))?;
        match report.status() {
            Status::Not | Status::AlsoNot => Err(ExitError::silent(REFUTED_STATUS)),
            Status::Holds => Ok(()),
            _ => Err(ExitError::silent(UNKNOWN_STATUS)),
        }
    }
}

/// The name of a level on the command line and in JSON.
fn level_name(level: Level) -> String {
    level.to_string().replace(' ', "-")
}

/// The level with this name.
fn level(name: &str) -> Result<Level, String> {
    Level::ALL
        .into_iter()
        .find(|level| level_name(*level) == name)
        .ok_or_else(|| format!("the levels are {}", Level::ALL.map(level_name).join(", ")))
}

const fn status_name(status: Status) -> &'static str {
    match status {
        Status::Holds => "holds",
        Status::Not => "not",
        Status::AlsoNot => "also-not",
        _ => "unknown",
    }
}

fn as_json(report: &Report<'_>, level: Option<Level>, verdict: &Verdict) -> Value {
    let status = match report.status() {
        Status::Not | Status::AlsoNot => "refuted",
        Status::Holds => "holds",
        _ => "unknown",
    };
    let levels = verdict.levels().map(
        |(level, status)| json!({ "level": level_name(level), "status": status_name(status) }),
    );
    let coverage = verdict.coverage();
    json!({
        "status": status,
        "level": level.map(level_name),
        "levels": levels.collect::<Vec<_>>(),
        "anomalies": verdict.anomalies().iter().map(anomaly_as_json).collect::<Vec<_>>(),
        "coverage": {
            "transactions": coverage.transactions,
            "attempts": coverage.attempts,
            "reads": coverage.reads,
            "resolved_reads": coverage.resolved_reads,
            "unplaced": coverage.unplaced,
            "edges": coverage.edges,
            "matched_unknown": coverage.matched_unknown,
            "unmatched_unknown": coverage.unmatched_unknown,
            "other_changes": coverage.other_changes,
            "without_revision": coverage.without_revision,
            "inferred_versions": coverage.inferred_versions,
        },
    })
}

fn anomaly_as_json(anomaly: &Anomaly) -> Value {
    let participants = anomaly.participants.iter().map(ToString::to_string);
    json!({
        "kind": anomaly.elle_name(),
        "name": anomaly.name,
        "participants": participants.collect::<Vec<_>>(),
        "edges": anomaly.steps.iter().map(edge_as_json).collect::<Vec<_>>(),
        "key": anomaly.key.as_deref().map(text::to_json),
        "revision": anomaly.revision.map(|revision| revision.0),
        "count": anomaly.count,
    })
}

fn edge_as_json(step: &Step) -> Value {
    json!({
        "from": step.from.to_string(),
        "to": step.to.to_string(),
        "kind": step.kind.to_string(),
        "key": step.key.as_deref().map(text::to_json),
        "before": step.before.map(|revision| revision.0),
        "after": step.after.map(|revision| revision.0),
    })
}
