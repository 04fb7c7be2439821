//! What can be chosen about a `MemBackend`.

use std::time::Duration;

use coord_core::kv::Limits;

use crate::MemBackend;

/// Chooses what a [`MemBackend`] is like; everything unset is as a default etcd has it.
///
/// ```
/// use coord_mem::MemBackend;
/// use std::time::Duration;
///
/// let kv = MemBackend::builder()
///     .lease_ttl_min(Duration::from_secs(1))
///     .lease_clock_rate(1.05)
///     .retain_revisions(10_000)
///     .build();
/// # let _ = kv;
/// ```
#[derive(Clone, Debug)]
#[must_use = "call `build` to have the backend"]
pub struct MemBackendBuilder {
    options: Options,
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) limits: Limits,
    pub(crate) lease_ttl_min: Duration,
    pub(crate) lease_clock_rate: f64,
    pub(crate) progress_interval: Duration,
    pub(crate) retain_revisions: Option<u64>,
    pub(crate) seed: Option<u64>,
}

impl MemBackendBuilder {
    pub(crate) fn new() -> Self {
        let options = Options {
            limits: Limits::default(),
            lease_ttl_min: Duration::from_secs(2),
            lease_clock_rate: 1.0,
            progress_interval: Duration::from_secs(600),
            retain_revisions: None,
            seed: None,
        };
        Self { options }
    }

    /// The shortest time to live: a lease that asks for less gets this. 2 s unless set, as etcd
    /// has it with its default election timeout.
    pub const fn lease_ttl_min(mut self, ttl: Duration) -> Self {
        self.options.lease_ttl_min = ttl;
        self
    }

    /// How fast the clock runs by which leases expire: 1.05 is five percent fast, so that a lease
    /// of 20 s ends after some 19 s of everybody else's time; 0.0 stands still.
    ///
    /// # Panics
    /// If `rate` is negative, infinite or not a number.
    pub const fn lease_clock_rate(mut self, rate: f64) -> Self {
        assert!(rate.is_finite() && rate >= 0.0, "a clock's rate is a number from 0.0 up");
        self.options.lease_clock_rate = rate;
        self
    }

    /// How often a watch with progress notification gets a bookmark. 10 min unless set.
    pub const fn progress_interval(mut self, interval: Duration) -> Self {
        self.options.progress_interval = interval;
        self
    }

    /// How much one request may hold. Unless set, 128 operations, and 1.5 MiB for a change as it
    /// would lie in etcd's log; reads and watches may have 512 KiB more.
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.options.limits = limits;
        self
    }

    /// Keeps this many revisions before the newest, and compacts older ones as it goes, so that
    /// memory is bounded by the keys that exist. Everything is kept unless set.
    pub const fn retain_revisions(mut self, revisions: u64) -> Self {
        self.options.retain_revisions = Some(revisions);
        self
    }

    /// Draws the ids that the store chooses, of leases, of the cluster and of the member, from this
    /// seed, so that a run can be repeated to the last byte. Unless set, each store draws its own,
    /// as each life of an etcd cluster does: a client that outlives a store must not take a lease
    /// of the next store for its own.
    ///
    /// ```
    /// use coord_core::{KvBackend, kv::LeaseGrant};
    /// use coord_mem::MemBackend;
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> coord_core::Result<()> {
    /// let grant = || LeaseGrant::new(Duration::from_secs(10));
    /// let (a, b) = (MemBackend::builder().seed(7).build(), MemBackend::builder().seed(7).build());
    /// assert_eq!(a.lease_grant(grant()).await?.id, b.lease_grant(grant()).await?.id);
    /// # Ok(())
    /// # }
    /// ```
    pub const fn seed(mut self, seed: u64) -> Self {
        self.options.seed = Some(seed);
        self
    }

    /// The backend, empty and at revision 1.
    #[must_use]
    pub fn build(self) -> MemBackend {
        MemBackend::with(self.options)
    }
}
