//! The samples of one worker: the latencies of its operations, by series.

use std::collections::BTreeMap;
use std::time::Duration;

/// The latencies of one worker by series, and the number of its operations. No other worker has
/// them, so that adding a sample needs no lock.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    pub(super) series: BTreeMap<&'static str, Vec<Duration>>,
    pub(super) operations: u64,
}

impl Samples {
    /// Adds a latency to the series with this name.
    pub(crate) fn add(&mut self, series: &'static str, latency: Duration) {
        // Preallocated, so that few operations include the growth of the vector.
        let series = self.series.entry(series).or_insert_with(|| Vec::with_capacity(1 << 14));
        series.push(latency);
    }
}
