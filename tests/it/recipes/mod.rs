//! Recipes: behaviour, requests and typed errors of each.

mod counter;
mod shared_value;
