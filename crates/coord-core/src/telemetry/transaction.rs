//! Events of transactions.

use std::fmt::Display;

use tracing::Span;

use super::{STM, metrics};
use crate::stm::isolation::Isolation;

/// The span of a whole transaction, with all its attempts.
pub(crate) fn run_span(isolation: Isolation) -> Span {
    tracing::info_span!(target: STM, "transaction", %isolation)
}

/// The span of one attempt, counted from 1.
pub(crate) fn attempt_span(attempt: u32) -> Span {
    tracing::info_span!(target: STM, "attempt", attempt)
}

/// An attempt conflicted.
pub(crate) fn conflicted(attempt: u32, conflicts: &[impl Display]) {
    let first = conflicts.first().map(tracing::field::display);
    let count = conflicts.len();
    tracing::debug!(target: STM, attempt, count, first, next = "retrying within the budget",
        "transaction conflicted");
    metrics::count("coord_stm_conflicts_total", &[]);
}

/// A transaction has ended.
pub(crate) fn ended(result: &'static str) {
    metrics::count("coord_stm_transactions_total", &[("result", result)]);
}
