//! Recipes under every fault: a sweep with an oracle, and mutants, for each.

mod counter;
mod shared_value;
