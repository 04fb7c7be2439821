//! The server's metrics, and the cost of an operation for the server.
//!
//! etcd serves its metrics at `/metrics` of its client address, as text with one counter per line:
//!
//! ```text
//! grpc_server_handled_total{grpc_code="OK",grpc_method="Txn",…,grpc_type="unary"} 124
//! etcd_debugging_mvcc_current_revision 249
//! ```
//!
//! They are read before and after the measured phase. The difference per operation does not depend
//! on the speed of the machine.

use std::collections::BTreeMap;

use serde::Serialize;

use super::stats::round_to;

/// Counters without labels: the name in etcd, and the name in the report.
const SCALAR_COUNTERS: [(&str, &str); 10] = [
    ("etcd_debugging_mvcc_current_revision", "revisions_per_op"),
    ("etcd_debugging_mvcc_events_total", "watch_events_per_op"),
    ("etcd_disk_wal_fsync_duration_seconds_count", "wal_fsyncs_per_op"),
    ("etcd_mvcc_delete_total", "mvcc_deletes_per_op"),
    ("etcd_mvcc_put_total", "mvcc_puts_per_op"),
    ("etcd_mvcc_range_total", "mvcc_ranges_per_op"),
    ("etcd_mvcc_txn_total", "mvcc_txns_per_op"),
    ("etcd_network_client_grpc_received_bytes_total", "bytes_in_per_op"),
    ("etcd_network_client_grpc_sent_bytes_total", "bytes_out_per_op"),
    ("etcd_server_proposals_applied_total", "raft_applied_per_op"),
];

/// One count for each gRPC method.
type ByMethod = BTreeMap<String, f64>;

/// A snapshot of the counters.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// The server's version.
    pub(crate) version: Option<String>,
    /// Completed unary calls.
    unary: ByMethod,
    /// Started streams.
    streams: ByMethod,
    /// Stream messages that the server received.
    received: ByMethod,
    /// Stream messages that the server sent.
    sent: ByMethod,
    cpu_s: f64,
    rss_bytes: f64,
    /// The [`SCALAR_COUNTERS`], by their names in the report.
    scalars: BTreeMap<&'static str, f64>,
}

/// The cost of an operation for the server: differences between two snapshots, per operation.
#[derive(Debug, Serialize)]
pub(crate) struct ServerCost {
    pub(crate) unary_rpcs_per_op: f64,
    unary_rpcs: ByMethod,
    stream_msgs_in_per_op: f64,
    pub(crate) stream_msgs_in: ByMethod,
    stream_msgs_out_per_op: f64,
    pub(crate) stream_msgs_out: ByMethod,
    streams_started: ByMethod,
    /// The memory of the server in the later snapshot, not a difference.
    rss_bytes: f64,
    pub(crate) cpu_us_per_op: f64,
    #[serde(flatten)]
    pub(crate) scalars: BTreeMap<&'static str, f64>,
}

impl Metrics {
    /// Parses the text of `/metrics`. Lines of other counters are skipped.
    pub(super) fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((counter, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = counter.split_once('{').unwrap_or((counter, ""));
            metrics.add(name, labels, value);
        }
        metrics
    }

    /// Adds the value of one line.
    fn add(&mut self, name: &str, labels: &str, value: f64) {
        let is_unary = label(labels, "grpc_type") == Some("unary");
        let by_method = match name {
            "grpc_server_handled_total" if is_unary => &mut self.unary,
            "grpc_server_msg_received_total" if !is_unary => &mut self.received,
            "grpc_server_msg_sent_total" if !is_unary => &mut self.sent,
            "grpc_server_started_total" if !is_unary => &mut self.streams,
            "etcd_server_version" => {
                self.version = label(labels, "server_version").map(str::to_owned);
                return;
            }
            "process_cpu_seconds_total" => {
                self.cpu_s = value;
                return;
            }
            "process_resident_memory_bytes" => {
                self.rss_bytes = value;
                return;
            }
            _ => {
                let known = SCALAR_COUNTERS.iter().find(|(known, _)| *known == name);
                self.scalars.extend(known.map(|(_, reported)| (*reported, value)));
                return;
            }
        };
        let method = label(labels, "grpc_method").unwrap_or_default();
        *by_method.entry(method.to_owned()).or_default() += value;
    }

