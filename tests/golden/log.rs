//! What happened in a step, line by line.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Opens each line: what stands before it was put there by goldenscript.
pub(crate) const MARK: char = '\u{1}';

/// What happens in less time after a command, happens at once.
const MOMENT: Duration = Duration::from_millis(100);

/// The lines of a step, in the order in which things happened. Clones are handles to it.
#[derive(Clone)]
pub(crate) struct Log {
    /// When the script began.
    began: Instant,
    step: Arc<Mutex<Step>>,
}

struct Step {
    began: Instant,
    lines: Vec<String>,
}

impl Log {
    /// A log whose first step begins now.
    pub(crate) fn new() -> Self {
        let began = Instant::now();
        Self { began, step: Arc::new(Mutex::new(Step { began, lines: Vec::new() })) }
    }

    /// Begins a step.
    pub(crate) fn begin(&self) {
        self.step().began = Instant::now();
    }

    /// Notes that something happened; with the time, if time has passed since the step began.
    pub(crate) fn note(&self, what: &str) {
        let mut step = self.step();
        let line = if step.began.elapsed() < MOMENT {
            format!("{MARK}{what}")
        } else {
            format!("{MARK}{:4.1} s  {what}", self.began.elapsed().as_secs_f64())
        };
        step.lines.push(line);
    }

    /// All lines since the last time, which are forgotten.
    pub(crate) fn take(&self) -> String {
        std::mem::take(&mut self.step().lines).join("\n")
    }

    fn step(&self) -> MutexGuard<'_, Step> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
