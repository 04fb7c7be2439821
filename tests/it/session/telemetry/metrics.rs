//! Metrics of sessions, supervisors and wait queues.

use std::collections::BTreeMap;

use coord_core::recipes::ShardAssignment;
use coord_core::{Election, Mutex, error::LossReason, session::SessionState};
use coord_testkit::Action;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::time::{sleep, timeout};

use super::{run_on_virtual_time, seeded_store};
use crate::session::supervisor::supervisor;
use crate::support::{intercepted, nth, secs, separate_client, session, session_on, settle};

/// The values in `recorder`, by the name and labels of each metric.
fn metric_values(recorder: &DebuggingRecorder) -> BTreeMap<String, u64> {
    let snapshot = recorder.snapshotter().snapshot().into_vec();
    let values = snapshot.into_iter().map(|(key, _, _, value)| {
        let mut name = key.key().name().to_owned();
        for label in key.key().labels() {
            name = format!("{name} {}={}", label.key(), label.value());
        }
        let value = match value {
            DebugValue::Counter(count) => count,
            // The gauges count sessions or contenders: whole numbers.
            DebugValue::Gauge(value) => format!("{value}").parse().unwrap(),
            // The number of waits, not their durations.
            DebugValue::Histogram(values) => values.len().try_into().unwrap(),
        };
        (name, value)
    });
    values.collect()
}

fn expected<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[test]
fn session_metrics_count_open_lost_and_keep_alives() {
    let recorder = DebuggingRecorder::new();
    let _runtime = metrics::with_local_recorder(&recorder, || {
        run_on_virtual_time(async {
            let store = seeded_store();
            let closed = session(&store).await;
            closed.close().await.unwrap();
            let revoked = session(&store).await;
            store.lease_revoke(revoked.lease_id()).await.unwrap();
            assert_eq!(revoked.lost().await, LossReason::Revoked, "detected by a keep-alive");
            // Two keep-alives fail, the third is in time; the fourth follows a third of 10 s later.
            let unsteady = nth("lease_keep_alive", 1, 2, Action::DropRequest);
            let open = session_on(intercepted(&store, unsteady)).await;
            sleep(secs(8)).await;
            assert_eq!(open.state(), SessionState::Alive);
            std::mem::forget(open);
        })
    });
    assert_eq!(
        metric_values(&recorder),
        expected([
            ("coord_sessions_opened_total", 3),
            ("coord_sessions_lost_total reason=closed", 1),
            ("coord_sessions_lost_total reason=revoked", 1),
            ("coord_sessions_open", 1),
            ("coord_session_keep_alives_total result=failed", 1 + 2),
            ("coord_session_keep_alives_total result=confirmed", 2),
        ])
    );
}

#[test]
fn supervisor_metrics_count_generations_and_runtime_shutdown() {
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || {
        drop(run_on_virtual_time(async {
            let store = seeded_store();
            let supervisor = supervisor(separate_client(&store)).await;
            for _ in 0..3 {
                let session = supervisor.ready().await.unwrap();
                store.lease_revoke(session.lease_id()).await.unwrap();
                session.lost().await;
            }
            supervisor.ready().await.unwrap();
        }));
    });
    assert_eq!(
        metric_values(&recorder),
        expected([
            ("coord_sessions_opened_total", 4),
            ("coord_session_generations_total", 3),
            ("coord_sessions_lost_total reason=revoked", 3),
            ("coord_sessions_lost_total reason=expired", 1),
            ("coord_sessions_open", 0),
            ("coord_session_keep_alives_total result=failed", 3),
        ])
    );
}

#[test]
fn queue_metrics_count_contenders_by_kind_and_result() {
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || {
        run_on_virtual_time(async {
            let store = seeded_store();
            let session = session(&store).await;
            let mutex = Mutex::new(&session, "m");
            let guard = mutex.lock().await.unwrap();
            assert!(timeout(secs(1), mutex.lock()).await.is_err());
            settle().await;
            guard.unlock().await.unwrap();
            let leadership = Election::new(&session, "e").campaign("a").await.unwrap();
            store.delete(leadership.key()).await.unwrap();
            leadership.resign().await.unwrap_err();
            let guard = mutex.try_lock().await.unwrap().unwrap();
            session.close().await.unwrap();
            drop(guard);
        })
    });
    let mut values = metric_values(&recorder);
    values.retain(|name, _| name.starts_with("coord_queue"));
    assert_eq!(
        values,
        expected([
            ("coord_queue_enqueued_total kind=mutex", 3),
            ("coord_queue_wait_seconds kind=mutex", 2),
            ("coord_queue_released_total kind=mutex", 2),
            ("coord_queue_lost_total kind=mutex reason=closed", 1),
            ("coord_queue_enqueued_total kind=election", 1),
            ("coord_queue_wait_seconds kind=election", 1),
            ("coord_queue_lost_total kind=election reason=key_deleted", 1),
            ("coord_queue_waiting kind=mutex", 0),
            ("coord_queue_waiting kind=election", 0),
            ("coord_queue_held kind=mutex", 0),
            ("coord_queue_held kind=election", 0),
        ])
    );
}

/// Regression: each member but the oldest counted as a waiting contender.
#[test]
fn members_of_a_shard_assignment_do_not_count_as_waiting() {
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || {
        run_on_virtual_time(async {
            let store = seeded_store();
            let session = session(&store).await;
            let shards = ShardAssignment::new(&session, "s", ["one"]).unwrap();
            let members = [shards.join("a").await.unwrap(), shards.join("b").await.unwrap()];
            settle().await;
            std::mem::forget(members);
        })
    });
    let values = metric_values(&recorder);
    let value = |name: &str| values[&format!("{name} kind=shard")];
    assert_eq!((value("coord_queue_waiting"), value("coord_queue_held")), (0, 1));
}
