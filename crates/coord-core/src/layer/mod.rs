//! Backends that wrap a backend. Each is held to the whole conformance suite, like any other.

mod prefix;
mod trace;

pub use prefix::PrefixLayer;
pub use trace::TraceLayer;
