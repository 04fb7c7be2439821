//! Search: random cases under random schedules, until one fails; its counterexample is shrunk and
//! saved as text.

use std::path::PathBuf;
use std::{fmt, fs};

use coord_core::stm::Isolation;
use std::ops::ControlFlow;

use super::case::{Case, Counterexample};
use super::explorer::{Checked, Explorer};
use super::program::{Program, ProgramOperation};
use super::shrink::Shrunk;

/// Random cases.
///
/// ```
/// use coord_core::stm::Isolation;
/// use coord_testkit::isolation::Level;
/// use coord_testkit::programs::{Explorer, Search};
///
/// let search = Search::new(Isolation::ReadCommitted).cases(100);
/// let found = search.find(&Explorer::new(), |checked| {
///     checked.verdict.status(Level::Serializable).is_refuted()
/// });
/// let case = found.expect("ReadCommitted is not serializable").counterexample.case;
/// assert!(case.operations() <= 4, "{case}");
/// ```
#[derive(Clone, Debug)]
#[must_use = "call `find`"]
pub struct Search {
    isolation: Isolation,
    programs: usize,
    operations: usize,
    cases: u64,
    schedules: u64,
    seed: u64,
    shrink_runs: u64,
    saved: Option<PathBuf>,
}

impl Search {
    /// A search of the default size, at one level.
    ///
    /// It has 1,000 cases, with 20 schedules each: five programs with up to five operations over
    /// three keys.
    pub const fn new(isolation: Isolation) -> Self {
        Self {
            isolation,
            programs: 5,
            operations: 5,
            cases: 1_000,
            schedules: 20,
            seed: 0,
            shrink_runs: 20_000,
            saved: None,
        }
    }

    /// Sets how many programs a case has, and how many operations a program has at most.
    pub const fn size(mut self, programs: usize, operations: usize) -> Self {
        self.programs = programs;
        self.operations = operations;
        self
    }

    /// Sets how many cases are run.
    pub const fn cases(mut self, cases: u64) -> Self {
        self.cases = cases;
        self
    }

    /// Sets how many random schedules of each case are run.
    pub const fn schedules(mut self, schedules: u64) -> Self {
        self.schedules = schedules;
        self
    }

    /// Sets the seed. The same seed gives the same cases and schedules.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets after how many runs shrinking tries no further case.
    pub const fn shrink_runs(mut self, runs: u64) -> Self {
        self.shrink_runs = runs;
        self
    }

    /// Keeps the counterexample in a file: it is written when a case fails, and every later search
    /// replays it first.
    pub fn saved_in(mut self, file: impl Into<PathBuf>) -> Self {
        self.saved = Some(file.into());
        self
    }

    /// The first case that fails, shrunk: the saved one, otherwise a random one.
    ///
    /// # Panics
    /// If the saved file is no counterexample, or cannot be read or written. Also where
    /// [`Explorer::shrink`] panics.
    #[must_use]
    pub fn find(&self, explorer: &Explorer, fails: impl Fn(&Checked) -> bool) -> Option<Shrunk> {
        if let Some(saved) = self.read_saved() {
            let replayed = explorer.replay(&saved.case, &saved.schedule);
            if fails(&replayed) {
                return Some(Shrunk { counterexample: saved, runs: 1 });
            }
        }
        let found = self.find_unshrunk(explorer, &fails)?;
        let shrunk = explorer.shrink(&found, self.shrink_runs, fails);
        if let Some(file) = &self.saved {
            let text = shrunk.counterexample.to_string();
            fs::write(file, text).unwrap_or_else(|error| failed(file, &error));
        }
        Some(shrunk)
    }

    /// The first random case that fails, with its schedule.
    ///
    /// # Panics
    /// Inside an async runtime.
    #[must_use]
    pub fn find_unshrunk(
        &self,
        explorer: &Explorer,
        fails: impl Fn(&Checked) -> bool,
    ) -> Option<Counterexample> {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        for _ in 0..self.cases {
            let case = self.random_case(&mut rng);
            let mut found = None;
            explorer.random(&case, rng.u64(..), self.schedules, |checked| {
                if !fails(&checked) {
                    return ControlFlow::Continue(());
                }
                found = Some(checked.outcome.schedule);
                ControlFlow::Break(())
            });
            if let Some(schedule) = found {
                return Some(Counterexample { case, schedule });
            }
        }
        None
    }

    /// A random case of the size of this search. Its programs use three keys with a common prefix,
    /// each of which may exist before.
    pub fn random_case(&self, rng: &mut fastrand::Rng) -> Case {
        let keys = ["p/x", "p/y", "p/z"];
        let mut case = Case::default();
        case.initial.extend(keys.into_iter().filter(|_| rng.bool()).map(str::to_owned));
        for _ in 0..self.programs {
            let count = rng.usize(1..=self.operations.max(1));
            let operations = (0..count).map(|_| {
                let key = keys[rng.usize(..keys.len())].to_owned();
                match rng.u8(..12) {
                    0..5 => ProgramOperation::Get(key),
                    5..8 => ProgramOperation::Put(key),
                    8 => ProgramOperation::Delete(key),
                    9 => ProgramOperation::Range("p/".to_owned()),
                    10 => ProgramOperation::RevisionOf(key),
                    _ => ProgramOperation::Append(key),
                }
            });
            case.programs.push(Program::new(self.isolation, operations));
        }
        case
    }

    fn read_saved(&self) -> Option<Counterexample> {
        let file = self.saved.as_ref().filter(|file| file.exists())?;
        let text = fs::read_to_string(file).unwrap_or_else(|error| failed(file, &error));
        Some(text.parse().unwrap_or_else(|error| failed(file, &error)))
    }
}

fn failed(file: &std::path::Path, error: &dyn fmt::Display) -> ! {
    panic!("{}: {error}", file.display())
}
