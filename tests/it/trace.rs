//! Tests of the log lines and metrics of `TraceLayer`.

use std::collections::BTreeMap;

use coord_core::layer::TraceLayer;
use coord_core::{Client, kv::Range};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Intercept};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::time::timeout;

use crate::session::telemetry::lines_of;
use crate::support::{on_virtual_time, secs};

/// Makes requests that succeed, fail, and are dropped while they are pending.
async fn make_requests() {
    let rule = |call: &Call| match call {
        Call::Range(Range { keys, .. }) if keys.start() == "dropped" => Action::DropRequest,
        Call::Range(Range { keys, .. }) if keys.start() == "hung" => Action::Hang,
        _ => Action::Pass,
    };
    let kv = Client::new(TraceLayer::new(Intercept::new(MemBackend::new(), rule)));
    kv.put("a", "1").await.unwrap();
    kv.get("a").await.unwrap();
    kv.get("dropped").await.unwrap_err();
    timeout(secs(2), kv.get("hung")).await.unwrap_err();
}

#[test]
fn requests_are_counted_by_operation_and_result() {
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || on_virtual_time(make_requests()));
    let mut counted = BTreeMap::new();
    for (key, _, _, value) in recorder.snapshotter().snapshot().into_vec() {
        let (_, key) = key.into_parts();
        let labels: Vec<_> = key.labels().map(|label| label.value().to_owned()).collect();
        match value {
            DebugValue::Counter(n) => drop(counted.insert(labels.join(" "), n)),
            DebugValue::Histogram(values) => {
                let longest = values.iter().map(|value| value.into_inner()).fold(0.0, f64::max);
                assert_eq!(longest >= 2.0, labels == ["range"], "{labels:?} took {longest} s");
            }
            DebugValue::Gauge(_) => {}
        }
    }
    let expected = [("put ok", 1), ("range dropped", 1), ("range ok", 1), ("range unavailable", 1)];
    let expected = expected.map(|(labels, n)| (labels.to_owned(), n));
    assert_eq!(counted, BTreeMap::from(expected));
}

#[test]
fn failed_requests_are_logged_with_their_outcome() {
    let lines = lines_of(make_requests());
    let failed = "DEBUG coord::request range failed: ";
    let failed: Vec<_> = lines.iter().filter(|line| line.starts_with(failed)).collect();
    assert_eq!(failed.len(), 1, "{lines:#?}");
    assert!(failed[0].contains("outcome=Unknown"), "{failed:?}");
}
