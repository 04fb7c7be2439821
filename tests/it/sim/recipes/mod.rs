//! Recipes under every fault: a sweep with an oracle, and mutants, for each.

mod barrier;
mod counter;
mod double_barrier;
mod latch;
mod lock_delay;
mod multi_lock;
mod rate_limiter;
mod release_request;
mod rwlock;
mod semaphore;
mod shard_assignment;
mod shared_value;
