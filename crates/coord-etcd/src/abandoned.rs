//! Abandoned requests: reports a request whose caller stopped waiting, so that the next request
//! goes to another member.
//!
//! A session with a short TTL abandons a keep-alive long before the request timeout: after a
//! quarter of the TTL it drops the call and sends another. If the first call were not reported, the
//! second would go to the same silent member.

use std::time::Duration;

use tokio::time::Instant;

/// The wait after which an abandoned request counts against the member.
const REPORT_AFTER: Duration = Duration::from_millis(250);

/// Waits for a response. Calls `report` if the caller drops the future after [`REPORT_AFTER`] or
/// later, before the response arrives.
pub(crate) async fn report_if_abandoned<T>(
    response: impl Future<Output = T>,
    report: impl FnMut(),
) -> T {
    let guard = AbandonGuard { started: Instant::now(), report };
    let response = response.await;
    std::mem::forget(guard);
    response
}

struct AbandonGuard<F: FnMut()> {
    started: Instant,
    report: F,
}

impl<F: FnMut()> Drop for AbandonGuard<F> {
    fn drop(&mut self) {
        if self.started.elapsed() >= REPORT_AFTER {
            (self.report)();
        }
    }
}
