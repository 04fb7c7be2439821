//! What the log says, and what the metrics count: one function for each thing that happens.
//!
//! A line goes through `tracing`, to a target below `coord`, and says in fields whom it is about
//! (`lease`, `epoch`), how things stand (`state`, `reason`, `error`), and what comes next if
//! anything does (`next`). What needs somebody's attention warns, what changes is information,
//! and what merely repeats is for debugging.
//!
//! With the feature `metrics` the same functions count, through the facade of that name; without
//! it they do not. Nothing else depends on the feature. Labels have few values, which are known
//! here: no key, lease or message ever becomes one.

use std::time::Duration;

use crate::error::Error;
use crate::kv::LeaseId;
use crate::loss::{LossReason, PrimitiveError};
use crate::session::{Epoch, SessionState};

const SESSION: &str = "coord::session";
const SUPERVISOR: &str = "coord::supervisor";
const STM: &str = "coord::stm";
const LOCK: &str = "coord::lock";
const ELECTION: &str = "coord::election";
const REQUEST: &str = "coord::request";

/// What happens to one session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionEvents {
    pub(crate) lease: LeaseId,
    pub(crate) epoch: Epoch,
}

impl SessionEvents {
    pub(crate) fn opened(self, ttl: Duration) {
        let Self { lease, epoch } = self;
        tracing::info!(target: SESSION, %lease, %epoch, ?ttl, state = "alive", "session opened");
        meter::count("coord_sessions_opened_total", &[]);
        meter::add("coord_sessions_open", 1.0);
        if epoch > Epoch::FIRST {
            meter::count("coord_session_epochs_total", &[]);
        }
    }

    /// The state is another one; `left` is what remains until the session ends itself.
    pub(crate) fn entered(self, state: SessionState, left: Duration) {
        let Self { lease, epoch } = self;
        match state {
            SessionState::Alive => {
                tracing::info!(target: SESSION, %lease, %epoch, %state, "session confirmed again");
            }
            SessionState::Suspect => {
                tracing::warn!(target: SESSION, %lease, %epoch, %state,
                    next = format_args!("lost in {left:.1?} unless a keep-alive is confirmed"),
                    "session in doubt");
            }
            SessionState::Lost(reason) => {
                if reason.is_deliberate() {
                    tracing::info!(target: SESSION, %lease, %epoch, state = "lost", %reason,
                        "session ended");
                } else {
                    let next = "what was held is lost; open another session";
                    tracing::warn!(target: SESSION, %lease, %epoch, state = "lost", %reason, next,
                        "session lost");
                }
                Self::count_lost(reason);
            }
        }
    }

    /// The runtime was shut down while the session was open.
    pub(crate) fn abandoned(self, reason: LossReason) {
        let Self { lease, epoch } = self;
        let next = "the lease, and the keys on it, expire by themselves";
        tracing::warn!(target: SESSION, %lease, %epoch, state = "lost", next,
            "session left open when its runtime was shut down");
        Self::count_lost(reason);
    }

    fn count_lost(reason: LossReason) {
        meter::add("coord_sessions_open", -1.0);
        meter::count("coord_sessions_lost_total", &[("reason", label(reason))]);
    }

    pub(crate) fn keep_alive_confirmed(self) {
        let Self { lease, epoch } = self;
        tracing::trace!(target: SESSION, %lease, %epoch, "keep-alive confirmed");
        meter::count("coord_session_keep_alives_total", &[("result", "confirmed")]);
    }

    pub(crate) fn keep_alive_failed(self, error: &Error) {
        let Self { lease, epoch } = self;
        tracing::debug!(target: SESSION, %lease, %epoch, %error, "keep-alive failed");
        meter::count("coord_session_keep_alives_total", &[("result", "failed")]);
    }

    pub(crate) fn clean_up_failed(self, error: &Error, pause: Duration) {
        let Self { lease, epoch } = self;
        tracing::debug!(target: SESSION, %lease, %epoch, %error,
            next = format_args!("trying again in {pause:.0?}"), "cleaning up failed");
    }

    /// How closing ended, for those who do not wait for it too.
    pub(crate) fn closed(self, result: &Result<(), Error>) {
        let Self { lease, epoch } = self;
        match result {
            Ok(()) => tracing::debug!(target: SESSION, %lease, %epoch, "lease revoked"),
            Err(error) => {
                let next = "the lease, and the keys on it, expire by themselves";
                tracing::warn!(target: SESSION, %lease, %epoch, %error, next, "lease not revoked");
            }
        }
    }

