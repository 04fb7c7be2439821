//! The `semaphore` and `semaphore-contended` workloads: acquire a permit and release it.

use anyhow::Result;
use coord_core::error::PrimitiveError;
use coord_core::recipes::{Semaphore, SemaphorePermits};

use super::lock_cycle::LockLike;

impl LockLike for Semaphore {
    const ACQUIRE_SERIES: &'static str = "acquire";
    const RELEASE_SERIES: &'static str = "release";

    type Held = SemaphorePermits;

    async fn acquire(&self) -> Result<SemaphorePermits> {
        Ok(self.acquire(1).await?)
    }

    async fn release(permits: SemaphorePermits) -> Result<()> {
        Ok(permits.release().await.map_err(PrimitiveError::from)?)
    }
}
