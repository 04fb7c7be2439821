//! Transactions: compares, and the operations of their two branches.
//!
//! [`Txn::check`] has the rules that etcd applies to a transaction *before* it reads any data.
//! Every backend must refuse the same transactions, before it sends them.
//!
//! The subtle rule is about duplicate keys. All changes of a transaction share one revision, so no
//! key may be put twice, or put and deleted. But the two branches of a transaction exclude each
//! other, so both may change the same key. etcd checks this level by level. D is the set of deleted
//! ranges and P the set of put keys; both are empty at the start of each level of a branch:
//!
//! ```text
//! 1  add all deletes of this level to D                       wherever they are in the list
//! 2  for each nested transaction, in order:
//!      keys put by its success branch must not be in P or D
//!      keys put by its failure branch likewise, but they may repeat keys of its success branch
//!      add both to P; then add the deletes of both to D       a later sibling is checked on them
//! 3  each put of this level must not be in P or D; add it to P
//! ```
//!
//! So, of siblings, `[txn{put k}, txn{delete k}]` passes, because the delete is added to D after
//! the put was checked, and `[txn{delete k}, txn{put k}]` fails. Both branches are checked,
//! although only one is executed. A delete *without an upper bound* covers no key in this check, in
//! every etcd so far: `[delete a.., put b]` passes and is executed in order (upstream issue 22445).

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Compare, Delete, KeyRange, Limits, Op, Put};
use crate::error::{Error, Result};

/// A transaction: if all compares hold, its success operations are executed, otherwise its failure
/// operations, atomically.
///
/// Without compares, the success operations are executed. All changes share one revision. A read
/// reads the changes of earlier operations.
///
/// ```
/// use coord_core::kv::{Compare, Put, Range, Txn};
///
/// let create_or_read = Txn::new()
///     .when([Compare::absent("a")])
///     .and_then([Put::new("a", "1")])
///     .or_else([Range::new("a")]);
/// assert_eq!(create_or_read.compares.len(), 1);
/// ```
///
/// Source: `docs/etcd-contract.md` §4.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// The operations to execute if all compares hold.
    pub success: Vec<Op>,
    /// The operations to execute if a compare does not hold.
    pub failure: Vec<Op>,
}

impl Txn {
    /// A transaction without compares and operations.
    #[must_use]
    pub const fn new() -> Self {
        Self { compares: Vec::new(), success: Vec::new(), failure: Vec::new() }
    }

    /// Adds compares.
    #[must_use]
    pub fn when(mut self, compares: impl IntoIterator<Item = Compare>) -> Self {
        self.compares.extend(compares);
        self
    }

    /// Adds operations for the case that all compares hold.
    #[must_use]
    pub fn and_then<O: Into<Op>>(mut self, ops: impl IntoIterator<Item = O>) -> Self {
        self.success.extend(ops.into_iter().map(Into::into));
        self
    }

    /// Adds operations for the case that a compare does not hold.
    #[must_use]
    pub fn or_else<O: Into<Op>>(mut self, ops: impl IntoIterator<Item = O>) -> Self {
        self.failure.extend(ops.into_iter().map(Into::into));
        self
    }

