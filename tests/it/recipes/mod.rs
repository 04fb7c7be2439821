//! The recipes: read-write locks and semaphores.

mod rwlock;
mod semaphore;
