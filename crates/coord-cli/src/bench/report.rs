//! The report of a run: a table, or JSON with the field names of the Go program that measures
//! etcd's `concurrency` package.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::metrics::ServerCost;
use super::stats::{Fairness, Summary};
use super::workload::ReportFields;

/// The result of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(rename = "impl")]
    pub(crate) impl_name: &'static str,
    pub(crate) impl_version: &'static str,
    pub(crate) workload: String,
    pub(crate) workers: usize,
    pub(crate) conns: usize,
    pub(crate) run: u64,
    pub(crate) tag: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_version: Option<String>,
    pub(crate) ops: u64,
    pub(crate) elapsed_s: f64,
    pub(crate) ops_per_s: f64,
    pub(crate) fairness: Fairness,
    pub(crate) latency_us: BTreeMap<&'static str, Summary>,
    /// `None` for a store in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<ServerCost>,
    pub(crate) client_cpu_us_per_op: f64,
    /// The fields that the workload adds.
    #[serde(flatten)]
    pub(crate) fields: ReportFields,
}

impl Report {
    /// Formats the report as a table of at most 80 columns.
    pub(crate) fn table(&self) -> String {
        let mut table = String::new();
        self.write_table(&mut table).expect("a write to a string cannot fail");
        table
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let store = match &self.server_version {
            Some(version) => format!("etcd {version}"),
            None => "memory".to_owned(),
        };
        let Self { workload, workers, conns, ops, elapsed_s, ops_per_s, .. } = self;
        writeln!(out, "{workload} on {store}, workers {workers}, connections {conns}")?;
        writeln!(out, "{ops} operations in {elapsed_s:.2} s: {ops_per_s} per second")?;
        if *workers > 1 {
            let Fairness { min, max, jain } = &self.fairness;
            writeln!(out, "fairness {jain} (Jain), from {min} to {max} operations per worker")?;
        }
        let columns = ["µs", "n", "mean", "p50", "p90", "p99", "p99.9", "max"];
        writeln!(out, "\n{}", row(columns[0], &columns[1..]))?;
        for (name, summary) in &self.latency_us {
            let Summary { n, mean, p50, p90, p99, p999, max } = summary;
            let times = [mean, p50, p90, p99, p999, max].map(|time| format!("{time:.1}"));
            let cells: Vec<String> = std::iter::once(n.to_string()).chain(times).collect();
            writeln!(out, "{}", row(name, &cells))?;
        }
        write!(out, "\nper operation: client {} µs of processor time", self.client_cpu_us_per_op)?;
        if let Some(server) = &self.server {
            let watch = |messages: &BTreeMap<String, f64>| {
                messages.get("Watch").copied().unwrap_or_default()
            };
            writeln!(out, ", server {} µs", server.cpu_us_per_op)?;
            write!(
                out,
                "{} requests, watch messages {} in and {} out, {} revisions",
                server.unary_rpcs_per_op,
                watch(&server.stream_msgs_in),
                watch(&server.stream_msgs_out),
                server.scalars["revisions_per_op"],
            )?;
        }
        for (name, value) in &self.fields {
            write!(out, "\n{name} {value}")?;
        }
        Ok(())
    }
}

/// One row of the latency table.
fn row(head: &str, cells: &[impl AsRef<str>]) -> String {
    let cells = cells.iter().map(|cell| format!("{:>10}", cell.as_ref()));
    format!("{head:<10}{}", cells.collect::<String>())
}
