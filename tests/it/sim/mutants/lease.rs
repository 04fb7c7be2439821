//! A lease with its own keep-alive task, as a user without coord would write it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use coord_core::error::ErrorKind;
use coord_core::kv::{LeaseGrant, LeaseId};
use coord_core::sync;
use coord_testkit::sim::Process;
use tokio::time::{Instant, sleep, timeout};

/// A TTL shorter than the short partition of 5 s, so that leases end while their owners are inside.
pub(super) const SHORT_TTL: Duration = Duration::from_secs(3);

/// A TTL longer than the short partition of 5 s, so that keys of living processes outlast it.
pub(super) const LONG_TTL: Duration = Duration::from_secs(10);

/// From when the TTL is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CountedFrom {
    /// From the sending of the request. The store counts from a later time, so this is safe.
    Sending,
    /// From the arrival of the response: too late by its latency.
    Response,
}

/// A lease, and the time until which its owner may rely on it.
#[derive(Clone)]
pub(super) struct FlawedLease {
    pub(super) id: LeaseId,
    deadline: Arc<Mutex<Instant>>,
}

impl FlawedLease {
    /// Grants a lease without keep-alive.
    pub(super) async fn grant(
        process: &Process,
        ttl: Duration,
        from: CountedFrom,
    ) -> coord_core::Result<Self> {
        let sent = Instant::now();
        let id = process.client().lease_grant(LeaseGrant::new(ttl)).await?.id;
        Ok(Self { id, deadline: Arc::new(Mutex::new(deadline(sent, ttl, from))) })
    }

    /// Grants a lease, and keeps it alive until the last clone is dropped.
    pub(super) async fn keep(
        process: &Process,
        ttl: Duration,
        from: CountedFrom,
    ) -> coord_core::Result<Self> {
        let lease = Self::grant(process, ttl, from).await?;
        let (client, id) = (process.client().clone(), lease.id);
        let shared = Arc::downgrade(&lease.deadline);
        drop(process.spawn(async move {
            loop {
                sleep(ttl / 3).await;
                if shared.strong_count() == 0 {
                    return;
                }
                let sent = Instant::now();
                // One lost message must not end the lease.
                match timeout(ttl / 2, client.lease_keep_alive(id)).await {
                    Ok(Ok(_)) => {
                        let Some(shared) = shared.upgrade() else { return };
                        *sync::lock(&shared) = deadline(sent, ttl, from);
                    }
                    Ok(Err(error)) if error.kind() == ErrorKind::LeaseNotFound => return,
                    Ok(Err(_)) | Err(_) => {}
                }
            }
        }));
        Ok(lease)
    }

    /// Whether the lease surely exists.
    pub(super) fn is_alive(&self) -> bool {
        Instant::now() < *sync::lock(&self.deadline)
    }
}

/// The deadline has a margin of a tenth of the TTL, because the store's clock may be fast.
fn deadline(sent: Instant, ttl: Duration, from: CountedFrom) -> Instant {
    let start = match from {
        CountedFrom::Sending => sent,
        CountedFrom::Response => Instant::now(),
    };
    start + ttl * 9 / 10
}