    /// How handing the lease over ended.
    pub(crate) fn orphaned(self, result: &Result<(), Error>) {
        let Self { lease, epoch } = self;
        match result {
            Ok(()) => {
                let next = "it waits for an heir, and expires without";
                tracing::info!(target: SESSION, %lease, %epoch, next, "lease handed over");
            }
            Err(error) => {
                let next = "an heir may have less than the whole time to live, or none";
                tracing::warn!(target: SESSION, %lease, %epoch, %error, next, "lease not refreshed");
            }
        }
    }
}

/// A session could not be opened yet.
pub(crate) fn open_failed(epoch: Epoch, error: &Error, pause: Duration) {
    tracing::debug!(target: SESSION, %epoch, %error,
        next = format_args!("trying again in {pause:.0?}"), "opening a session failed");
}

/// Opening was given up: `error` is returned to whoever asked.
pub(crate) fn open_given_up(epoch: Epoch, error: &Error) {
    tracing::debug!(target: SESSION, %epoch, %error, "opening a session was given up");
}

/// What happens to a supervisor; `epoch` is its newest.
pub(crate) mod supervisor {
    use super::{Duration, Epoch, Error, LossReason, PrimitiveError, SUPERVISOR};

    pub(crate) fn down(epoch: Epoch, reason: LossReason) {
        let next = "opening another session";
        tracing::warn!(target: SUPERVISOR, %epoch, state = "down", %reason, next, "epoch lost");
    }

    /// Another session could not be opened yet. The first failure warns, the others repeat it.
    pub(crate) fn still_down(epoch: Epoch, attempt: u64, error: &Error, pause: Duration) {
        if attempt == 1 {
            tracing::warn!(target: SUPERVISOR, %epoch, state = "down", %error,
                next = format_args!("trying again in {pause:.0?}"),
                "opening another session failed");
        } else {
            tracing::debug!(target: SUPERVISOR, %epoch, state = "down", attempt, %error,
                next = format_args!("trying again in {pause:.0?}"),
                "opening another session failed again");
        }
    }

    pub(crate) fn recovered(epoch: Epoch) {
        let next = "what was held on the one before can be acquired anew";
        tracing::info!(target: SUPERVISOR, %epoch, state = "up", next, "epoch begun");
    }

    pub(crate) fn ended(epoch: Epoch, reason: LossReason) {
        tracing::info!(target: SUPERVISOR, %epoch, state = "ended", %reason, "supervisor ended");
    }

    pub(crate) fn failed(epoch: Epoch, error: &Error) {
        let next = "mend the cause and supervise anew";
        tracing::error!(target: SUPERVISOR, %epoch, state = "failed", %error, next,
            "supervisor failed");
    }

    /// Work that lost what it held is called again. `key` is what it held, if that was lost before
    /// the session was.
    pub(crate) fn called_again(epoch: Epoch, reason: LossReason, key: Option<&[u8]>) {
        let next = "calling it again";
        let key = key.map(|key| tracing::field::display(key.escape_ascii()));
        tracing::info!(target: SUPERVISOR, %epoch, %reason, key, next, "work lost what it held");
    }

    /// A lock or a leadership could not be acquired yet.
    pub(crate) fn acquire_failed(epoch: Epoch, error: &PrimitiveError, pause: Duration) {
        tracing::warn!(target: SUPERVISOR, %epoch, %error,
            next = format_args!("trying again in {pause:.0?}"), "acquiring failed");
    }
}

/// What happens in a waiting line; `kind` is the primitive on it: "mutex", "election"; "line" for
/// those of others.
pub(crate) mod line {
    use bytes::Bytes;

    use super::{Duration, ELECTION, LOCK, LossReason, label, meter};
    use crate::kv::Revision;

    /// A contender's key is in the line.
    pub(crate) fn joined(kind: &'static str) {
        meter::count("coord_line_joined_total", &[("kind", kind)]);
    }

