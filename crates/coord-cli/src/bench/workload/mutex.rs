//! `mutex-*`: lock and unlock.

use anyhow::Result;
use coord_core::{Mutex, Session, mutex::MutexGuard};

use super::turns::Claim;

impl Claim for Mutex {
    const TAKE: &'static str = "lock";
    const GIVE_BACK: &'static str = "unlock";

    type Held = MutexGuard;

    fn staked(session: &Session, name: String, _worker: usize) -> Self {
        Self::new(session, name)
    }

    async fn take(&self) -> Result<MutexGuard> {
        Ok(self.lock().await?)
    }

    async fn give_back(guard: MutexGuard) -> Result<()> {
        Ok(guard.unlock().await?)
    }
}
