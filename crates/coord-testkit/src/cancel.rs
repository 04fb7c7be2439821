//! Cancellation tests: drop a future at every `await` at which it can be cancelled.
//!
//! A future can be dropped only between two polls. A test of cancel safety therefore runs the same
//! future repeatedly, and drops it after one poll, after two polls, and so on until it completes:
//!
//! ```
//! use coord_testkit::poll_at_most;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! async fn two_steps() -> u32 {
//!     tokio::task::yield_now().await;
//!     tokio::task::yield_now().await;
//!     7
//! }
//! assert_eq!(poll_at_most(1, two_steps()).await, None);
//! assert_eq!(poll_at_most(2, two_steps()).await, None);
//! assert_eq!(poll_at_most(3, two_steps()).await, Some(7));
//! # }
//! ```

use std::pin::pin;
use std::task::Poll;

/// Polls `future` at most `polls` times, each time that it is woken, and then drops it.
///
/// Returns the output, or `None` if `future` was not ready after `polls` polls.
///
/// # Cancel safety
/// Dropping the returned future drops `future`.
pub async fn poll_at_most<F: Future + Send>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            // Drop `future` now, not when it is next woken.
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
