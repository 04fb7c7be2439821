//! Builder and settings of a `MemBackend`.

use std::time::Duration;

use coord_core::kv::Limits;

use crate::MemBackend;

/// Builds a [`MemBackend`]. Every setting that is left unset is that of a default etcd.
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

    /// The minimum TTL: a lease that requests less is granted this. Default: 2 s, as in etcd with
    /// its default election timeout.
    pub const fn lease_ttl_min(mut self, ttl: Duration) -> Self {
        self.options.lease_ttl_min = ttl;
        self
    }

    /// The speed of the clock by which leases expire, relative to tokio's clock. At 1.05 it runs
    /// five percent fast, and a lease of 20 s expires after about 19 s on the client's clock. At
    /// 0.0 it stands still, and no lease expires.
    ///
    /// # Panics
    /// If `rate` is negative, infinite or not a number.
    pub const fn lease_clock_rate(mut self, rate: f64) -> Self {
        assert!(rate.is_finite() && rate >= 0.0, "a clock's rate is a number from 0.0 up");
        self.options.lease_clock_rate = rate;
        self
    }

    /// How long a watch with `progress_notify` must deliver nothing before it receives a progress
    /// notification. Default: 10 min.
    pub const fn progress_interval(mut self, interval: Duration) -> Self {
        self.options.progress_interval = interval;
        self
    }

    /// How large one request may be. Default: 128 operations, and 1.5 MiB for a change, measured as
    /// an entry of etcd's raft log. Reads and watches may have 512 KiB more.
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.options.limits = limits;
        self
    }

    /// Keeps this many revisions before the newest one, and compacts older ones automatically, so
    /// that memory is bounded by the keys that exist. Default: all revisions are kept.
    pub const fn retain_revisions(mut self, revisions: u64) -> Self {
        self.options.retain_revisions = Some(revisions);
        self
    }

    /// Seed of the ids that the store chooses: those of leases, the cluster and the member. With
    /// the same seed, a run can be repeated to the last byte. Default: every store draws its own
    /// seed, as every new etcd cluster has its own ids, so that a client that outlives a store
    /// cannot mistake a lease of the next store for its own.
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
