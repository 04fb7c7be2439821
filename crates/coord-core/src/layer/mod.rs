//! Backends that wrap a backend. Each is held to the whole conformance suite, like any other.

mod prefix;

pub use prefix::PrefixLayer;
