//! The trait `Layer`: forwards each method of `KvBackend` that a wrapper does not override.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;

use crate::backend::KvBackend;
use crate::error::Result;
use crate::kv::{
    Compact, CompactResponse, Delete, DeleteResponse, LeaseGrant, LeaseGrantResponse, LeaseId,
    LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLive, LeaseTimeToLiveResponse,
    LeasesResponse, Limits, Put, PutResponse, Range, RangeResponse, Txn, TxnResponse, Watch,
    Watcher,
};

/// The return type of an async method under `async_trait`, so that implementations may use it.
type Call<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Defines [`Layer`] with its forwarding methods, and implements `KvBackend` for layers and for
/// shared backends.
macro_rules! forward {
    ($($method:ident($($request:ident: $of:ty)?) -> $response:ty;)*) => {
        /// A backend that wraps another backend. Each method forwards to the [inner](Self::inner)
        /// backend unless it is overridden. Each layer implements [`KvBackend`].
        ///
        /// Implement it with `#[async_trait]`. A forwarded call allocates nothing of its own. The
        /// [module](super) has an example.
        pub trait Layer: Debug + Send + Sync + 'static {
            /// The wrapped backend.
            type Inner: KvBackend + ?Sized;

            /// Returns the wrapped backend.
            fn inner(&self) -> &Self::Inner;

            /// As [`KvBackend::limits`].
            fn limits(&self) -> Limits {
                self.inner().limits()
            }

            $(
                #[doc = concat!("As [`KvBackend::", stringify!($method), "`].")]
                fn $method<'life0, 'async_trait>(
                    &'life0 self
                    $(, $request: $of)?
                ) -> Call<'async_trait, $response>
                where
                    'life0: 'async_trait,
                    Self: 'async_trait,
                {
                    self.inner().$method($($request)?)
                }
            )*
        }

        #[deny(clippy::missing_trait_methods, reason = "a layer forwards or overrides each method")]
        impl<L: Layer + ?Sized> KvBackend for L {
            fn limits(&self) -> Limits {
                Layer::limits(self)
            }

            $(
                fn $method<'life0, 'async_trait>(
                    &'life0 self
                    $(, $request: $of)?
                ) -> Call<'async_trait, $response>
                where
                    'life0: 'async_trait,
                    Self: 'async_trait,
                {
                    Layer::$method(self $(, $request)?)
                }
            )*
        }

        /// A shared backend is a backend.
        #[deny(clippy::missing_trait_methods, reason = "a provided method hides an override")]
        impl<B: KvBackend + ?Sized> KvBackend for Arc<B> {
            fn limits(&self) -> Limits {
                (**self).limits()
            }

            $(
                fn $method<'life0, 'async_trait>(
                    &'life0 self
                    $(, $request: $of)?
                ) -> Call<'async_trait, $response>
                where
                    'life0: 'async_trait,
                    Self: 'async_trait,
                {
                    (**self).$method($($request)?)
                }
            )*
        }
    };
}

forward! {
    range(request: Range) -> RangeResponse;
    txn(request: Txn) -> TxnResponse;
    watch(request: Watch) -> Watcher;
    lease_grant(request: LeaseGrant) -> LeaseGrantResponse;
    lease_keep_alive(id: LeaseId) -> LeaseKeepAliveResponse;
    lease_revoke(id: LeaseId) -> LeaseRevokeResponse;
    lease_time_to_live(request: LeaseTimeToLive) -> LeaseTimeToLiveResponse;
    leases() -> LeasesResponse;
    compact(request: Compact) -> CompactResponse;
    put(request: Put) -> PutResponse;
    delete(request: Delete) -> DeleteResponse;
}
