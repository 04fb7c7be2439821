//! Recipes: smaller primitives, each built on the wait queue, on transactions or on the client.
//!
//! | to | use | requests |
//! |---|---|---|
//! | count exactly, with the new value | [`Counter`] | read 1, add 2 |
//! | count under contention | [`StripedCounter`] | read 1, add 2 |
//! | share a value that several processes change | [`SharedValue`] | read 1, set 1, update 2 |
//!
//! `docs/guide/recipes.md` has the guarantee and the hazards of each, and the layout of its keys.

pub mod counter;
pub mod shared_value;

pub use crate::follow::{Gap, GapCause};
pub use counter::{Counter, CounterError, StripedCounter};
pub use shared_value::{SharedValue, ValueSwap, Values};
