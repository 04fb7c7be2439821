//! Whether a line is likely empty, for whoever joins the same line again and again.
//!
//! A join creates a key and reads who is before it. To a store the read is a good part of the work,
//! and where nobody else ever comes it tells nothing. So whoever has found the line empty many
//! times in a row asks for less: *if nobody is in the line, create my key*. Usually that is all.
//! If somebody is there nothing is written, and the usual join follows:
//!
//! ```text
//! joins so far            sent                                requests
//! the first eight         create, and read who is before      1 each
//! the next thousand       create if nobody is there           1 each
//! somebody is there       that, and then create and read      2
//! from then on            create, and read who is before      1 each, and so on
//! ```
//!
//! A wrong guess costs a request, and eight right ones come before each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How often in a row a line is found empty before it is taken to be.
const OFTEN: u8 = 8;

/// How often in a row a line was found empty. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Quiet {
    times: Arc<AtomicU8>,
}

impl Quiet {
    pub(super) fn is_likely(&self) -> bool {
        self.times.load(Ordering::Relaxed) >= OFTEN
    }

    /// Notes what a join has found. Of joins at the same time one may not be counted.
    pub(super) fn note(&self, empty: bool) {
        let times = self.times.load(Ordering::Relaxed);
        let times = if empty { times.saturating_add(1) } else { 0 };
        self.times.store(times, Ordering::Relaxed);
    }
}
