//! Dropping a future wherever it waits.
//!
//! A future can be dropped at every point where it waits, and nowhere else. So whoever wants to
//! know that dropping does no harm runs it again and again, and drops it when it has been polled
//! once, twice, three times, until it runs through:
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

/// Polls `future` whenever it is woken, but not more than `polls` times; then drops it.
///
/// # Cancel safety
/// Dropping it drops `future`.
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
            // Dropped where it waits, rather than when it would be woken.
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
