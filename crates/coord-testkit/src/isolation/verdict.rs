//! Verdicts: what a history shows about every level, with what was checked.

use std::fmt;

use super::anomaly::Anomaly;
use super::coverage::Coverage;
use super::level::{Level, Status};

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
    /// Writes the levels by status, the anomalies, and the coverage. A line has at most 80 columns.
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

/// Writes a title and a list, broken into lines. A line has at most 80 columns.
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
