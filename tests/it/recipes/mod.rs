//! Recipes: behaviour, requests and typed errors of each.

mod barrier;
mod counter;
mod double_barrier;
mod errors;
mod latch;
mod membership;
mod message_queue;
mod multi_lock;
mod prefix_cache;
mod rate_limiter;
mod release_request;
mod resume;
mod rwlock;
mod semaphore;
mod shard_assignment;
mod shared_value;
