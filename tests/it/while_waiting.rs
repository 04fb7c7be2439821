//! Helpers for tests that run one future while another waits.

use std::time::Duration;

use tokio::time::sleep;

use crate::support::settle;

/// Starts `wait`, lets it settle, runs `act`, and returns both outputs.
pub(crate) async fn while_waiting<W, A>(
    wait: impl Future<Output = W>,
    act: impl Future<Output = A>,
) -> (W, A) {
    tokio::join!(wait, async {
        settle().await;
        act.await
    })
}

/// Starts `wait`, runs `act` after `delay`, and returns both outputs.
pub(crate) async fn while_waiting_after<W, A>(
    delay: Duration,
    wait: impl Future<Output = W>,
    act: impl Future<Output = A>,
) -> (W, A) {
    tokio::join!(wait, async {
        sleep(delay).await;
        act.await
    })
}
