//! Proof for coordinating code.
