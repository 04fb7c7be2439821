//! Failures: why a run is wrong.

use std::fmt;

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind, or the name of the oracle. Shrinking keeps it: a smaller run with another failure
    /// does not replace the first.
    pub oracle: String,
    /// What went wrong.
    pub text: String,
}

impl Failure {
    pub(crate) fn new(oracle: impl Into<String>, text: impl Into<String>) -> Self {
        Self { oracle: oracle.into(), text: text.into() }
    }

    /// A task was woken from another thread.
    pub(crate) fn escape() -> Self {
        Self::new(
            "escape",
            "a task was woken from another thread, so no seed can reproduce the run: do not use \
             threads, spawn_blocking or sockets in a simulated process",
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.oracle, self.text)
    }
}
