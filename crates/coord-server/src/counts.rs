//! How many watch, for the metrics: whoever is counted holds a share of the count, so nobody can
//! leave without being taken off it.

use std::sync::Arc;

/// The watches and the streams of a server.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) streams: Count,
    /// Those too that were cancelled because their start is compacted, until the client cancels
    /// them as well, or leaves.
    pub(crate) watches: Count,
}

#[derive(Default)]
pub(crate) struct Count(Arc<()>);

/// One of those that are counted.
pub(crate) struct Counted(#[expect(dead_code, reason = "it is counted by being held")] Arc<()>);

impl Count {
    /// One more, as long as it lives.
    pub(crate) fn one(&self) -> Counted {
        Counted(Arc::clone(&self.0))
    }

    pub(crate) fn get(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}