    /// Which contender an event is about.
    pub(crate) struct About<'a> {
        pub(crate) kind: &'static str,
        pub(crate) name: &'a Bytes,
        /// The revision that its fencing token stands for.
        pub(crate) token: Revision,
    }

    /// A contender is first; it joined `waited` ago. Locks may change hands thousands of times a
    /// second, so their lines are for debugging.
    pub(crate) fn turn(About { kind, name, token }: About<'_>, waited: Duration) {
        let name = name.escape_ascii();
        if kind == "election" {
            tracing::info!(target: ELECTION, %name, %token, ?waited, "leading");
        } else {
            tracing::debug!(target: LOCK, %name, %token, ?waited, "locked");
        }
        meter::observe("coord_line_wait_seconds", waited, &[("kind", kind)]);
    }

    /// A contender gave its place up; `held` if it had been first.
    pub(crate) fn left(About { kind, name, token }: About<'_>, held: bool) {
        let name = name.escape_ascii();
        match (held, kind) {
            (true, "election") => {
                tracing::info!(target: ELECTION, %name, %token, reason = "resigned",
                    "no longer leading");
            }
            (true, _) => tracing::debug!(target: LOCK, %name, %token, "unlocked"),
            (false, _) => {}
        }
        meter::count("coord_line_left_total", &[("kind", kind)]);
    }

    /// A contender's place was lost, `held` or while it waited: call it once for each.
    pub(crate) fn lost(About { kind, name, token }: About<'_>, held: bool, reason: LossReason) {
        let name = name.escape_ascii();
        match (held, kind) {
            (true, "election") => {
                tracing::warn!(target: ELECTION, %name, %token, %reason, "no longer leading");
            }
            (true, _) => tracing::warn!(target: LOCK, %name, %token, %reason, "lost"),
            (false, _) => {}
        }
        meter::count("coord_line_lost_total", &[("kind", kind), ("reason", label(reason))]);
    }

    /// A contender waits for a key that no client of this package, or of Go's, has put there.
    pub(crate) fn waits_for_foreign_key(name: &Bytes, key: &Bytes) {
        let (name, key) = (name.escape_ascii(), key.escape_ascii());
        tracing::warn!(target: LOCK, %name, %key,
            next = "waiting until it is deleted: keep data out of the keys below the name",
            "waiting for a key that belongs to no lock or election");
    }
}

/// What happens to requests that pass a `TraceLayer`.
pub(crate) mod request {
    use super::{Duration, Error, REQUEST, meter};

    pub(crate) fn ended(operation: &'static str, error: Option<&Error>, elapsed: Duration) {
        match error {
            None => tracing::trace!(target: REQUEST, ?elapsed, "{operation}"),
            Some(error) => {
                let outcome = error.outcome();
                tracing::debug!(target: REQUEST, ?elapsed, %error, ?outcome, "{operation} failed");
            }
        }
        let result = error.map_or("ok", |error| error.kind().label());
        count(operation, result, elapsed);
    }

    pub(crate) fn dropped(operation: &'static str, elapsed: Duration) {
        tracing::trace!(target: REQUEST, ?elapsed, "{operation} dropped");
        count(operation, "dropped", elapsed);
    }

    fn count(operation: &'static str, result: &'static str, elapsed: Duration) {
        let labels = [("operation", operation), ("result", result)];
        meter::count("coord_requests_total", &labels);
        meter::observe("coord_request_seconds", elapsed, &labels[..1]);
    }
}

/// What happens to transactions.
pub(crate) mod transaction {
    use std::fmt::Display;

    use super::{STM, meter};

    /// A commit, that of this attempt, found something changed.
    pub(crate) fn conflicted(attempt: u32, conflicts: &[impl Display]) {
        let first = conflicts.first().map(tracing::field::display);
        let count = conflicts.len();
        tracing::debug!(target: STM, attempt, count, first, next = "trying again if it may",
            "transaction conflicted");
        meter::count("coord_stm_conflicts_total", &[]);
    }

    pub(crate) fn ended(result: &'static str) {
        meter::count("coord_stm_transactions_total", &[("result", result)]);
    }
}

/// The reason as the value of a label.
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

#[cfg(feature = "metrics")]
pub use meter::describe_metrics;

/// The way to the facade.
#[cfg(feature = "metrics")]
mod meter {
    use std::time::Duration;

    use metrics::{
        Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
    };

    type Labels<'a> = &'a [(&'static str, &'static str)];

