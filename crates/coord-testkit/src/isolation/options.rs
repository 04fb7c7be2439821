//! Options of a check: what is known about values, and how cycles are searched for.

/// Whether a value shows which attempt has written it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Values {
    /// Several attempts, and other clients, may put the same value.
    #[default]
    Any,
    /// No two writes of a key put the same value, except attempts of one transaction. This lets the
    /// checker find writes of aborted attempts, and commits that were applied twice.
    Unique,
}

/// How cycles are searched for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Engine {
    /// Only around transactions that have no place in the order of revisions.
    #[default]
    Intervals,
    /// In the dependency graph of all transactions. Every status is the same, in more time.
    WholeGraph,
}
