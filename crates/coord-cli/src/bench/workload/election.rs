//! `election-*`: campaign and resign.

use anyhow::Result;
use coord_core::{Election, Leadership, PrimitiveError, Session};

use super::turns::Claim;

/// A worker's candidacy, again and again, with a value of its own.
pub(crate) struct Campaigner {
    election: Election,
    value: String,
}

impl Claim for Campaigner {
    const TAKE: &'static str = "campaign";
    const GIVE_BACK: &'static str = "resign";

    type Held = Leadership;

    fn staked(session: &Session, name: String, worker: usize) -> Self {
        Self { election: Election::new(session, name), value: format!("candidate{worker}") }
    }

    async fn take(&self) -> Result<Leadership> {
        Ok(self.election.campaign(&self.value).await?)
    }

    async fn give_back(leadership: Leadership) -> Result<()> {
        Ok(leadership.resign().await.map_err(PrimitiveError::from)?)
    }
}
