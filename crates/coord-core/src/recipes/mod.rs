//! Recipes: coordination primitives that are built on the wait queue or on transactions.
//!
//! | recipe | what it is |
//! |---|---|
//! | [`RwLock`] | a lock with many readers, or one writer |
//! | [`Semaphore`] | a limited number of permits, of which each holder has one or more |

mod rwlock;
mod semaphore;

pub use rwlock::{ReadGuard, RwLock, UpgradeError, UpgradeFailure, WriteGuard};
pub use semaphore::{Semaphore, SemaphoreError, SemaphorePermits};
