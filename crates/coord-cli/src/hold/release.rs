//! Release requests to `coord lock` and `coord elect`: another client requests the
//! release.
//!
//! A request has the effect of the signal TERM to `coord`: the command receives it and decides, and
//! without a command the lock is released. So a command that ends on TERM needs nothing else.
//!
//! A request that is received when the release begins has no effect, because the lock is released
//! anyway.

use std::convert::Infallible;
use std::future::pending;

use coord_core::error::PrimitiveError;
use coord_core::queue::Contender;
use rustix::process::Signal;
use tokio::sync::mpsc;

use super::request::HoldRequest;
use super::unless_signalled;
use crate::signals::Signals;
use crate::text;

/// Reports the first request, and sends TERM to the receiver of `signals`. It never returns.
///
/// If requests cannot be received, for example because the user lacks the permission for their
/// keys, the hold continues without them.
pub(super) async fn forward_requests(
    request: &HoldRequest,
    contender: &Contender,
    signals: mpsc::UnboundedSender<Signal>,
) -> Infallible {
    if let Ok(received) = contender.release_requested().await {
        let reason = match text::escape(received.reason.as_bytes()) {
            reason if reason.is_empty() => reason,
            reason => format!(": {reason}"),
        };
        let name = &request.name;
        request.report(&format!("another client requests the release of {name}{reason}"));
        // The receiver exists as long as the hold.
        let _ = signals.send(Signal::TERM);
    }
    pending().await
}

/// Releases the contender. Returns `None` if a signal ends the wait for the confirmation. A release
/// request that no user of the signals has received does not.
pub(super) async fn release(
    contender: Contender,
    signals: &mut Signals,
) -> Option<Result<(), PrimitiveError>> {
    signals.discard_requests();
    let release = async { contender.release().await.map_err(PrimitiveError::from) };
    unless_signalled(signals, release).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use coord_core::queue::WaitQueue;
    use coord_core::{Client, Session};
    use coord_mem::MemBackend;
    use tokio::time::timeout;

    use super::*;
    use crate::hold::request::{Primitive, WaitMode};

    /// The program sent TERM to itself for a request. If the command ended in that instant, the
    /// signal ended the wait for the release, and the key could stay until the lease expired.
    #[tokio::test(start_paused = true)]
    async fn request_at_the_end_of_the_command_does_not_end_the_release() {
        let client = Client::new(MemBackend::new());
        let session = Session::builder(&client).open().await.expect("the store is available");
        let queue = WaitQueue::new(&session, "jobs");
        let held = queue.try_enqueue("").await.expect("the store is available");
        let held = held.expect("no other contender");
        let mut signals = Signals::new().expect("signals");
        queue.request_release("").await.expect("the store is available");
        let request = HoldRequest {
            primitive: Primitive::Lock,
            name: "jobs".to_owned(),
            value: String::new(),
            wait_mode: WaitMode::Try,
            slots: None,
            hold_at_least: None,
            again: false,
        };
        let forwarded = forward_requests(&request, &held, signals.request_sender());
        timeout(Duration::from_secs(1), forwarded).await.expect_err("it never returns");

        let released = release(held, &mut signals).await;
        assert!(matches!(released, Some(Ok(()))), "{released:?}");
        let next = queue.try_enqueue("").await.expect("the store is available");
        assert!(next.is_some(), "the lock is free");
    }

    #[tokio::test(start_paused = true)]
    async fn request_during_the_hold_is_received_as_term() {
        let mut signals = Signals::new().expect("signals");
        signals.request_sender().send(Signal::TERM).expect("the receiver exists");
        assert_eq!(signals.next().await, Signal::TERM);
        assert!(signals.stop_requested());
    }
}
