//! Recipes under every fault: a sweep with an oracle, and mutants, for each.

mod barrier;
mod counter;
mod double_barrier;
mod latch;
mod lock_delay;
mod membership;
mod multi_lock;
mod prefix_cache;
mod release_request;
mod rwlock;
mod semaphore;
mod shared_value;
