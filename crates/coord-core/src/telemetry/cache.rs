//! Events of a prefix cache.

use std::time::Duration;

use bytes::Bytes;

use super::{CACHE, metrics};
use crate::follow::{Gap, GapCause};
use crate::recipes::PrefixCacheError;

/// The state of a cache was confirmed to be current. `staleness` is the time since the last
/// confirmation.
pub(crate) fn confirmed(staleness: Duration) {
    metrics::observe("coord_cache_staleness_seconds", staleness, &[]);
}

/// A cache has read its prefix again.
pub(crate) fn read_again(prefix: &Bytes, gap: Gap, changes: usize) {
    let prefix = prefix.escape_ascii();
    let cause = match gap.cause {
        GapCause::Compacted => "compacted",
        GapCause::HistoryReplaced => "history_replaced",
        GapCause::OutOfOrder => "out_of_order",
        GapCause::Lagged => "lagged",
    };
    tracing::warn!(target: CACHE, %prefix, %gap, changes,
        next = "continuing with the state that was read", "prefix read again");
    metrics::count("coord_cache_read_again_total", &[("reason", cause)]);
}

/// A cache has stopped.
pub(crate) fn failed(prefix: &Bytes, error: &PrefixCacheError) {
    let prefix = prefix.escape_ascii();
    tracing::error!(target: CACHE, %prefix, %error,
        next = "the last state stays readable: open another cache", "cache stopped");
}
