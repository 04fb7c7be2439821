//! The `mutex-*` workloads: lock and unlock.

use anyhow::Result;
use coord_core::Mutex;
use coord_core::error::PrimitiveError;
use coord_core::mutex::MutexGuard;

use super::lock_cycle::LockLike;

impl LockLike for Mutex {
    const ACQUIRE_SERIES: &'static str = "lock";
    const RELEASE_SERIES: &'static str = "unlock";

    type Held = MutexGuard;

    async fn acquire(&self) -> Result<MutexGuard> {
        Ok(self.lock().await?)
    }

    async fn release(guard: MutexGuard) -> Result<()> {
        Ok(guard.unlock().await.map_err(PrimitiveError::from)?)
    }
}
