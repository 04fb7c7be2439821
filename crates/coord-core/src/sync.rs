//! Locking a `std::sync::Mutex` that may be poisoned.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, also if it is poisoned.
///
/// In coord every value behind such a mutex is consistent after each statement. So a panic of
/// one user, for example in a closure of the caller, must not make the lock fail for other users.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
