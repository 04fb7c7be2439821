//! The progress line of a waiter at a terminal: how many contenders are ahead.

use std::convert::Infallible;
use std::time::Duration;

use coord_core::Session;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::sleep;

use crate::queue::QueueKeys;

/// The delay before the line is shown, and the interval at which it is updated.
const UPDATE_INTERVAL: Duration = Duration::from_secs(1);

/// Shows the number of contenders ahead of this session's on standard error, and erases it when it
/// is dropped. A foreign key ahead counts as a contender. If standard error is no terminal, it
/// prints nothing and sends no request.
pub(super) async fn show_contenders_ahead(session: &Session, queue: &QueueKeys) -> Infallible {
    let line = ProgressBar::new_spinner();
    if line.is_hidden() {
        return std::future::pending().await;
    }
    line.set_style(ProgressStyle::with_template("{msg}").expect("it is well-formed"));
    loop {
        sleep(UPDATE_INTERVAL).await;
        // An error is ignored, because the wait itself reports an unavailable store.
        if let Ok(read) = session.client().range(queue.in_order().keys_only()).await {
            let keys = read.kvs.iter().filter(|kv| queue.contains(&kv.key));
            let ahead = keys.take_while(|kv| kv.lease != Some(session.lease_id())).count();
            line.set_message(format!("waiting; contenders ahead: {ahead}"));
            line.tick();
        }
    }
}
