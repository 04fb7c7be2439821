//! The `mutex-*` workloads: lock and unlock.

use anyhow::Result;
use coord_core::error::PrimitiveError;
use coord_core::mutex::MutexGuard;
use coord_core::{Mutex, Session};

use super::lock_cycle::Exclusive;

impl Exclusive for Mutex {
    const ACQUIRE_SERIES: &'static str = "lock";
    const RELEASE_SERIES: &'static str = "unlock";

    type Held = MutexGuard;

    fn create(session: &Session, name: String, _worker: usize) -> Self {
        Self::new(session, name)
    }

    async fn acquire(&self) -> Result<MutexGuard> {
        Ok(self.lock().await?)
    }

    async fn release(guard: MutexGuard) -> Result<()> {
        Ok(guard.unlock().await.map_err(PrimitiveError::from)?)
    }
}
