//! A contradiction that was found in a history without revisions.

use bytes::Bytes;

use super::order::Cycle;
use crate::history::{Contradiction, ContradictionKind};

/// A contradiction between transactions, by their places.
pub(super) struct Found<'a> {
    pub(super) kind: ContradictionKind,
    pub(super) transactions: Vec<usize>,
    pub(super) keys: Vec<&'a Bytes>,
}

impl<'a> Found<'a> {
    pub(super) fn cycle(kind: ContradictionKind, cycle: Cycle<'a>) -> Self {
        let (transactions, keys) = cycle.into_iter().unzip();
        Self { kind, transactions, keys }
    }

    /// The contradiction with the numbers of its transactions, from 1.
    pub(super) fn report(self) -> Contradiction {
        let number = |place| u64::try_from(place).unwrap_or(u64::MAX).saturating_add(1);
        Contradiction {
            kind: self.kind,
            transactions: self.transactions.into_iter().map(number).collect(),
            keys: self.keys.into_iter().cloned().collect(),
        }
    }
}
