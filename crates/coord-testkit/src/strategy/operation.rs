//! What is drawn: requests whose revisions are still relative.
//!
//! A *draft* is a request of the data model next to an [`At`] for each of its revisions; what the
//! request itself says in those fields does not count. `resolve` puts the revisions in, once the
//! store's own is known. Everything that has no revision is drawn as the request it is.

use std::time::Duration;

use coord_core::kv::{
    Compact, Compare, CompareOperand, Delete, LeaseGrant, LeaseId, LeaseTimeToLive, Op, Put, Range,
    Revision, Txn, Watch,
};

/// A revision, said relative to the store's revision when the operation is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is no fourth way to lie to a point on a line")]
pub enum At {
    /// The store's revision.
    Current,
    /// So many before it; what would be below 1 is 1.
    Back(i64),
    /// So many after it.
    Ahead(i64),
    /// This one, wherever the store is. Zero is "not set".
    Absolute(i64),
}

impl At {
    /// The revision that is meant in a store that is at `current`.
    #[must_use]
    pub fn resolve(self, current: Revision) -> Revision {
        Revision(match self {
            Self::Current => current.0,
            Self::Back(by) => current.0.saturating_sub(by).max(1),
            Self::Ahead(by) => current.0.saturating_add(by),
            Self::Absolute(revision) => revision,
        })
    }
}

/// One thing to do to a store.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "who runs operations must not overlook one")]
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
    /// Refreshes a lease.
    LeaseKeepAlive(LeaseId),
    /// Asks how long a lease still lives.
    LeaseTimeToLive(LeaseTimeToLive),
    /// Lists the leases.
    Leases,
    /// Forgets history.
    Compact(CompactDraft),
    /// Opens a watch, to be kept until it is dropped or the sequence ends.
    Watch(WatchDraft),
    /// Drops one of the open watches: the one with this number, counted round.
    Unwatch(u8),
    /// Asks one of the open watches for a bookmark: the one with this number, counted round.
    Progress(u8),
    /// Reads all that the open watches have to deliver.
    ReadWatches,
    /// Lets time pass.
    Advance {
        /// How much.
        by: Duration,
        /// In which way.
        pace: Pace,
    },
}

/// How time passes in [`Operation::Advance`]. It makes no difference to what a store answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tokio's clock moves in these two ways")]
pub enum Pace {
    /// All at once: the next operation finds every lease overdue that ended meanwhile.
    Jump,
    /// From timer to timer: the store's own tasks run when their time has come.
    Sleep,
}

/// A [`Range`] to be.
#[derive(Clone, Debug)]
pub struct RangeDraft {
    /// Everything but the revisions.
    pub request: Range,
    /// The revision to read at.
    pub revision: At,
    /// The filters: least and greatest modification revision, least and greatest creation
    /// revision.
    pub filters: [At; 4],
}

impl RangeDraft {
    /// The request, for a store that is at `current`.
    #[must_use]
    pub fn resolve(&self, current: Revision) -> Range {
        let [min_mod, max_mod, min_create, max_create] = self.filters.map(|at| at.resolve(current));
        Range {
            revision: self.revision.resolve(current),
            min_mod_revision: min_mod,
            max_mod_revision: max_mod,
            min_create_revision: min_create,
            max_create_revision: max_create,
            ..self.request.clone()
        }
    }
}

/// A [`Compare`] to be.
#[derive(Clone, Debug)]
pub struct CompareDraft {
    /// Everything but the revision.
    pub request: Compare,
    /// The operand, where it is a revision.
    pub revision: At,
}

impl CompareDraft {
    /// The compare, for a store that is at `current`.
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

/// A [`Txn`] to be.
#[derive(Clone, Debug, Default)]
pub struct TxnDraft {
    /// What must hold.
    pub compares: Vec<CompareDraft>,
    /// The steps to take when it does.
    pub success: Vec<OpDraft>,
    /// The steps to take when it does not.
    pub failure: Vec<OpDraft>,
}

impl TxnDraft {
    /// The transaction, for a store that is at `current`.
    #[must_use]
    pub fn resolve(&self, current: Revision) -> Txn {
        let steps = |ops: &[OpDraft]| ops.iter().map(|op| op.resolve(current)).collect();
        Txn {
            compares: self.compares.iter().map(|compare| compare.resolve(current)).collect(),
            success: steps(&self.success),
            failure: steps(&self.failure),
        }
    }
}

/// An [`Op`] to be.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "as `Op`, which is closed")]
pub enum OpDraft {
    /// Reads a range.
    Range(RangeDraft),
    /// Sets a key.
    Put(Put),
    /// Deletes a range.
    Delete(Delete),
    /// Runs a transaction within the transaction.
    Txn(TxnDraft),
}

impl OpDraft {
    /// The step, for a store that is at `current`.
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

/// A [`Compact`] to be.
#[derive(Clone, Copy, Debug)]
pub struct CompactDraft {
    /// The oldest revision that stays readable.
    pub revision: At,
    /// Whether to wait until the space is given back.
    pub physical: bool,
}

impl CompactDraft {
    /// The request, for a store that is at `current`.
    #[must_use]
    pub fn resolve(&self, current: Revision) -> Compact {
        Compact { revision: self.revision.resolve(current), physical: self.physical }
    }
}

/// A [`Watch`] to be.
#[derive(Clone, Debug)]
pub struct WatchDraft {
    /// Everything but the revision.
    pub request: Watch,
    /// The first revision to deliver.
    pub start: At,
}

impl WatchDraft {
    /// The request, for a store that is at `current`.
    #[must_use]
    pub fn resolve(&self, current: Revision) -> Watch {
        Watch { start_revision: self.start.resolve(current), ..self.request.clone() }
    }
}
