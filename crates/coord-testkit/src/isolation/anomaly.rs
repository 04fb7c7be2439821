//! Anomalies: what a history shows that an isolation level forbids.

use std::fmt;

use bytes::Bytes;
use coord_core::kv::Revision;

use super::edge_kind::EdgeKind;
use super::level::Level;

/// The kind of an anomaly, the worst first. A name that starts with `G`, other than `GarbageRead`,
/// is from Elle or from Adya's thesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AnomalyKind {
    /// A write of a committed transaction is not in the store.
    LostWrite,
    /// A transaction was applied twice, or two transactions claim one revision.
    DoubledWrite,
    /// A list has an element twice that was appended once. Elle's `duplicate-elements`.
    DuplicateElements,
    /// A cycle of `ww` edges: writes of transactions are interleaved.
    G0,
    /// A read returned a version or a value that the store never had.
    GarbageRead,
    /// A committed transaction read what an aborted one wrote.
    G1a,
    /// Two reads of a list returned elements in orders of which neither continues the other: one of
    /// them has read what was aborted. Elle's `incompatible-order`.
    IncompatibleOrder,
    /// A committed transaction read what its writer wrote again later.
    G1b,
    /// A cycle of `ww` and `wr` edges: circular information flow.
    G1c,
    /// The store has the writes of an attempt that did not commit.
    AbortedWrite,
    /// The writes of a transaction are in several revisions.
    SplitCommit,
    /// A transaction read a value that differs from what it had read or written before.
    Internal,
    /// A cycle with one `rw` edge of a single key.
    GSingleItem,
    /// A cycle with one `rw` edge, and with an edge of a range.
    GSingle,
    /// A cycle with several `rw` edges of single keys, no two of them adjacent.
    GNonadjacentItem,
    /// A cycle with several `rw` edges, no two of them adjacent, and with an edge of a range.
    GNonadjacent,
    /// A cycle with adjacent `rw` edges, all of single keys.
    G2Item,
    /// A cycle with adjacent `rw` edges, and with an edge of a range.
    G2,
    /// An attempt that did not commit has seen values that never existed together.
    InconsistentAttempt,
}

impl AnomalyKind {
    /// The weakest levels that forbid the anomaly, if it is no cycle of the dependency graph.
    ///
    /// Source: `implied-anomalies` and `direct-proscribed-anomalies` in `consistency_model.clj` of
    /// Elle, where an incompatible order implies an aborted read, and a future read, which is
    /// `G1c`, a cycle of one transaction.
    pub(super) const fn refutes(self) -> &'static [Level] {
        match self {
            Self::LostWrite | Self::DoubledWrite | Self::DuplicateElements => {
                &[Level::ReadUncommitted]
            }
            Self::GarbageRead | Self::G1a | Self::IncompatibleOrder | Self::G1b => {
                &[Level::ReadCommitted]
            }
            Self::Internal => &[Level::SnapshotIsolation],
            Self::AbortedWrite | Self::SplitCommit => &[Level::CoordReadCommitted],
            Self::InconsistentAttempt => &[Level::CoordSerializable],
            _ => &[],
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::LostWrite => "lost write",
            Self::DoubledWrite => "doubled write",
            Self::DuplicateElements => "duplicate-elements",
            Self::G0 => "G0",
            Self::GarbageRead => "garbage read",
            Self::G1a => "G1a",
            Self::IncompatibleOrder => "incompatible-order",
            Self::G1b => "G1b",
            Self::G1c => "G1c",
            Self::AbortedWrite => "aborted write",
            Self::SplitCommit => "split commit",
            Self::Internal => "internal",
            Self::GSingleItem => "G-single-item",
            Self::GSingle => "G-single",
            Self::GNonadjacentItem => "G-nonadjacent-item",
            Self::GNonadjacent => "G-nonadjacent",
            Self::G2Item => "G2-item",
            Self::G2 => "G2",
            Self::InconsistentAttempt => "inconsistent attempt",
        }
    }
}

/// The order in time that a cycle needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Order {
    /// None: the data alone are a cycle.
    None,
    /// The order of a process. Elle's suffix is `-process`.
    Process,
    /// Real time. Elle's suffix is `-realtime`.
    RealTime,
}

/// A participant of an anomaly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Participant {
    /// A transaction, by its number.
    Transaction(u64),
    /// A change of the store that no recorded transaction made, by its revision.
    Change(Revision),
}

impl fmt::Display for Participant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transaction(number) => write!(f, "T{number}"),
            Self::Change(revision) => write!(f, "change {revision}"),
        }
    }
}

