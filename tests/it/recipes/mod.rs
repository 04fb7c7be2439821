//! Recipes: behaviour, requests and typed errors of each.

mod barrier;
mod counter;
mod double_barrier;
mod latch;
mod membership;
mod multi_lock;
mod prefix_cache;
mod release_request;
mod rwlock;
mod semaphore;
mod shared_value;
