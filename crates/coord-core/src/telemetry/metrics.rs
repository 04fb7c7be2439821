//! Metrics: reported through the `metrics` facade, or not at all without the feature of that name.

#[cfg(not(feature = "metrics"))]
pub(super) use disabled::{add, count, observe};
#[cfg(feature = "metrics")]
pub(super) use enabled::{add, count, observe};

/// The labels of a metric, with their values.
type Labels<'a> = &'a [(&'static str, &'static str)];

#[cfg(feature = "metrics")]
mod enabled {
    use std::time::Duration;

    use metrics::{counter, gauge, histogram};

    use super::Labels;

    pub(in super::super) fn count(name: &'static str, labels: Labels<'_>) {
        counter!(name, labels).increment(1);
    }

    pub(in super::super) fn add(name: &'static str, difference: f64, labels: Labels<'_>) {
        gauge!(name, labels).increment(difference);
    }

    pub(in super::super) fn observe(name: &'static str, duration: Duration, labels: Labels<'_>) {
        histogram!(name, labels).record(duration);
    }
}

#[cfg(not(feature = "metrics"))]
mod disabled {
    use std::time::Duration;

    use super::Labels;

    pub(in super::super) const fn count(_: &'static str, _: Labels<'_>) {}

    pub(in super::super) const fn add(_: &'static str, _: f64, _: Labels<'_>) {}

    pub(in super::super) const fn observe(_: &'static str, _: Duration, _: Labels<'_>) {}
}

/// Describes each metric of this crate, with its unit, to the program's recorder.
///
/// Call it once, after the recorder was installed: a recorder that is installed later does not
/// receive the descriptions. Without descriptions, metrics are reported all the same. The guide
/// lists the metrics in `docs/guide/metrics.md`.
///
/// ```
/// // After the recorder was installed, for example by `PrometheusBuilder::new().install()`:
/// coord_core::telemetry::describe_metrics();
/// ```
#[cfg(feature = "metrics")]
pub fn describe_metrics() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

    let counters = [
        ("coord_sessions_opened_total", "Sessions opened"),
        ("coord_sessions_lost_total", "Sessions that ended, by reason"),
        (
            "coord_session_generations_total",
            "Sessions that a supervisor opened in place of one that was lost",
        ),
        ("coord_session_keep_alives_total", "Keep-alives that were confirmed, or failed"),
        ("coord_queue_enqueued_total", "Contenders that were enqueued"),
        ("coord_queue_released_total", "Contenders that were released"),
        ("coord_queue_lost_total", "Contenders that lost their key, by reason"),
        ("coord_stm_transactions_total", "Transactions that ended, by result"),
        ("coord_stm_conflicts_total", "Attempts that conflicted"),
        ("coord_cache_read_again_total", "Prefix caches that read their prefix again, by reason"),
        ("coord_requests_total", "Requests through a tracing layer, by operation and result"),
    ];
    for (name, description) in counters {
        describe_counter!(name, Unit::Count, description);
    }
    let gauges = [
        ("coord_sessions_open", "Sessions open now"),
        ("coord_queue_waiting", "Contenders waiting now"),
        ("coord_queue_held", "Contenders that hold now"),
    ];
    for (name, description) in gauges {
        describe_gauge!(name, Unit::Count, description);
    }
    let histograms = [
        ("coord_queue_wait_seconds", "From the enqueue until the contender is first or admitted"),
        (
            "coord_cache_staleness_seconds",
            "Staleness of a prefix cache when its state was confirmed to be current",
        ),
        ("coord_request_seconds", "From sending a request to its response"),
    ];
    for (name, description) in histograms {
        describe_histogram!(name, Unit::Seconds, description);
    }
}
