//! The cycles of a report as a graph in the language of Graphviz.
//!
//! ```text
//! digraph isolation {
//!   subgraph cluster_0 {
//!     label="write skew (G2-item) refutes repeatable read";
//!     "0 T1" [label="T1"];
//!     "0 T1" -> "0 T2" [label="rw\nT1 read y @1, T2 overwrote it @3"];
//! ```
//!
//! A quoted string may contain any text in which quotes and backslashes are escaped. Each anomaly
//! is a cluster with nodes of its own, so that two cycles through one transaction stay apart.

use std::fmt::Write as _;

use super::participants::records;
use super::text::heading;
use super::words::{edge, finding, short};
use crate::history::History;
use crate::isolation::Verdict;

pub(super) fn graph(history: &History, verdict: Option<&Verdict>) -> String {
    let mut dot = "digraph isolation {\n  node [shape=box];\n".to_owned();
    let anomalies = verdict.into_iter().flat_map(|verdict| {
        verdict.anomalies().iter().map(move |anomaly| (anomaly, heading(anomaly, verdict)))
    });
    for (number, (anomaly, heading)) in anomalies.enumerate() {
        let records = records(history, anomaly);
        let _ = writeln!(dot, "  subgraph cluster_{number} {{");
        let title = match anomaly.steps.is_empty() {
            true => format!("{heading}\n{}", finding(anomaly)),
            false => heading,
        };
        let _ = writeln!(dot, "    label={};", string(&title));
        for record in &records {
            let name = record.participant.to_string();
            let label = match record.process {
                Some(process) => format!("{name}\n{}", short(process.as_bytes())),
                None => name.clone(),
            };
            let node = string(&format!("{number} {name}"));
            let _ = writeln!(dot, "    {node} [label={}];", string(&label));
        }
        for step in &anomaly.steps {
            let node = |participant| string(&format!("{number} {participant}"));
            let label = string(&format!("{}\n{}", step.kind, edge(step, &records)));
            let _ = writeln!(dot, "    {} -> {} [label={label}];", node(step.from), node(step.to));
        }
        dot.push_str("  }\n");
    }
    dot.push_str("}\n");
    dot
}

/// A quoted string. Line breaks become the escape that centres the line before it.
fn string(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}
