//! Failures: why a run is wrong.

use std::fmt;

/// The kind of a panic. The first line of its text is its place.
pub(crate) const PANIC: &str = "panic";

/// The kind of an error that the scenario returned.
pub(crate) const SCENARIO: &str = "scenario";

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind, or the name of the oracle. Shrinking keeps it, and the place of a panic or the
    /// text of the scenario's error: a smaller run with another failure does not replace the first.
    pub oracle: String,
    /// What went wrong.
    pub text: String,
}

impl Failure {
    pub(crate) fn new(oracle: impl Into<String>, text: impl Into<String>) -> Self {
        Self { oracle: oracle.into(), text: text.into() }
    }

    /// A task was woken, or a request was sent, from another thread.
    pub(crate) fn escape() -> Self {
        Self::new(
            "escape",
            "a task was woken or a request was sent from another thread, so no seed can reproduce \
             the run: do not use threads, spawn_blocking or sockets in a simulated process",
        )
    }

    /// Whether this failure has the cause of `other`, as far as can be seen: the same kind, and for
    /// a panic the same place, for an error of the scenario the same text but for numbers.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let place = |text: &'_ str| text.lines().next().map(str::to_owned);
        let words = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
        self.oracle == other.oracle
            && match self.oracle.as_str() {
                PANIC => place(&self.text) == place(&other.text),
                SCENARIO => words(&self.text) == words(&other.text),
                _ => true,
            }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.oracle, self.text)
    }
}
