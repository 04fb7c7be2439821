//! How much of a history was checked: a part of every verdict.

use std::fmt;

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
    /// The reads of which the history has the version and its writer, and those of the initial
    /// state. Other reads constrain less.
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
    /// The committed transactions that write and whose revision is not known, as in files of other
    /// tools. The order of their versions is not known, so levels that nothing
    /// refutes are unknown.
    pub without_revision: usize,
    /// In a history without revisions: the versions whose order was inferred from what was read.
    pub inferred_versions: usize,
    /// In a check with a [window](super::Checker::window): the reads, commits and changes that what
    /// was forgotten could explain or refute. If it is 0, nothing is unknown for that reason.
    pub beyond_window: usize,
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
        writeln!(f, "  {} changes by other clients", self.other_changes)?;
        if self.without_revision > 0 {
            writeln!(f, "  {} transactions without a revision", self.without_revision)?;
        }
        if self.inferred_versions > 0 {
            writeln!(f, "  {} versions in an inferred order", self.inferred_versions)?;
        }
        match self.beyond_window {
            0 => Ok(()),
            beyond => writeln!(f, "  {beyond} reads, commits and changes beyond the window"),
        }
    }
}
