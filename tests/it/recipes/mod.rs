//! Recipes: behaviour, requests and typed errors of each.

mod counter;
mod release_request;
mod shared_value;
