//! The line of an inference: what the reader of a format without revisions has inferred.
//!
//! ```text
//! {"at":9,"inferred":{"versions":3,"contradictions":[
//!  {"kind":"garbage read","transactions":[1],"keys":["x"]}]}}     (one line)
//! ```

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::super::bytes::{decode, to_text};
use crate::history::{Contradiction, ContradictionKind, Inference};

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InferredLine<'a> {
    versions: usize,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    contradictions: Vec<ContradictionLine<'a>>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ContradictionLine<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    transactions: Vec<u64>,
    #[serde(borrow)]
    keys: Vec<Cow<'a, str>>,
}

const KINDS: [ContradictionKind; 10] = [
    ContradictionKind::IncompatibleOrder,
    ContradictionKind::DuplicateElement,
    ContradictionKind::GarbageRead,
    ContradictionKind::AbortedRead,
    ContradictionKind::IntermediateRead,
    ContradictionKind::FutureRead,
    ContradictionKind::InternalRead,
    ContradictionKind::LostUpdate,
    ContradictionKind::WriteCycle,
    ContradictionKind::ReadCycle,
];

const fn kind_name(kind: ContradictionKind) -> &'static str {
    match kind {
        ContradictionKind::IncompatibleOrder => "incompatible order",
        ContradictionKind::DuplicateElement => "duplicate element",
        ContradictionKind::GarbageRead => "garbage read",
        ContradictionKind::AbortedRead => "aborted read",
        ContradictionKind::IntermediateRead => "intermediate read",
        ContradictionKind::FutureRead => "future read",
        ContradictionKind::InternalRead => "internal read",
        ContradictionKind::LostUpdate => "lost update",
        ContradictionKind::WriteCycle => "write cycle",
        ContradictionKind::ReadCycle => "read cycle",
    }
}

impl<'a> From<&'a Inference> for InferredLine<'a> {
    fn from(inference: &'a Inference) -> Self {
        let line = |contradiction: &'a Contradiction| ContradictionLine {
            kind: kind_name(contradiction.kind).into(),
            transactions: contradiction.transactions.clone(),
            keys: contradiction.keys.iter().map(|key| to_text(key)).collect(),
        };
        let contradictions = inference.contradictions.iter().map(line).collect();
        Self { versions: inference.versions, contradictions }
    }
}

impl InferredLine<'_> {
    pub(super) fn into_inference(self) -> Result<Inference, String> {
        let contradiction = |line: ContradictionLine<'_>| {
            let kind = KINDS.into_iter().find(|kind| kind_name(*kind) == line.kind);
            let kind =
                kind.ok_or_else(|| format!("the contradiction {:?} is unknown", line.kind))?;
            let keys = line.keys.iter().map(|key| decode(key)).collect::<Result<_, _>>()?;
            Ok(Contradiction { kind, transactions: line.transactions, keys })
        };
        let contradictions: Result<_, String> =
            self.contradictions.into_iter().map(contradiction).collect();
        Ok(Inference { versions: self.versions, contradictions: contradictions? })
    }
}
