//! What can be learned from a caller who goes away.
//!
//! A session gives up on a keep-alive long before we give up on a member: it drops the call, and
//! makes another. Without a word about the first, the second would meet the same silence.

use std::time::Duration;

use tokio::time::Instant;

/// How long a member may take before whoever goes away is taken to go because of it.
const SILENCE: Duration = Duration::from_millis(250);

/// Waits for an answer. If the caller goes away before it comes, and not at once, `learn` is called
/// instead.
pub(crate) async fn awaited<T>(answer: impl Future<Output = T>, learn: impl FnMut()) -> T {
    let patience = Patience { began: Instant::now(), learn };
    let answer = answer.await;
    std::mem::forget(patience);
    answer
}

struct Patience<F: FnMut()> {
    began: Instant,
    learn: F,
}

impl<F: FnMut()> Drop for Patience<F> {
    fn drop(&mut self) {
        if self.began.elapsed() >= SILENCE {
            (self.learn)();
        }
    }
}