    /// The cost per operation since the snapshot `before`.
    pub(crate) fn since(&self, before: &Self, operations: u64) -> ServerCost {
        let n = operations as f64;
        let (unary_rpcs_per_op, unary_rpcs) = per_operation(&before.unary, &self.unary, n);
        let (stream_msgs_in_per_op, stream_msgs_in) =
            per_operation(&before.received, &self.received, n);
        let (stream_msgs_out_per_op, stream_msgs_out) = per_operation(&before.sent, &self.sent, n);
        let (_, streams_started) = per_operation(&before.streams, &self.streams, n);
        let scalars = SCALAR_COUNTERS.iter().map(|(_, name)| {
            let at = |metrics: &Self| metrics.scalars.get(name).copied().unwrap_or(0.0);
            (*name, round_to((at(self) - at(before)) / n, 4))
        });
        ServerCost {
            unary_rpcs_per_op,
            unary_rpcs,
            stream_msgs_in_per_op,
            stream_msgs_in,
            stream_msgs_out_per_op,
            stream_msgs_out,
            streams_started,
            rss_bytes: self.rss_bytes,
            cpu_us_per_op: round_to((self.cpu_s - before.cpu_s) * 1e6 / n, 1),
            scalars: scalars.collect(),
        }
    }
}

/// The difference of two counts divided by `n`: the sum over all methods, and by method.
fn per_operation(before: &ByMethod, after: &ByMethod, n: f64) -> (f64, ByMethod) {
    let mut sum = 0.0;
    let mut each = ByMethod::new();
    for (method, value) in after {
        let difference = value - before.get(method).copied().unwrap_or(0.0);
        if difference > 0.0 {
            sum += difference;
            each.insert(method.clone(), round_to(difference / n, 4));
        }
    }
    (round_to(sum / n, 4), each)
}

/// The value of one of the labels `a="b",c="d"}`.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
    let (_, quoted) = pairs.find(|(known, _)| *known == name)?;
    Some(quoted.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metrics of etcd 3.5.30 after 124 lock cycles of Go's mutex, with some of the comment lines.
    const CAPTURED_METRICS: &str = include_str!("../../tests/data/metrics.txt");

    #[test]
    fn counters_are_parsed_from_etcd_metrics() {
        let metrics = Metrics::parse(CAPTURED_METRICS);
        assert_eq!(metrics.version.as_deref(), Some("3.5.30"));
        assert_eq!((metrics.unary["Txn"], metrics.unary["Range"]), (124.0, 365.0));
        assert_eq!(metrics.unary.get("Watch"), None, "a stream is no unary call");
        assert_eq!((metrics.received["Watch"], metrics.sent["Watch"]), (238.0, 372.0));
        let messages = [&metrics.received, &metrics.sent, &metrics.streams];
        assert!(messages.iter().all(|by_method| !by_method.contains_key("Txn")), "Txn is unary");
        assert_eq!((metrics.streams["Watch"], metrics.streams["LeaseKeepAlive"]), (2.0, 1.0));
        assert_eq!((metrics.cpu_s, metrics.rss_bytes), (0.34, 37_081_088.0));
        let scalars = &metrics.scalars;
        assert_eq!(scalars.len(), SCALAR_COUNTERS.len());
        assert_eq!((scalars["revisions_per_op"], scalars["wal_fsyncs_per_op"]), (249.0, 2.0));
    }

    #[test]
    fn calls_of_a_method_are_summed_over_status_codes() {
        let metrics = Metrics::parse(
            "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_type=\"unary\"} 7\n\
             grpc_server_handled_total{grpc_code=\"Unknown\",grpc_method=\"Put\",grpc_type=\"unary\"} 2\n",
        );
        assert_eq!(metrics.unary["Put"], 9.0);
    }

    #[test]
    fn cost_is_the_difference_per_operation() {
        let (before, mut after) =
            (Metrics::parse(CAPTURED_METRICS), Metrics::parse(CAPTURED_METRICS));
        *after.unary.get_mut("Txn").expect("it is among them") += 20.0;
        *after.unary.get_mut("Range").expect("it is among them") += 5.0;
        *after.sent.get_mut("Watch").expect("it is among them") += 10.0;
        *after.scalars.get_mut("revisions_per_op").expect("it is among them") += 40.0;
        after.cpu_s += 0.001;

        let cost = after.since(&before, 20);
        assert_eq!(cost.unary_rpcs_per_op, 1.25);
        assert_eq!((cost.unary_rpcs["Txn"], cost.unary_rpcs["Range"]), (1.0, 0.25));
        assert_eq!(cost.unary_rpcs.len(), 2, "methods that were not called are left out");
        assert_eq!((cost.stream_msgs_out_per_op, cost.stream_msgs_in_per_op), (0.5, 0.0));
        assert_eq!(cost.scalars["revisions_per_op"], 2.0);
        assert_eq!(cost.cpu_us_per_op, 50.0);
    }
}
