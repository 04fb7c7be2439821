//! Recipes under every fault: a sweep with an oracle, and mutants, for each.

mod barrier;
mod double_barrier;
mod latch;
mod multi_lock;
mod rwlock;
mod semaphore;
