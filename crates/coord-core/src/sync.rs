//! Locking a `std::sync::Mutex` whose other user may have panicked.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, poisoned or not.
///
/// Every value behind such a mutex in this crate is consistent between two statements, so a panic
/// in one user, a closure of the caller for example, must not take the others down.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
