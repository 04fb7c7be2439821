//! The notice that what is held is lost, or will be before the command could stop.

use std::time::Duration;

use coord_core::PrimitiveError;
use coord_core::contender::Contender;
use tokio::time::{Instant, sleep_until};

/// That a command has to end.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) why: String,
    /// When nothing may be left of it.
    pub(super) kill_at: Instant,
}

/// Waits until what is held is lost, or would be before a command could stop.
pub(super) async fn notice(contender: &Contender, grace: Duration) -> Notice {
    let session = contender.session();
    let about_to_be_lost = async {
        loop {
            let deadline = session.deadline();
            sleep_until(deadline - grace).await;
            // Nothing was confirmed meanwhile.
            if session.deadline() == deadline {
                break deadline;
            }
        }
    };
    tokio::select! {
        biased;
        reason = contender.lost() => Notice {
            why: PrimitiveError::Lost(reason).to_string(),
            kill_at: Instant::now() + grace,
        },
        kill_at = about_to_be_lost => Notice {
            why: "no keep-alive was confirmed, and the lease is about to end".to_owned(),
            kill_at,
        },
    }
}
