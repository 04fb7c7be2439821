//! What one worker notes: how long its operations took.

use std::collections::BTreeMap;
use std::time::Duration;

/// It is not shared, so it takes no lock.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(super) series: BTreeMap<&'static str, Vec<Duration>>,
    pub(super) operations: u64,
}

impl Notes {
    /// Adds a latency to the series with this name.
    pub(crate) fn add(&mut self, series: &'static str, latency: Duration) {
        // Room from the start, so that few operations pay for growth.
        let series = self.series.entry(series).or_insert_with(|| Vec::with_capacity(1 << 14));
        series.push(latency);
    }
}
