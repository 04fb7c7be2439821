//! Panics of a simulated run: caught, and not printed.
//!
//! A sweep may run a failing scenario hundreds of times while it shrinks the failure. The panic
//! hook of the process would print each of them. While a run is active on a thread, the hook keeps
//! the message of that thread instead, with its place; other threads are not affected.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use super::failure::{self, Failure};

thread_local! {
    /// The message of the last panic, while a run is active on this thread.
    static CAPTURED: RefCell<Option<String>> = const { RefCell::new(None) };
}

static INSTALLED: Once = Once::new();

/// RAII guard: while it exists, panics of this thread are captured.
pub(crate) struct Capture;

impl Capture {
    pub(crate) fn start() -> Self {
        INSTALLED.call_once(|| {
            let print = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                let is_captured = CAPTURED.with_borrow_mut(|captured| {
                    captured.as_mut().map(|text| *text = info.to_string()).is_some()
                });
                if !is_captured {
                    print(info);
                }
            }));
        });
        CAPTURED.set(Some(String::new()));
        Self
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        CAPTURED.set(None);
    }
}

/// Runs code that may panic. A panic is a failure of the run.
pub(crate) fn catch<T>(run: impl FnOnce() -> T) -> Result<T, Failure> {
    let caught = panic::catch_unwind(AssertUnwindSafe(run));
    caught.map_err(|payload| Failure::new(failure::PANIC, message(&*payload)))
}

/// The message of a caught panic, with its place if it was captured.
fn message(payload: &(dyn Any + Send)) -> String {
    let captured = CAPTURED.with_borrow_mut(|captured| captured.as_mut().map(std::mem::take));
    if let Some(text) = captured.filter(|text| !text.is_empty()) {
        return text;
    }
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".to_owned())
}
