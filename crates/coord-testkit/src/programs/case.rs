//! Cases: programs and the state of the store in which they start.
//!
//! The programs of a case are the processes T1, T2 and so on. Each has a client of its own.
//!
//! ```text
//! initial: x y
//! T1 read-committed: r(x) w(y)
//! T2 read-committed: r(y) w(x)
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::program::{ParseProgramError, Program, escaped, unescaped};
use super::schedule::Schedule;

/// What the first line of a case shows if the store is empty.
const EMPTY: &str = "(none)";

/// Programs that run at the same time, and the keys that exist before.
///
/// ```
/// use coord_testkit::programs::Case;
///
/// let text = "initial: x y\nT1 serializable: r(x) w(y)\nT2 external: w(x)\n";
/// let case: Case = text.parse()?;
/// assert_eq!(case.programs.len(), 2);
/// assert_eq!(case.to_string(), text);
/// # Ok::<_, coord_testkit::programs::ParseProgramError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "callers construct cases")]
pub struct Case {
    /// The keys that exist before the programs start. All were put in one revision.
    pub initial: BTreeSet<String>,
    /// The programs.
    pub programs: Vec<Program>,
}

impl Case {
    /// The number of operations of all programs.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.programs.iter().map(|program| program.operations.len()).sum()
    }

    /// The keys and prefixes of all operations.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<String> {
        let operations = self.programs.iter().flat_map(|program| &program.operations);
        operations.filter_map(|operation| operation.key().cloned()).collect()
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("initial:")?;
        if self.initial.is_empty() {
            write!(f, " {EMPTY}")?;
        }
        self.initial.iter().try_for_each(|key| write!(f, " {}", escaped(key)))?;
        writeln!(f)?;
        (1..).zip(&self.programs).try_for_each(|(n, program)| writeln!(f, "T{n} {program}"))
    }
}

impl FromStr for Case {
    type Err = ParseProgramError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut case = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(keys) = line.strip_prefix("initial:") {
                let keys = keys.split_whitespace().filter(|key| *key != EMPTY);
                let error = || ParseProgramError::new(line, "initial: x a%20b");
                let keys = keys.map(|key| unescaped(key).ok_or_else(error));
                case.initial = keys.collect::<Result<_, _>>()?;
                continue;
            }
            let program = line
                .split_once(' ')
                .filter(|(name, _)| *name == format!("T{}", case.programs.len() + 1))
                .ok_or_else(|| ParseProgramError::new(line, "T1 serializable: r(x), T2 next"))?;
            case.programs.push(program.1.parse()?);
        }
        Ok(case)
    }
}

/// A case with one schedule of it: a counterexample that can be saved and replayed.
///
/// ```
/// use coord_testkit::programs::Counterexample;
///
/// let text = "initial: x\nT1 external: w(x)\nT2 read-committed: r(x)\nschedule: T1 T2-1\n";
/// let saved: Counterexample = text.parse()?;
/// assert_eq!(saved.schedule.to_string(), "T1 T2-1");
/// assert_eq!(saved.to_string(), text);
/// # Ok::<_, coord_testkit::programs::ParseProgramError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "callers construct counterexamples")]
pub struct Counterexample {
    /// The programs.
    pub case: Case,
    /// The order of their requests.
    pub schedule: Schedule,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}schedule: {}", self.case, self.schedule)
    }
}

impl FromStr for Counterexample {
    type Err = ParseProgramError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (case, schedule) = text
            .rsplit_once("schedule:")
            .ok_or_else(|| ParseProgramError::new(text, "a case, then schedule: T1 T2"))?;
        Ok(Self { case: case.parse()?, schedule: schedule.trim().parse()? })
    }
}
