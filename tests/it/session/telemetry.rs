//! What the log says and what the metrics count, when sessions come and go.

use crate::support::another;
use coord_mem::MemBackend;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Once;

use coord_core::{
    Client, Election, Error, Mutex, Session,
    error::{LossReason, PrimitiveError},
    session::{Generation, SessionState},
};
use coord_testkit::Action;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::supervisor::supervisor;
use crate::support::{behind, nth, only, secs, session, session_on, settle};

thread_local! {
    /// The lines that this thread has logged, if it wants to know.
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Keeps the lines of `coord`, as text, in the thread that logs them.
///
/// There is one for all threads: a subscriber of one thread alone may miss a line for ever if
/// another thread, which has none, comes by that line first.
struct Capture;

impl<S: Subscriber> Layer<S> for Capture {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let (level, target) = (event.metadata().level(), event.metadata().target());
        if !target.starts_with("coord::") || *level == Level::TRACE {
            return;
        }
        LINES.with_borrow_mut(|lines| {
            if let Some(lines) = lines {
                let mut line = Line(format!("{level} {target}"));
                event.record(&mut line);
                lines.push(line.0);
            }
        });
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = match field.name() {
            "message" => format!(" {value:?}:"),
            name => format!(" {name}={value:?}"),
        };
        self.0.push_str(&text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// The lines that are logged while `future` runs, on virtual time.
pub(crate) fn lines_of(future: impl Future<Output = ()>) -> Vec<String> {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let capture = tracing_subscriber::registry().with(Capture);
        tracing::subscriber::set_global_default(capture).expect("nobody else installs one");
        // What other threads have come by in the meantime is looked at again.
        tracing::callsite::rebuild_interest_cache();
    });
    LINES.set(Some(Vec::new()));
    drop(on_virtual_time(future));
    LINES.take().expect("set above")
}

/// Runs `future` in this thread; what it spawned goes on as long as the runtime is there.
fn on_virtual_time(future: impl Future<Output = ()>) -> Runtime {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime can be built");
    runtime.block_on(future);
    runtime
}

/// A store that chooses the same ids each time.
fn seeded() -> Client {
    Client::new(MemBackend::builder().seed(0).build())
}

const ID: &str = "lease=1918cc9458f6ddb8 generation=1";
const LOST: &str = "error=the store is unavailable: the request was dropped";

#[test]
fn every_change_of_a_session_is_a_line_that_says_what_comes_next() {
    let lines = lines_of(async {
        let lost = nth("lease_keep_alive", 2, 2, Action::DropRequest);
        let session = session_on(behind(&seeded(), lost)).await;
        sleep(secs(20)).await;
        session.close().await.unwrap();
    });
    assert_eq!(
        lines,
        [
            format!("INFO coord::session session opened: {ID} ttl=10s state=alive"),
            format!("DEBUG coord::session keep-alive failed: {ID} {LOST}"),
            format!(
                "WARN coord::session session suspect: {ID} state=suspect \
                 next=lost in 5.7s unless a keep-alive is confirmed"
            ),
            format!("INFO coord::session session confirmed again: {ID} state=alive"),
            format!(
                "INFO coord::session session ended: {ID} state=lost reason=the session was closed"
            ),
            format!("DEBUG coord::session lease revoked: {ID}"),
        ]
    );
}

#[test]
fn loss_of_a_session_is_logged_with_its_reason() {
    let lines = lines_of(async {
        let store = seeded();
        let revoked = session(&store).await;
        store.lease_revoke(revoked.lease_id()).await.unwrap();
        revoked.lost().await;
    });
    assert_eq!(
        lines[2..],
        [format!(
            "WARN coord::session session lost: {ID} state=lost reason=the lease was revoked \
             next=its locks and leaderships are lost: open another session"
        )]
    );
}

/// The last handle is dropped, and the store cannot be reached: nobody else is told.
#[test]
fn lease_that_could_not_be_revoked_is_logged_though_nobody_waits() {
    let lines = lines_of(async {
        drop(session_on(behind(&seeded(), only("lease_revoke", Action::Hang))).await);
        sleep(secs(20)).await;
    });
    assert_eq!(
        lines[2..],
        [format!(
            "WARN coord::session lease not revoked: {ID} error=no response within 9s \
             next=the lease, and the keys on it, expire by themselves"
        )]
    );
}

#[test]
fn handing_a_lease_over_is_logged_with_how_it_went() {
    let lines = lines_of(async {
        session(&seeded()).await.orphan().await.unwrap();
        let cut_off = behind(&seeded(), only("lease_keep_alive", Action::Hang));
        session_on(cut_off).await.orphan().await.unwrap_err();
    });
    let ended = "reason=the lease of the session was orphaned";
    let ended = format!("INFO coord::session session ended: {ID} state=lost {ended}");
    assert_eq!((&lines[1], &lines[4]), (&ended, &ended));
    assert_eq!(
        (&lines[2], &lines[5]),
        (
            &format!(
                "INFO coord::session lease orphaned: {ID} \
                 next=an adopter keeps it alive, or it expires"
            ),
            &format!(
                "WARN coord::session lease not refreshed: {ID} error=no response within 9s \
                 next=an adopter may have less than the whole TTL, or none"
            )
        )
    );
}

#[test]
fn opening_that_fails_is_logged_with_the_next_attempt() {
    let lines = lines_of(async {
        let kv = behind(&seeded(), nth("lease_grant", 1, 1, Action::DropRequest));
        session_on(kv).await.close().await.unwrap();
        let refused = Action::Fail(Error::PermissionDenied { reason: "no".to_owned() });
        let kv = behind(&seeded(), only("lease_grant", refused));
        Session::builder(&kv).open().await.unwrap_err();
    });
    let failed = "DEBUG coord::session opening a session failed:";
    assert_eq!(lines[0], format!("{failed} generation=1 {LOST} next=retrying in 100ms"));
    let given_up = "DEBUG coord::session session not opened:";
    let given_up = format!("{given_up} generation=1 error=permission denied: no");
    assert_eq!(lines.last(), Some(&given_up));
}

#[test]
fn supervisor_logs_each_epoch_and_how_it_ended() {
    let lines = lines_of(async {
        let store = seeded();
        let supervisor = supervisor(behind(&store, nth("lease_grant", 2, 3, Action::DropRequest)));
        let supervisor = supervisor.await;
        store.lease_revoke(supervisor.session().lease_id()).await.unwrap();
        let work = supervisor.run(async |session: Session| {
            if session.generation() > Generation::FIRST {
                return Ok::<_, PrimitiveError>(());
            }
            Err(session.lost().await.into())
        });
        work.await.unwrap();
        supervisor.close().await.unwrap();
    });
    let about = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    assert_eq!(about("coord::supervisor"), 6, "{lines:#?}");
    for line in [
        "WARN coord::supervisor generation lost: generation=1 state=down reason=the lease was revoked \
         next=opening another session",
        // And after a pause that has its jitter:
        &format!(
            "WARN coord::supervisor opening another session failed: generation=1 state=down {LOST} \
             next=retrying in "
        ),
        &format!(
            "DEBUG coord::supervisor opening another session failed again: generation=1 state=down \
             attempt=2 {LOST} next=retrying in "
        ),
        "INFO coord::supervisor work ended by a loss: generation=1 reason=the lease was revoked \
         next=calling the work again",
        "INFO coord::supervisor generation begun: generation=2 state=up \
         next=locks and leaderships of the previous generation can be acquired again",
        "INFO coord::supervisor supervisor ended: generation=2 state=ended \
         reason=the session was closed",
    ] {
        assert_eq!(about(line), 1, "{line}: {lines:#?}");
    }
}

#[test]
fn supervisor_that_fails_logs_an_error() {
    let lines = lines_of(async {
        let refused = Action::Fail(Error::PermissionDenied { reason: "no".to_owned() });
        let store = seeded();
        let supervisor = supervisor(behind(&store, nth("lease_grant", 2, 9, refused))).await;
        store.lease_revoke(supervisor.session().lease_id()).await.unwrap();
        supervisor.session().lost().await;
        supervisor.ready().await.unwrap_err();
    });
    assert_eq!(
        lines.last().expect("there are lines"),
        "ERROR coord::supervisor supervisor failed: generation=1 state=failed \
         error=permission denied: no next=remove the cause and start another supervisor"
    );
}

#[test]
fn runtime_that_is_shut_down_around_a_session_leaves_a_line() {
    let lines = lines_of(async {
        std::mem::forget(session(&seeded()).await);
    });
    assert_eq!(
        lines[1..],
        [format!(
            "WARN coord::session session left open when its runtime was shut down: {ID} \
             state=lost next=the lease, and the keys on it, expire by themselves"
        )]
    );
}

/// What `recorder` has counted: each metric with its labels, and its value.
fn counted(recorder: &DebuggingRecorder) -> BTreeMap<String, u64> {
    let snapshot = recorder.snapshotter().snapshot().into_vec();
    let counted = snapshot.into_iter().map(|(key, _, _, value)| {
        let mut name = key.key().name().to_owned();
        for label in key.key().labels() {
            name = format!("{name} {}={}", label.key(), label.value());
        }
        let value = match value {
            DebugValue::Counter(count) => count,
            // The few that there are, of sessions: a whole number.
            DebugValue::Gauge(value) => format!("{value}").parse().expect("not negative"),
            // How long each waited; here, how many did.
            DebugValue::Histogram(values) => values.len().try_into().expect("there are few"),
        };
        (name, value)
    });
    counted.collect()
}

fn expected<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[test]
fn sessions_are_counted_from_opening_to_the_reason_of_their_end() {
    let recorder = DebuggingRecorder::new();
    let _runtime = metrics::with_local_recorder(&recorder, || {
        on_virtual_time(async {
            let store = seeded();
            let closed = session(&store).await;
            closed.close().await.unwrap();
            let revoked = session(&store).await;
            store.lease_revoke(revoked.lease_id()).await.unwrap();
            assert_eq!(revoked.lost().await, LossReason::Revoked, "by a keep-alive");
            // Two fail, in time for the third; another follows a third of 10 s later.
            let unsteady = nth("lease_keep_alive", 1, 2, Action::DropRequest);
            let open = session_on(behind(&store, unsteady)).await;
            sleep(secs(8)).await;
            assert_eq!(open.state(), SessionState::Alive);
            std::mem::forget(open);
        })
    });
    assert_eq!(
        counted(&recorder),
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
fn epochs_are_counted_and_sessions_of_a_runtime_that_is_gone_are_not_open() {
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || {
        drop(on_virtual_time(async {
            let store = seeded();
            let supervisor = supervisor(another(&store)).await;
            for _ in 0..3 {
                let session = supervisor.ready().await.unwrap();
                store.lease_revoke(session.lease_id()).await.unwrap();
                session.lost().await;
            }
            supervisor.ready().await.unwrap();
        }));
    });
    assert_eq!(
        counted(&recorder),
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
fn contenders_are_counted_by_what_they_contend_for_and_how_it_ended() {
    let recorder = DebuggingRecorder::new();
    metrics::with_local_recorder(&recorder, || {
        on_virtual_time(async {
            let store = seeded();
            let session = session(&store).await;
            let mutex = Mutex::new(&session, "m");
            let guard = mutex.lock().await.unwrap();
            assert!(timeout(secs(1), mutex.lock()).await.is_err());
            settle().await;
            guard.unlock().await.unwrap();
            let leadership = Election::new(&session, "e").campaign("a").await.unwrap();
            store.delete(leadership.key()).await.unwrap();
            leadership.resign().await.unwrap_err();
            let held = mutex.try_lock().await.unwrap().expect("nobody has it");
            session.close().await.unwrap();
            drop(held);
        })
    });
    let mut counted = counted(&recorder);
    counted.retain(|name, _| name.starts_with("coord_queue"));
    assert_eq!(
        counted,
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
