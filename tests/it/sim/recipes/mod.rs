//! Recipes under every fault: a sweep with an oracle for each, and mutants. The mutants of
//! read-write locks and semaphores are in `sim/mutants`.

mod barrier;
mod counter;
mod double_barrier;
mod latch;
mod lock_delay;
mod membership;
mod message_queue;
mod multi_lock;
mod prefix_cache;
mod rate_limiter;
mod release_request;
mod rwlock;
mod semaphore;
mod shard_assignment;
mod shared_value;
