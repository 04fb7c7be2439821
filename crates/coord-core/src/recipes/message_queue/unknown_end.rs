//! The requests to end a delivery whose outcome is unknown.
//!
//! An acknowledgement and a release delete the claim. So the missing claim after an unknown outcome
//! shows that some end was applied, or that another client deleted the claim, but not which end:
//!
//! ```text
//! release: applied, response lost          the claim is deleted, the message is ready
//! acknowledge: the claim is missing        it must not succeed: the message is delivered again
//! ```
//!
//! The delivery remembers the operations whose outcome is unknown. A missing claim confirms these
//! operations only, and an acknowledgement only if the message does not exist any more.

use crate::kv::Op;

/// The requests to end a delivery whose outcome is unknown, by their operations.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum UnknownEnd {
    None,
    /// One request, or several with the same operations.
    Of(Vec<Op>),
    /// Requests with different operations: a missing claim confirms none of them.
    Several,
}

impl UnknownEnd {
    /// Notes that the outcome of a request with these operations is unknown.
    pub(super) fn note(&mut self, ops: &[Op]) {
        match self {
            Self::None => *self = Self::Of(ops.to_vec()),
            Self::Of(noted) if noted == ops => {}
            Self::Of(_) | Self::Several => *self = Self::Several,
        }
    }

    /// Whether each request that may have been applied has these operations.
    pub(super) fn is_of(&self, ops: &[Op]) -> bool {
        matches!(self, Self::Of(noted) if noted == ops)
    }
}
