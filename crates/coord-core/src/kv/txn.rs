//! Transactions: conditions, what to do when they hold, what to do when they do not.
//!
//! Besides the type, this file holds the rules that etcd applies to a transaction *before* it
//! looks at any data, because every backend must refuse the same ones and the sooner the better:
//! [`Txn::check`]. The subtle rule is the one on duplicate keys. A transaction gets one revision,
//! so no key may be put twice in it, nor put and deleted; but branches that exclude each other may
//! touch the same key, and etcd judges that level by level. With D for deleted ranges and P for
//! put keys, both starting empty at each level of a branch:
//!
//! ```text
//! 1  all deletes of this level go into D                      wherever they stand
//! 2  each nested transaction, in order:
//!      keys put by its Then must be in neither P nor D
//!      keys put by its Else likewise, but may repeat one of its own Then
//!      both go into P; then the deletes of both go into D     so a later sibling sees them
//! 3  each put of this level must be in neither P nor D, and goes into P
//! ```
//!
//! Hence, for siblings, `[txn{put k}, txn{delete k}]` passes (step 2 had not yet seen the delete)
//! and `[txn{delete k}, txn{put k}]` fails. A branch is checked though it may never be taken.
//! A delete *without end* covers no key in this check, in every etcd so far: `[delete a.., put b]`
//! passes and is executed in order (upstream issue 22445).

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Compare, Delete, KeyRange, Limits, Op, Put};
use crate::error::{Error, Result};

/// An atomic step: if all compares hold, the success steps are taken, else the failure steps.
///
/// No compare at all holds. All steps share one revision, and reads among them see what earlier
/// steps did.
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
    /// What must hold.
    pub compares: Vec<Compare>,
    /// The steps to take when it does.
    pub success: Vec<Op>,
    /// The steps to take when it does not.
    pub failure: Vec<Op>,
}

impl Txn {
    /// A transaction with no condition and no step.
    #[must_use]
    pub const fn new() -> Self {
        Self { compares: Vec::new(), success: Vec::new(), failure: Vec::new() }
    }

    /// Adds conditions.
    #[must_use]
    pub fn when(mut self, compares: impl IntoIterator<Item = Compare>) -> Self {
        self.compares.extend(compares);
        self
    }

    /// Adds steps for when all conditions hold.
    #[must_use]
    pub fn and_then<O: Into<Op>>(mut self, ops: impl IntoIterator<Item = O>) -> Self {
        self.success.extend(ops.into_iter().map(Into::into));
        self
    }

    /// Adds steps for when a condition does not hold.
    #[must_use]
    pub fn or_else<O: Into<Op>>(mut self, ops: impl IntoIterator<Item = O>) -> Self {
        self.failure.extend(ops.into_iter().map(Into::into));
        self
    }

    /// Whether the transaction can change nothing: each step of both branches is a range.
    ///
    /// A nested transaction counts as a change even where all its steps are ranges, as in etcd.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.success.iter().chain(&self.failure).all(|op| matches!(op, Op::Range(_)))
    }

    /// Refuses what no etcd would accept, whatever the data.
    ///
    /// The order is etcd's: the number of operations, empty keys of compares, each step of the
    /// success branch and then of the failure branch, then keys that are given twice.
    ///
    /// # Errors
    /// [`Error::TooManyOps`], [`Error::EmptyKey`], [`Error::ValueProvided`],
    /// [`Error::LeaseProvided`], [`Error::DuplicateKey`]: nothing was sent, so nothing was applied.
    ///
    /// Source: `docs/etcd-contract.md` §4; etcd 3.5 `server/etcdserver/api/v3rpc/key.go`.
    pub fn check(&self, limits: &Limits) -> Result<()> {
        self.check_ops(limits.max_txn_ops)?;
        Touched::by(&self.success)?;
        Touched::by(&self.failure)?;
        Ok(())
    }

    /// Checks the number of operations against `budget`, and every operation by itself. What a
    /// level uses of its budget is lost to each of its nested transactions, but siblings do not
    /// share: 64 nested transactions of 64 steps each pass a limit of 128.
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
    /// Refuses a put that no etcd would accept, whatever the data.
    ///
    /// # Errors
    /// [`Error::EmptyKey`], [`Error::ValueProvided`], [`Error::LeaseProvided`], tested in this
    /// order: nothing was sent, so nothing was applied.
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

/// Every request names a key.
pub(crate) fn check_key(key: &Bytes) -> Result<()> {
    if key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

/// The keys that a branch may put, and the ranges that it may delete.
#[derive(Default)]
struct Touched<'a> {
    puts: BTreeSet<&'a Bytes>,
    deletes: Vec<&'a KeyRange>,
}

impl<'a> Touched<'a> {
    /// What `ops` touch, by the three steps at the head of this file.
    fn by(ops: &'a [Op]) -> Result<Self> {
        let mut touched = Self::default();
        touched.deletes.extend(ops.iter().filter_map(|op| match op {
            Op::Delete(Delete { keys, .. }) => Some(keys),
            _ => None,
        }));
        for op in ops {
            let Op::Txn(nested) = op else { continue };
            let then = Self::by(&nested.success)?;
            let otherwise = Self::by(&nested.failure)?;
            for key in &then.puts {
                touched.add_put(key)?;
            }
            for key in &otherwise.puts {
                if then.puts.contains(*key) {
                    // Only one of the two branches is taken. The deletes were tested with Then's.
                    continue;
                }
                touched.add_put(key)?;
            }
            touched.deletes.extend(then.deletes.iter().chain(&otherwise.deletes));
        }
        for op in ops {
            if let Op::Put(put) = op {
                touched.add_put(&put.key)?;
            }
        }
        Ok(touched)
    }

    fn add_put(&mut self, key: &'a Bytes) -> Result<()> {
        if self.deletes.iter().any(|range| covers(range, key)) || !self.puts.insert(key) {
            return Err(Error::DuplicateKey { key: key.clone() });
        }
        Ok(())
    }
}

/// Whether a delete of `range` counts as touching `key`. One without end touches nothing here.
fn covers(range: &KeyRange, key: &Bytes) -> bool {
    range.upper_bound().is_some() && range.contains(key)
}
