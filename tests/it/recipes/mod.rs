//! Recipes: behaviour, requests and typed errors of each.

mod barrier;
mod counter;
mod double_barrier;
mod latch;
mod multi_lock;
mod rate_limiter;
mod release_request;
mod rwlock;
mod semaphore;
mod shard_assignment;
mod shared_value;
