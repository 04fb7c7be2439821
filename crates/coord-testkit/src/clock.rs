//! The clock of a backend under test: paused or real.

/// The clock that a backend under test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a test can move the clock or it cannot")]
pub enum Clock {
    /// Tokio's clock, paused: the test moves the clock, and waiting takes no real time. For
    /// backends in memory.
    Paused,
    /// Real time, which no test can move. For servers.
    Real,
}
