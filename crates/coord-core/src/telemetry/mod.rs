//! Telemetry: log lines, spans and metrics, with one function for each event.
//!
//! Log lines and spans are reported through `tracing`, with a target that begins with `coord::`.
//! Their fields are the subject (`lease`, `generation`, `name`), its state (`state`, `reason`,
//! `error`), and what happens next (`next`). Events that need attention have the level warn, or
//! error if a supervisor has failed or a prefix cache has stopped; changes of state have info,
//! repeated events and details debug or trace.
//!
//! With the feature `metrics` the same functions also report metrics, through the `metrics` facade.
//! The feature changes nothing else. The values of labels are a fixed set: no key, lease or message
//! becomes a label.

pub(crate) mod cache;
mod metrics;
pub(crate) mod queue;
pub(crate) mod request;
pub(crate) mod session;
pub(crate) mod supervisor;
pub(crate) mod transaction;

#[cfg(feature = "metrics")]
pub use metrics::describe_metrics;

use crate::error::LossReason;

// The targets of log lines and spans.
const SESSION: &str = "coord::session";
const SUPERVISOR: &str = "coord::supervisor";
const STM: &str = "coord::stm";
const LOCK: &str = "coord::lock";
const ELECTION: &str = "coord::election";
const REQUEST: &str = "coord::request";
const CACHE: &str = "coord::cache";

/// The reason as the value of a metric label.
const fn label(reason: LossReason) -> &'static str {
    match reason {
        LossReason::Expired => "expired",
        LossReason::Revoked => "revoked",
        LossReason::DeadlineUnconfirmed => "deadline_unconfirmed",
        LossReason::Closed => "closed",
        LossReason::Orphaned => "orphaned",
        LossReason::KeyDeleted => "key_deleted",
    }
}

#[cfg(all(test, feature = "metrics"))]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use bytes::Bytes;
    use metrics_util::debugging::DebuggingRecorder;

    use super::session::SessionEvents;
    use super::*;
    use crate::error::Error;
    use crate::follow::{Gap, GapCause};
    use crate::kv::{LeaseId, Revision};
    use crate::session::{Generation, SessionState};

    fn report_every_event() {
        let lease = LeaseId::new(7).expect("not zero");
        let session = SessionEvents { lease, generation: Generation(2) };
        session.opened(Duration::from_secs(60));
        session.entered(SessionState::Lost(LossReason::Revoked), Duration::ZERO);
        session.keep_alive_confirmed();
        session.keep_alive_failed(&Error::TooManyRequests);
        let mut contender = queue::enqueued("mutex", Bytes::from_static(b"m"), Revision(2));
        contender.acquired();
        contender.released();
        let mut other = queue::enqueued("mutex", Bytes::from_static(b"m"), Revision(2));
        other.lost(LossReason::KeyDeleted);
        transaction::conflicted(1, &["a key"]);
        transaction::ended("committed");
        request::ended("put", Some(&Error::TooManyRequests), Duration::from_millis(2));
        request::dropped("put", Duration::from_millis(2));
        cache::confirmed(Duration::from_secs(55));
        let (after, until, cause) = (Revision(2), Revision(5), GapCause::Compacted);
        cache::read_again(&Bytes::from_static(b"p/"), Gap { after, until, cause }, 1);
    }

    /// Three lists must agree: the counted metrics, the described metrics, and the guide's list.
    #[test]
    fn every_metric_is_described_and_listed_in_the_guide() {
        let recorder = DebuggingRecorder::new();
        ::metrics::with_local_recorder(&recorder, || {
            describe_metrics();
            report_every_event();
        });

        let page = include_str!("../../../../docs/guide/metrics.md");
        let mut counted = BTreeSet::new();
        for (key, unit, description, _) in recorder.snapshotter().snapshot().into_vec() {
            let (kind, key) = key.into_parts();
            let kind = format!("{kind:?}").to_lowercase();
            let mut labels: Vec<_> = key.labels().map(|label| label.key()).collect();
            labels.sort_unstable();
            let (labels, unit) = (labels.join(", "), unit.expect("it is described").as_str());
            let description = description.expect("it is described").to_lowercase();
            counted.insert(format!(
                "| `{}` | {kind} | {unit} | {labels} | {description} |",
                key.name()
            ));
        }
        // Targets of log lines have a path: `coord_etcd::…`.
        let is_metric = |line: &&str| line.starts_with("| `coord_") && !line.contains("::");
        let listed = page.lines().filter(is_metric).map(str::to_owned);
        assert_eq!(counted, listed.collect());
    }

    #[test]
    fn gauges_return_to_zero_when_contenders_end() {
        let recorder = DebuggingRecorder::new();
        ::metrics::with_local_recorder(&recorder, || {
            let enqueued = || queue::enqueued("mutex", Bytes::from_static(b"m"), Revision(2));
            let (mut holder, mut waiter) = (enqueued(), enqueued());
            holder.acquired();
            waiter.lost(LossReason::Expired);
            holder.released();
            holder.released();
        });
        let mut gauges = 0;
        for (key, _, _, value) in recorder.snapshotter().snapshot().into_vec() {
            if let metrics_util::debugging::DebugValue::Gauge(value) = value {
                assert!(value.abs() < f64::EPSILON, "{key:?} is {value}");
                gauges += 1;
            }
        }
        assert_eq!(gauges, 2);
    }
}
