//! Schedules: the order of the requests of several processes, as data.
//!
//! ```text
//! T1 T2 T1 T2-1
//! |  |     |
//! |  |     the next request of T2, served by a member that is one revision behind
//! |  the next request of T2
//! the next request of T1, served as of the current revision
//! ```

use std::fmt;
use std::str::FromStr;

use super::program::ParseProgramError;

/// One step of a schedule: the next request of a process and its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "callers construct schedules")]
pub struct Turn {
    /// The process, counted from 0; T1 in the text form.
    pub process: usize,
    /// How many revisions the member that serves the request is behind.
    pub behind: u32,
}

/// The order of the requests of all processes.
///
/// ```
/// use coord_testkit::programs::Schedule;
///
/// let schedule: Schedule = "T1 T2 T1 T2-1".parse()?;
/// assert_eq!(schedule.0[3].behind, 1);
/// assert_eq!(schedule.context_switches(), 3);
/// assert_eq!(schedule.to_string(), "T1 T2 T1 T2-1");
/// # Ok::<_, coord_testkit::programs::ParseProgramError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "callers construct schedules")]
pub struct Schedule(pub Vec<Turn>);

impl Schedule {
    /// How often a request is of another process than the previous request.
    #[must_use]
    pub fn context_switches(&self) -> usize {
        self.0.windows(2).filter(|pair| pair[0].process != pair[1].process).count()
    }

    /// How many requests are served by a member that is behind.
    #[must_use]
    pub fn stale_reads(&self) -> usize {
        self.0.iter().filter(|turn| turn.behind > 0).count()
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{}", self.process + 1)?;
        if self.behind > 0 { write!(f, "-{}", self.behind) } else { Ok(()) }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(i, turn)| {
            let space = if i == 0 { "" } else { " " };
            write!(f, "{space}{turn}")
        })
    }
}

impl FromStr for Schedule {
    type Err = ParseProgramError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let turn = |word: &str| {
            let word = word.strip_prefix('T')?;
            let (process, behind) = word.split_once('-').unwrap_or((word, "0"));
            let process = process.parse::<usize>().ok()?.checked_sub(1)?;
            Some(Turn { process, behind: behind.parse().ok()? })
        };
        let error = |word| ParseProgramError::new(word, "T1 T2 T1-1");
        let turns = text.split_whitespace().map(|word| turn(word).ok_or_else(|| error(word)));
        turns.collect::<Result<_, _>>().map(Self)
    }
}
