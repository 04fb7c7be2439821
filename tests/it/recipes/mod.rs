//! Recipes: behaviour, requests and typed errors of each.

mod barrier;
mod double_barrier;
mod latch;
mod multi_lock;
mod rwlock;
mod semaphore;