    /// Returns whether the transaction is read-only: each operation of both branches is a range.
    ///
    /// A nested transaction counts as a change, even if all its operations are ranges, as in etcd.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| matches!(op, Op::Range(_)))
    }

    /// Checks the rules that do not depend on data: a transaction that fails this check would fail
    /// in every store.
    ///
    /// The order is etcd's: the number of operations; empty keys of compares; each operation of the
    /// success branch, then of the failure branch; duplicate keys.
    ///
    /// # Errors
    /// [`Error::TooManyOps`], [`Error::EmptyKey`], [`Error::ValueProvided`],
    /// [`Error::LeaseProvided`], [`Error::DuplicateKey`]. Not applied: nothing was sent.
    ///
    /// Source: `docs/etcd-contract.md` §4; etcd 3.5 `server/etcdserver/api/v3rpc/key.go`.
    pub fn check(&self, limits: &Limits) -> Result<()> {
        self.check_ops(limits.max_txn_ops)?;
        BranchKeys::of(&self.success)?;
        BranchKeys::of(&self.failure)?;
        Ok(())
    }

    /// Checks the number of operations against `budget`, and every operation by itself. Each nested
    /// transaction has the budget that its outer level leaves. Siblings do not share it: 64 nested
    /// transactions of 64 operations each pass a limit of 128.
    fn check_ops(&self, budget: usize) -> Result<()> {
        let count = self.compares.len().max(self.success.len()).max(self.failure.len());
        if count > budget {
            return Err(Error::TooManyOps { count, limit: budget });
        }
        for compare in &self.compares {
            check_key(compare.keys.start())?;
        }
        for op in self.success.iter().chain(&self.failure) {
            match op {
                Op::Range(range) => check_key(range.keys.start())?,
                Op::Put(put) => put.check()?,
                Op::Delete(delete) => check_key(delete.keys.start())?,
                Op::Txn(nested) => nested.check_ops(budget - count)?,
            }
        }
        Ok(())
    }
}

impl Put {
    /// Checks the rules that do not depend on data: a put that fails this check would fail in every
    /// store.
    ///
    /// # Errors
    /// [`Error::EmptyKey`], [`Error::ValueProvided`], [`Error::LeaseProvided`], checked in this
    /// order. Not applied: nothing was sent.
    ///
    /// Source: `docs/etcd-contract.md` §3.
    pub fn check(&self) -> Result<()> {
        check_key(&self.key)?;
        if self.ignore_value && !self.value.is_empty() {
            return Err(Error::ValueProvided { key: self.key.clone() });
        }
        if self.ignore_lease && self.lease.is_some() {
            return Err(Error::LeaseProvided { key: self.key.clone() });
        }
        Ok(())
    }
}

/// Refuses an empty key.
pub(crate) fn check_key(key: &Bytes) -> Result<()> {
    if key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// The keys that a branch may put, and the ranges that it may delete: P and D in the module
/// documentation.
#[derive(Default)]
struct BranchKeys<'a> {
    puts: BTreeSet<&'a Bytes>,
    deletes: Vec<&'a KeyRange>,
}

impl<'a> BranchKeys<'a> {
    /// Collects the keys of `ops`, and checks them, by the three steps of the module documentation.
    fn of(ops: &'a [Op]) -> Result<Self> {
        let mut branch = Self::default();
        branch.deletes.extend(ops.iter().filter_map(|op| match op {
            Op::Delete(Delete { keys, .. }) => Some(keys),
            _ => None,
        }));
        for op in ops {
            let Op::Txn(nested) = op else { continue };
            let success = Self::of(&nested.success)?;
            let failure = Self::of(&nested.failure)?;
            for key in &success.puts {
                branch.add_put(key)?;
            }
            for key in &failure.puts {
                if success.puts.contains(*key) {
                    // Only one branch is executed. The key was checked with the success branch.
                    continue;
                }
                branch.add_put(key)?;
            }
            branch.deletes.extend(success.deletes.iter().chain(&failure.deletes));
        }
        for op in ops {
            if let Op::Put(put) = op {
                branch.add_put(&put.key)?;
            }
        }
        Ok(branch)
    }

    fn add_put(&mut self, key: &'a Bytes) -> Result<()> {
        if self.deletes.iter().any(|range| covers(range, key)) || !self.puts.insert(key) {
            return Err(Error::DuplicateKey { key: key.clone() });
        }
        Ok(())
    }
}

/// Whether a delete of `range` covers `key`. A range without an upper bound covers no key here.
fn covers(range: &KeyRange, key: &Bytes) -> bool {
    range.upper_bound().is_some() && range.contains(key)
}
