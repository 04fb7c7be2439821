//! What a reader has inferred about a history whose format has no revisions: how many versions it
//! could order, and what it read that no order explains.
//!
//! ```text
//! T1 reads x: [1 2]
//! T2 reads x: [1 3]        no order of appends explains both: an incompatible order
//! ```

use std::fmt;

use bytes::Bytes;

/// What was inferred. The isolation checker counts the versions, and reports each contradiction as
/// an anomaly.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use coord_testkit::history::{ContradictionKind, EventKind, formats::elle};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let text = "{:type :ok, :process 0, :value [[:append x 1]]}
///             {:type :ok, :process 1, :value [[:r x [1]]]}
///             {:type :ok, :process 2, :value [[:r x [1 2]]]}";
/// let history = elle::read(text, &BTreeMap::new())?;
/// let EventKind::Inferred(inference) = &history.0[3].kind else { panic!("not inferred") };
/// assert_eq!(inference.versions, 1);
/// assert_eq!(inference.contradictions[0].kind, ContradictionKind::GarbageRead);
/// assert_eq!(inference.contradictions[0].transactions, [3]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inference {
    /// The versions whose order follows from the values that were read.
    pub versions: usize,
    /// What no order explains.
    pub contradictions: Vec<Contradiction>,
}

/// Reads that contradict the writes of a history, or each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// What is wrong.
    pub kind: ContradictionKind,
    /// The transactions, by their numbers: the reader, then the transaction that the read concerns.
    /// Of a cycle all transactions, in its order.
    pub transactions: Vec<u64>,
    /// The key. Of a cycle the key of each edge; the last edge is from the last transaction to the
    /// first.
    pub keys: Vec<Bytes>,
}

/// The kind of a contradiction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the format of histories names each kind")]
pub enum ContradictionKind {
    /// Two reads returned lists of which neither is the beginning of the other.
    IncompatibleOrder,
    /// A list has an element twice that was appended once.
    DuplicateElement,
    /// A read returned a value that no transaction wrote.
    GarbageRead,
    /// A read returned what an aborted transaction wrote.
    AbortedRead,
    /// A read returned a value that its writer replaced in the same transaction.
    IntermediateRead,
    /// A transaction read what it wrote only later.
    FutureRead,
    /// A transaction read a value that differs from what it had read or written before.
    InternalRead,
    /// Two transactions read the same list, and both appended to it.
    LostUpdate,
    /// The orders of one or several keys form a cycle of transactions.
    WriteCycle,
    /// Transactions read each other's writes in a cycle.
    ReadCycle,
}

impl fmt::Display for Inference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (versions, contradictions) = (self.versions, self.contradictions.len());
        write!(f, "{versions} versions in an inferred order, {contradictions} contradictions")
    }
}
