//! Builder and settings of a `MemBackend`.

use std::time::Duration;

use coord_core::kv::Limits;

use crate::MemBackend;

/// Builds a [`MemBackend`]. A setting that is not set has the value of a default etcd.
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
#[must_use = "call `build` to create the backend"]
pub struct MemBackendBuilder {
    options: Options,
}

/// The settings of a backend.
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

    /// The minimum TTL of a lease: a shorter requested TTL is raised to this one. Default: 2 s, as
    /// in etcd with its default election timeout.
    pub const fn lease_ttl_min(mut self, ttl: Duration) -> Self {
        self.options.lease_ttl_min = ttl;
        self
    }

    /// The speed of the clock by which leases expire, relative to tokio's clock. Default: 1.0.
    ///
    /// At 1.05 the clock runs five percent fast, and a lease of 20 s expires after about 19 s on
    /// the client's clock. At 0.0 the clock stands still, and no lease expires.
    ///
    /// # Panics
    /// If `rate` is negative, infinite or not a number.
    pub const fn lease_clock_rate(mut self, rate: f64) -> Self {
        assert!(
            rate.is_finite() && rate >= 0.0,
            "invalid lease clock rate: must be finite, and at least 0.0"
        );
        self.options.lease_clock_rate = rate;
        self
    }

    /// The progress interval: a watch with `progress_notify` that has delivered nothing for this
    /// long delivers a progress notification. Default: 10 min.
    pub const fn progress_interval(mut self, interval: Duration) -> Self {
        self.options.progress_interval = interval;
        self
    }

    /// The limits on the size of one request. Default: 128 operations, and 1.5 MiB for a change,
    /// measured as an entry of etcd's raft log. A read or a watch may have 512 KiB more.
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.options.limits = limits;
        self
    }

    /// Keeps this many revisions before the newest one, and compacts older ones automatically, so
    /// that memory does not grow with the number of changes. Default: all revisions are kept.
    pub const fn retain_revisions(mut self, revisions: u64) -> Self {
        self.options.retain_revisions = Some(revisions);
        self
    }

    /// The seed of the ids that the store chooses: those of leases, of the cluster and of the
    /// member. With the same seed, a run can be repeated to the last byte.
    ///
    /// Default: each store draws its own seed and so has its own ids, like each new etcd cluster. A
    /// client that outlives a store therefore cannot mistake a lease of the next store for its own.
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

    /// Builds the backend: empty, at revision 1.
    #[must_use]
    pub fn build(self) -> MemBackend {
        MemBackend::from_options(self.options)
    }
}
