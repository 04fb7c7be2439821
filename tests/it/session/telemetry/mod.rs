//! Logs and metrics of sessions, supervisors, locks and elections, and the capture of log lines.

mod metrics;
mod primitive_logs;
mod session_logs;

use std::cell::RefCell;
use std::fmt;
use std::sync::Once;

use coord_core::Client;
use coord_mem::MemBackend;
use tokio::runtime::{Builder, Runtime};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

thread_local! {
    /// The log lines of this thread, while it captures them.
    static CAPTURED_LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// A layer that captures the log lines of coord from `DEBUG` on, each in the thread that logs it.
///
/// One global subscriber serves all threads: tracing caches per call site whether a subscriber is
/// interested, so a subscriber of one thread can miss a line that another thread reached first.
struct CaptureLayer;

impl<S: Subscriber> Layer<S> for CaptureLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let (level, target) = (event.metadata().level(), event.metadata().target());
        if !target.starts_with("coord::") || *level == Level::TRACE {
            return;
        }
        CAPTURED_LINES.with_borrow_mut(|lines| {
            if let Some(lines) = lines {
                let mut line = LogLine(format!("{level} {target}"));
                event.record(&mut line);
                lines.push(line.0);
            }
        });
    }
}

/// A log line as text: level, target, message and fields, without its time.
struct LogLine(String);

impl Visit for LogLine {
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

/// The log lines of `future`, which runs on virtual time.
pub(crate) fn lines_of(future: impl Future<Output = ()>) -> Vec<String> {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let capture = tracing_subscriber::registry().with(CaptureLayer);
        tracing::subscriber::set_global_default(capture).unwrap();
        // Call sites that other threads have reached in the meantime are evaluated again.
        tracing::callsite::rebuild_interest_cache();
    });
    CAPTURED_LINES.set(Some(Vec::new()));
    drop(run_on_virtual_time(future));
    CAPTURED_LINES.take().unwrap()
}

/// Runs `future` in this thread. Tasks that it spawned end with the returned runtime.
fn run_on_virtual_time(future: impl Future<Output = ()>) -> Runtime {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap();
    runtime.block_on(future);
    runtime
}

/// A store that chooses the same lease ids in each run.
fn seeded_store() -> Client {
    Client::new(MemBackend::builder().seed(0).build())
}
