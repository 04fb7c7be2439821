//! Gauges of open watches and watch streams, for the metrics.
//!
//! A counted object holds a guard, which is a clone of the gauge's `Arc`. The value of the gauge is
//! the number of clones, so it decreases when the object is dropped, on every path.

use std::sync::Arc;

/// The gauges of a server.
#[derive(Default)]
pub(crate) struct WatchGauges {
    /// Open watch streams.
    pub(crate) streams: Gauge,
    /// Open watches. Includes watches that the server cancelled because events that were not
    /// delivered are compacted, until the client cancels them too or closes the stream.
    pub(crate) watches: Gauge,
}

/// A number of open objects.
#[derive(Default)]
pub(crate) struct Gauge(Arc<()>);

/// RAII guard that counts as one in a gauge until it is dropped.
pub(crate) struct GaugeGuard(#[expect(dead_code, reason = "counted while it is held")] Arc<()>);

impl Gauge {
    /// Increments the gauge until the guard is dropped.
    pub(crate) fn increment(&self) -> GaugeGuard {
        GaugeGuard(Arc::clone(&self.0))
    }

    /// The number of guards.
    pub(crate) fn get(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}
