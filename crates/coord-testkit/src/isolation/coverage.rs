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
    /// The keys that were read, each once per attempt, and once more for each range that has found
    /// the key.
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

impl Coverage {
    /// What was checked, in parts of one sentence. A part whose count is zero is left out, except
    /// for the parts that every check has.
    pub(crate) fn parts(&self) -> Vec<String> {
        let (transactions, attempts) =
            (counted(self.transactions, "transaction"), counted(self.attempts, "attempt"));
        let mut parts = vec![format!("checked {transactions}, {attempts}")];
        // Rounded down: 100 % means all.
        parts.push(match (self.resolved_reads * 100).checked_div(self.reads) {
            None => "no key read".to_owned(),
            Some(percent) => {
                let reads = counted(self.reads, "read");
                format!("{} of {reads} resolved ({percent} %)", self.resolved_reads)
            }
        });
        parts.push(format!("{} without a place", counted(self.unplaced, "transaction")));
        parts.push(format!("{} searched", counted(self.edges, "edge")));
        let (matched, unmatched) = (self.matched_unknown, self.unmatched_unknown);
        if matched + unmatched > 0 {
            parts.push(format!("unknown commits: {matched} matched, {unmatched} unmatched"));
        }
        for (number, thing, what) in [
            (self.other_changes, "change", "by other clients"),
            (self.without_revision, "transaction", "without a revision"),
            (self.inferred_versions, "version", "in an inferred order"),
            (self.beyond_window, "event", "beyond the window"),
        ] {
            if number > 0 {
                parts.push(format!("{} {what}", counted(number, thing)));
            }
        }
        parts
    }
}

impl fmt::Display for Coverage {
    /// Writes one line for each part, the lines after the first one indented.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.parts().join("\n  "))
    }
}

/// A number of things, such as `1 edge` or `2 edges`.
pub(crate) fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}
