//! Operations on a store, and request drafts, whose revisions are relative to the store's revision.
//!
//! A *draft* contains a request of the data model, and an [`At`] for each revision field of the
//! request. The values of these fields in the request itself are ignored. `resolve` computes the
//! request from the store's revision. A request without revision fields needs no draft.

use std::time::Duration;

use coord_core::kv::{
    Compact, Compare, CompareOperand, Delete, LeaseGrant, LeaseId, LeaseTimeToLive, Op, Put, Range,
    Revision, Txn, Watch,
};

/// A revision, relative to the store's revision when the operation is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "every revision is before, at or after another")]
pub enum At {
    /// The store's revision.
    Current,
    /// This many revisions before the store's revision; revision 1 if there are fewer.
    Back(i64),
    /// This many revisions after the store's revision.
    Ahead(i64),
    /// This revision, independent of the store's revision. Zero means "not set".
    Absolute(i64),
}

impl At {
    /// The revision, for a store at revision `current`.
    #[must_use]
    pub fn resolve(self, current: Revision) -> Revision {
        Revision(match self {
            Self::Current => current.0,
            Self::Back(by) => current.0.saturating_sub(by).max(1),
            Self::Ahead(by) => current.0.saturating_add(by),
            Self::Absolute(revision) => revision,
        })
    }

    /// Like [`resolve`](Self::resolve), for an optional field: `None` instead of zero.
    fn resolve_option(self, current: Revision) -> Option<Revision> {
        Some(self.resolve(current)).filter(|revision| *revision != Revision::ZERO)
    }
}

/// An operation on a store.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a runner must handle every operation")]
pub enum Operation {
    /// Reads a range.
    Range(RangeDraft),
    /// Sets a key.
    Put(Put),
    /// Deletes a range.
    Delete(Delete),
    /// Runs a transaction.
    Txn(TxnDraft),
    /// Grants a lease.
    LeaseGrant(LeaseGrant),
    /// Revokes a lease.
    LeaseRevoke(LeaseId),
    /// Keeps a lease alive.
    LeaseKeepAlive(LeaseId),
    /// Reads the remaining time of a lease.
    LeaseTimeToLive(LeaseTimeToLive),
    /// Lists the leases.
    Leases,
    /// Compacts history.
    Compact(CompactDraft),
    /// Opens a watch, which stays open until an [`Unwatch`](Self::Unwatch) drops it or the sequence
    /// ends.
    Watch(WatchDraft),
    /// Drops the open watch with this number, modulo the number of open watches.
    Unwatch(u8),
    /// Requests a progress notification from the open watch with this number, modulo the number of
    /// open watches.
    Progress(u8),
    /// Reads every batch that the open watches have ready.
    ReadWatches,
    /// Moves the clock.
    Advance {
        /// The time by which the clock moves.
        by: Duration,
        /// Whether the clock moves in one jump, or from timer to timer.
        pace: Pace,
    },
}

/// How the clock moves in [`Operation::Advance`]. The responses of a store must not depend on the
/// pace. A [`Mirror`](crate::Mirror) always sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tokio's clock moves in these two ways")]
pub enum Pace {
    /// In one jump, without running any timer. Every lease whose time ended during the jump is
    /// overdue when the next operation runs.
    Jump,
    /// From timer to timer: the store's own tasks run at their times.
    Sleep,
}

/// A [`Range`] whose revisions are relative.
#[derive(Clone, Debug)]
pub struct RangeDraft {
    /// The request without its revisions.
    pub request: Range,
    /// The revision to read at.
    pub revision: At,
    /// The filters: minimum and maximum mod revision, minimum and maximum create revision.
    pub filters: [At; 4],
}

impl RangeDraft {
    /// The request, for a store at revision `current`.
    #[must_use]
    pub fn resolve(&self, current: Revision) -> Range {
        let [min_mod, max_mod, min_create, max_create] =
            self.filters.map(|at| at.resolve_option(current));
        Range {
            revision: self.revision.resolve_option(current),
            min_mod_revision: min_mod,
            max_mod_revision: max_mod,
            min_create_revision: min_create,
            max_create_revision: max_create,
            ..self.request.clone()
        }
    }
}

/// A [`Compare`] whose revision is relative.
#[derive(Clone, Debug)]
pub struct CompareDraft {
    /// The request without its revision.
    pub request: Compare,
    /// The operand, if the request compares a revision.
    pub revision: At,
}

impl CompareDraft {
    /// The compare, for a store at revision `current`.
    #[must_use]
    pub fn resolve(&self, current: Revision) -> Compare {
        let revision = self.revision.resolve(current);
        let operand = match self.request.operand.clone() {
            CompareOperand::CreateRevision(_) => CompareOperand::CreateRevision(revision),
            CompareOperand::ModRevision(_) => CompareOperand::ModRevision(revision),
            other => other,
        };
        Compare { operand, ..self.request.clone() }
    }
}

/// A [`Txn`] whose revisions are relative.
#[derive(Clone, Debug, Default)]
pub struct TxnDraft {
    /// The compares.
    pub compares: Vec<CompareDraft>,
    /// The operations to run if every compare holds.
    pub success: Vec<OpDraft>,
    /// The operations to run otherwise.
    pub failure: Vec<OpDraft>,
}

impl TxnDraft {
    /// The transaction, for a store at revision `current`.
    #[must_use]
    pub fn resolve(&self, current: Revision) -> Txn {
        let resolve_ops = |ops: &[OpDraft]| ops.iter().map(|op| op.resolve(current)).collect();
        Txn {
            compares: self.compares.iter().map(|compare| compare.resolve(current)).collect(),
            success: resolve_ops(&self.success),
            failure: resolve_ops(&self.failure),
        }
    }
}

/// An [`Op`] whose revisions are relative.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "one variant for each of `Op`, which is exhaustive")]
pub enum OpDraft {
    /// Reads a range.
    Range(RangeDraft),
    /// Sets a key.
    Put(Put),
    /// Deletes a range.
    Delete(Delete),
    /// Runs a nested transaction.
    Txn(TxnDraft),
}

impl OpDraft {
    /// The operation of a transaction, for a store at revision `current`.
    #[must_use]
    pub fn resolve(&self, current: Revision) -> Op {
        match self {
            Self::Range(draft) => Op::Range(draft.resolve(current)),
            Self::Put(put) => Op::Put(put.clone()),
            Self::Delete(delete) => Op::Delete(delete.clone()),
            Self::Txn(draft) => Op::Txn(draft.resolve(current)),
        }
    }
}

/// A [`Compact`] whose revision is relative.
#[derive(Clone, Copy, Debug)]
pub struct CompactDraft {
    /// The oldest revision that remains readable.
    pub revision: At,
    /// Whether to respond only when the compacted entries are physically removed.
    pub physical: bool,
}

impl CompactDraft {
    /// The request, for a store at revision `current`.
    #[must_use]
    pub fn resolve(&self, current: Revision) -> Compact {
        Compact { revision: self.revision.resolve(current), physical: self.physical }
    }
}

/// A [`Watch`] whose start revision is relative.
#[derive(Clone, Debug)]
pub struct WatchDraft {
    /// The request without its revision.
    pub request: Watch,
    /// The first revision to deliver.
    pub start: At,
}

impl WatchDraft {
    /// The request, for a store at revision `current`.
    #[must_use]
    pub fn resolve(&self, current: Revision) -> Watch {
        Watch { start_revision: self.start.resolve_option(current), ..self.request.clone() }
    }
}
