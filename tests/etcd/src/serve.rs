//! Our own services, as a store to test the adapter on.

use coord_core::KvBackend;
use coord_etcd::EtcdBackend;
use coord_server::in_process;

/// The adapter over `backend`: between the two lies everything but the wires.
///
/// # Panics
/// Never: there is a channel.
pub fn adapter(backend: impl KvBackend) -> EtcdBackend {
    let nowhere: [&str; 0] = [];
    let builder = EtcdBackend::builder(nowhere).limits(backend.limits());
    builder.over_channels([in_process(backend)]).expect("one channel is enough")
}
