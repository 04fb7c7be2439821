//! The pages of `docs/`, as doctests.
