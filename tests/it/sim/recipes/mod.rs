//! Recipes under every fault: a sweep with an oracle, and mutants, for each.

mod counter;
mod lock_delay;
mod release_request;
mod shared_value;