    pub(super) fn count(name: &'static str, labels: Labels<'_>) {
        counter!(name, labels).increment(1);
    }

    pub(super) fn add(name: &'static str, difference: f64) {
        gauge!(name).increment(difference);
    }

    pub(super) fn observe(name: &'static str, duration: Duration, labels: Labels<'_>) {
        histogram!(name, labels).record(duration);
    }

    /// Tells the program's recorder of metrics what each of ours means, and in which unit.
    ///
    /// Call it once, after the recorder was installed, for one that comes later does not hear it.
    /// Metrics count all the same. The guide lists them in `docs/guide/metrics.md`.
    ///
    /// ```
    /// // After `PrometheusBuilder::new().install()`, or whatever the program reports to:
    /// coord_core::describe_metrics();
    /// ```
    pub fn describe_metrics() {
        let count = Unit::Count;
        describe_counter!("coord_sessions_opened_total", count, "Sessions opened");
        describe_counter!("coord_sessions_lost_total", count, "Sessions that ended, by reason");
        describe_gauge!("coord_sessions_open", count, "Sessions open now");
        describe_counter!(
            "coord_session_epochs_total",
            count,
            "Sessions that a supervisor opened in the place of one that was lost"
        );
        describe_counter!(
            "coord_session_keep_alives_total",
            count,
            "Keep-alives that were confirmed, or failed"
        );
        describe_counter!("coord_line_joined_total", count, "Contenders that joined a line");
        describe_histogram!(
            "coord_line_wait_seconds",
            Unit::Seconds,
            "From joining a line to being first in it"
        );
        describe_counter!("coord_line_left_total", count, "Contenders that left their line");
        describe_counter!(
            "coord_line_lost_total",
            count,
            "Contenders that lost their place, by reason"
        );
        describe_counter!(
            "coord_stm_transactions_total",
            count,
            "Transactions that ended, by result"
        );
        describe_counter!(
            "coord_stm_conflicts_total",
            count,
            "Commits that found something changed"
        );
        describe_counter!(
            "coord_requests_total",
            count,
            "Requests through a tracing layer, by operation and result"
        );
        describe_histogram!(
            "coord_request_seconds",
            Unit::Seconds,
            "From sending a request to its response"
        );
    }
}

/// The way to nowhere.
#[cfg(not(feature = "metrics"))]
mod meter {
    use std::time::Duration;

    type Labels<'a> = &'a [(&'static str, &'static str)];

    pub(super) const fn count(_: &'static str, _: Labels<'_>) {}

    pub(super) const fn add(_: &'static str, _: f64) {}

    pub(super) const fn observe(_: &'static str, _: Duration, _: Labels<'_>) {}
}

#[cfg(all(test, feature = "metrics"))]
mod tests {
    use super::*;
    use crate::kv::{LeaseId, Revision};
    use bytes::Bytes;
    use metrics_util::debugging::DebuggingRecorder;
    use std::collections::BTreeSet;

    /// Three lists have to agree: what is counted, what is described, and what the guide lists.
    #[test]
    fn every_metric_is_described_and_listed_in_the_guide() {
        let recorder = DebuggingRecorder::new();
        metrics::with_local_recorder(&recorder, || {
            describe_metrics();
            let lease = LeaseId::new(7).expect("not zero");
            let session = SessionEvents { lease, epoch: Epoch(2) };
            session.opened(Duration::from_secs(60));
            session.entered(SessionState::Lost(LossReason::Revoked), Duration::ZERO);
            session.keep_alive_confirmed();
            session.keep_alive_failed(&Error::TooManyRequests);
            line::joined("mutex");
            let (name, token) = (Bytes::from_static(b"m"), Revision(2));
            let about = || line::About { kind: "mutex", name: &name, token };
            line::turn(about(), Duration::from_millis(1500));
            line::left(about(), true);
            line::lost(about(), true, LossReason::KeyDeleted);
            transaction::conflicted(1, &["a key"]);
            transaction::ended("committed");
            request::ended("put", Some(&Error::TooManyRequests), Duration::from_millis(2));
            request::dropped("put", Duration::from_millis(2));
        });

        let page = include_str!("../../../docs/guide/metrics.md");
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
        let listed = page.lines().filter(|line| line.starts_with("| `coord_")).map(str::to_owned);
        assert_eq!(counted, listed.collect());
    }
}
