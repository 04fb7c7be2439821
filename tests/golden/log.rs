//! The transcript of a step: its lines in the order of events.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use coord_core::sync;
use tokio::time::Instant;

/// The first character of each line. goldenscript inserts its prefix before it, so that the prefix
/// can be removed.
pub(crate) const LINE_START: char = '\u{1}';

/// A line that is printed within this time after a command has no timestamp.
const UNTIMED_WITHIN: Duration = Duration::from_millis(100);

/// The transcript of the current step. Clones share it.
#[derive(Clone)]
pub(crate) struct Log {
    /// The start of the script.
    started: Instant,
    step: Arc<Mutex<StepLines>>,
}

/// The lines of a step.
struct StepLines {
    started: Instant,
    lines: Vec<String>,
}

impl Log {
    /// Creates a log. The script and its first step start now.
    pub(crate) fn new() -> Self {
        let started = Instant::now();
        Self { started, step: Arc::new(Mutex::new(StepLines { started, lines: Vec::new() })) }
    }

    /// Starts a step.
    pub(crate) fn start_step(&self) {
        self.step().started = Instant::now();
    }

    /// Adds a line, with a timestamp if [`UNTIMED_WITHIN`] has passed since the step started.
    pub(crate) fn note(&self, text: &str) {
        let mut step = self.step();
        let line = if step.started.elapsed() < UNTIMED_WITHIN {
            format!("{LINE_START}{text}")
        } else {
            format!("{LINE_START}{:4.1} s  {text}", self.started.elapsed().as_secs_f64())
        };
        step.lines.push(line);
    }

    /// Removes and returns all lines.
    pub(crate) fn take(&self) -> String {
        std::mem::take(&mut self.step().lines).join("\n")
    }

    fn step(&self) -> MutexGuard<'_, StepLines> {
        sync::lock(&self.step)
    }
}
