//! Verdicts: what a history shows about every level, with what was checked.

use std::fmt;

use super::anomaly::Anomaly;
use super::level::{Level, Status};

/// How much of a history could be checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Coverage {
    /// The transactions that committed, with those whose unknown outcome was resolved.
    pub transactions: usize,
    /// The attempts, also those that did not commit.
    pub attempts: usize,
    /// The keys that were read, each once per attempt, with those found in ranges.
    pub reads: usize,
    /// The reads of which the history has the version and its writer. Other reads constrain less.
    pub resolved_reads: usize,
    /// The transactions that have no place in the order of revisions, and were searched for cycles.
    pub unplaced: usize,
    /// The edges of the graphs that were searched.
    pub edges: usize,
    /// The commits with unknown outcome that were matched with a revision.
    pub matched_unknown: usize,
    /// The commits with unknown outcome that were not applied, or could not be matched.
    pub unmatched_unknown: usize,
    /// The revisions that no recorded transaction wrote.
    pub other_changes: usize,
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transactions, attempts) = (self.transactions, self.attempts);
        writeln!(f, "checked {transactions} transactions, {attempts} attempts")?;
        writeln!(f, "  {} of {} reads resolved", self.resolved_reads, self.reads)?;
        let (unplaced, edges) = (self.unplaced, self.edges);
        writeln!(f, "  {unplaced} transactions without a place, {edges} edges searched")?;
        let (matched, unmatched) = (self.matched_unknown, self.unmatched_unknown);
        writeln!(f, "  unknown commits: {matched} matched, {unmatched} unmatched")?;
        writeln!(f, "  {} changes by other clients", self.other_changes)
    }
}

/// What a history shows about isolation.
///
/// A history cannot prove that a store keeps a level. It refutes a level, or it does not, and then
/// the coverage states how much that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub(super) levels: Vec<(Level, Status)>,
    pub(super) declared: Status,
    pub(super) anomalies: Vec<Anomaly>,
    pub(super) coverage: Coverage,
}

impl Verdict {
    /// The status of a level, as if every transaction had been run with it.
    #[must_use]
    pub fn status(&self, level: Level) -> Status {
        let found = self.levels.iter().find(|(other, _)| *other == level);
        found.map_or(Status::Unknown, |(_, status)| *status)
    }

    /// All levels with their status.
    pub fn levels(&self) -> impl Iterator<Item = (Level, Status)> + '_ {
        self.levels.iter().copied()
    }

    /// Whether each transaction kept the level that it was run with: [`Status::Holds`],
    /// [`Status::Not`] or [`Status::Unknown`].
    #[must_use]
    pub const fn declared(&self) -> Status {
        self.declared
    }

    /// One example of each kind of anomaly that was found, the worst first. Of each kind of cycle
    /// it is a short one.
    #[must_use]
    pub fn anomalies(&self) -> &[Anomaly] {
        &self.anomalies
    }

    /// How much was checked.
    #[must_use]
    pub const fn coverage(&self) -> &Coverage {
        &self.coverage
    }
}

impl fmt::Display for Verdict {
    /// Writes the levels by status, the anomalies, and the coverage, in lines of at most 80
    /// columns.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = [
            ("not", Status::Not),
            ("also not", Status::AlsoNot),
            ("still holds", Status::Holds),
            ("unknown", Status::Unknown),
        ];
        for (title, status) in groups {
            let levels = self.levels.iter().filter(|(_, other)| *other == status);
            write_list(f, title, levels.map(|(level, _)| level.to_string()))?;
        }
        let declared = match self.declared {
            Status::Holds => "kept, as far as checked",
            Status::Unknown => "unknown",
            Status::Not | Status::AlsoNot => "broken",
        };
        writeln!(f, "level of each transaction: {declared}")?;
        for anomaly in &self.anomalies {
            write!(f, "{anomaly}")?;
        }
        write!(f, "{}", self.coverage)
    }
}

/// Writes a title and a list, broken into lines of at most 80 columns.
fn write_list(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    items: impl Iterator<Item = String>,
) -> fmt::Result {
    let mut line = format!("{title}:");
    let mut is_empty = true;
    for item in items {
        let comma = if is_empty { "" } else { "," };
        if line.len() + comma.len() + 1 + item.len() > 79 {
            writeln!(f, "{line}{comma}")?;
            line = format!("  {item}");
        } else {
            line.push_str(&format!("{comma} {item}"));
        }
        is_empty = false;
    }
    if is_empty { Ok(()) } else { writeln!(f, "{line}") }
}
