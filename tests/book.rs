//! Doctests of the pages: every Rust example in the README and in docs/ is compiled, and run unless
//! it needs a server.

/// `README.md`
#[doc = include_str!("../README.md")]
pub mod readme {}

/// `docs/guide/README.md`
#[doc = include_str!("../docs/guide/README.md")]
pub mod guide {}

/// `docs/go.md`
#[doc = include_str!("../docs/go.md")]
pub mod go {}

/// `docs/guide/sessions.md`
#[doc = include_str!("../docs/guide/sessions.md")]
pub mod sessions {}

/// `docs/guide/locks.md`
#[doc = include_str!("../docs/guide/locks.md")]
pub mod locks {}

/// `docs/guide/elections.md`
#[doc = include_str!("../docs/guide/elections.md")]
pub mod elections {}

/// `docs/guide/transactions.md`
#[doc = include_str!("../docs/guide/transactions.md")]
pub mod transactions {}

/// `docs/guide/isolation.md`
#[doc = include_str!("../docs/guide/isolation.md")]
pub mod isolation {}

/// `docs/guide/testing.md`
#[doc = include_str!("../docs/guide/testing.md")]
pub mod testing {}

/// `docs/guide/simulation.md`
#[doc = include_str!("../docs/guide/simulation.md")]
pub mod simulation {}

/// `docs/guide/recipes.md`
#[doc = include_str!("../docs/guide/recipes.md")]
pub mod recipes {}

/// `docs/guide/recipes-data.md`
#[doc = include_str!("../docs/guide/recipes-data.md")]
pub mod recipes_data {}

/// `docs/guide/recipes-locks.md`
#[doc = include_str!("../docs/guide/recipes-locks.md")]
pub mod recipes_locks {}

/// `docs/guide/recipes-rounds.md`
#[doc = include_str!("../docs/guide/recipes-rounds.md")]
pub mod recipes_rounds {}

/// `docs/guide/recipes-work.md`
#[doc = include_str!("../docs/guide/recipes-work.md")]
pub mod recipes_work {}

/// `docs/guide/etcd.md`, with the feature `etcd`
#[cfg(feature = "etcd")]
#[doc = include_str!("../docs/guide/etcd.md")]
pub mod etcd {}

/// `docs/guide/backends.md`
#[doc = include_str!("../docs/guide/backends.md")]
pub mod backends {}

/// `docs/guide/metrics.md`
#[doc = include_str!("../docs/guide/metrics.md")]
pub mod metrics {}
