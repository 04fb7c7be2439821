//! Sweeps of the recipes under every fault.

mod rwlock;
mod semaphore;