/// One edge of a cycle: `from` comes before `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// The participant that comes first.
    pub from: Participant,
    /// The participant that comes second.
    pub to: Participant,
    /// Why `from` comes before `to`.
    pub kind: EdgeKind,
    /// The key, unless the edge is an order in time.
    pub key: Option<Bytes>,
    /// The version of the key before: what `from` wrote (`ww`) or read (`rw`), or what `to` read
    /// (`wr`). A deletion is a version too. `None` if `from` found the key absent (`rw`), if the
    /// edge is an order in time, or if the order of the key's versions is not known.
    pub before: Option<Revision>,
    /// The version of the key after, which `to` wrote (`ww`, `rw`).
    pub after: Option<Revision>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}  {}", self.from, self.to, self.kind)?;
        let Some(key) = &self.key else { return f.write_str(": ended before it began") };
        write!(f, " {}: ", shortened(key))?;
        let before = self.before.map_or_else(|| "absent".to_owned(), |at| format!("@{at}"));
        match (self.kind, self.after) {
            (EdgeKind::WriteWrite, None) => f.write_str("wrote it, then overwritten"),
            (EdgeKind::WriteRead, None) if self.before.is_none() => {
                f.write_str("wrote it, then read")
            }
            (EdgeKind::WriteWrite, Some(after)) => write!(f, "wrote {before}, then @{after}"),
            (_, Some(after)) => write!(f, "read {before}, then written @{after}"),
            (_, None) => write!(f, "wrote {before}, then read"),
        }
    }
}

/// The first bytes of a key, escaped.
fn shortened(key: &Bytes) -> String {
    let text = key.escape_ascii().to_string();
    if text.len() <= 24 { text } else { format!("{}..", &text[..22]) }
}

/// An anomaly: what was found, and an example of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Anomaly {
    /// Its kind.
    pub kind: AnomalyKind,
    /// The order in time that it needs.
    pub order: Order,
    /// Its name in the literature, such as `write skew`, if it is a well-known case of its kind.
    pub name: Option<&'static str>,
    /// The transactions and changes concerned, the cycle in its order.
    pub participants: Vec<Participant>,
    /// The edges of the cycle; empty if the anomaly is no cycle.
    pub steps: Vec<Step>,
    /// The key, if the anomaly is no cycle.
    pub key: Option<Bytes>,
    /// The revision, if the anomaly is no cycle.
    pub revision: Option<Revision>,
    /// How many of this kind were found; 1 for cycles, of which a short one is reported.
    pub count: usize,
}

impl Anomaly {
    /// The weakest levels that the anomaly refutes by itself.
    ///
    /// Cycles of the dependency graph refute levels by the sets of edges in which they are, and not
    /// by their kind: a cycle may have an edge of one of several gaps in which a key was absent,
    /// and then another gap has another cycle. Cycles that the reader of a file has inferred have
    /// no revisions.
    pub(crate) fn refutes(&self) -> &'static [Level] {
        let is_inferred =
            self.steps.iter().all(|step| step.before.is_none() && step.after.is_none());
        match (self.kind, self.order) {
            (AnomalyKind::G0, Order::None) if is_inferred => &[Level::ReadUncommitted],
            (AnomalyKind::G1c, Order::None) if is_inferred => &[Level::ReadCommitted],
            (AnomalyKind::GSingleItem, Order::None) if self.steps.is_empty() => {
                &[Level::RepeatableRead, Level::SnapshotIsolation]
            }
            _ => self.kind.refutes(),
        }
    }

    /// Elle's name of the kind, such as `G-single-item-realtime`.
    #[must_use]
    pub fn elle_name(&self) -> String {
        let suffix = match self.order {
            Order::None => "",
            Order::Process => "-process",
            Order::RealTime => "-realtime",
        };
        format!("{}{suffix}", self.kind.name())
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => writeln!(f, "{name} ({})", self.elle_name())?,
            None => writeln!(f, "{}", self.elle_name())?,
        }
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        if !self.steps.is_empty() {
            return Ok(());
        }
        write!(f, "  {}", self.participants.first().map_or_else(String::new, ToString::to_string))?;
        if let Some(key) = &self.key {
            write!(f, ": {}", shortened(key))?;
        }
        if let Some(revision) = self.revision {
            write!(f, "@{revision}")?;
        }
        if let Some(other) = self.participants.get(1) {
            match self.kind {
                AnomalyKind::IncompatibleOrder => write!(f, ", in another order than {other}")?,
                AnomalyKind::GSingleItem => write!(f, ", appended to the list that {other} read")?,
                _ => write!(f, ", written by {other}")?,
            }
        }
        match self.count {
            0 | 1 => writeln!(f),
            count => writeln!(f, "; {} more", count - 1),
        }
    }
}
