//! A macro that implements `KvBackend` for layers that treat every call alike.
//!
//! Without the macro, [`Intercept`](crate::Intercept) and the backend of a
//! [`Process`](crate::Process) would repeat the same twelve methods. The macro converts each call,
//! except that of `limits`, to a [`Call`](crate::Call) and a future that makes the call on the
//! wrapped backend. The layer chooses when to poll that future.

/// Implements `KvBackend` for a layer `$layer<B>` with these members:
///
/// - `inner: Arc<B>`: the wrapped backend.
/// - `async fn call(&self, Call, request) -> Result<T>`: handles one call. `request` is the future
///   that makes the call on `inner`. The method chooses whether and when to poll `request`, and
///   returns the response to the caller.
/// - `fn wrap(&self, Watcher) -> Watcher`: wraps the watcher of a successful registration.
macro_rules! forward_calls {
    ($layer:ident) => {
        $crate::forward::forward_calls! {
            $layer:
            range(request: coord_core::kv::Range) -> coord_core::kv::RangeResponse
                = $crate::Call::Range(request.clone());
            put(request: coord_core::kv::Put) -> coord_core::kv::PutResponse
                = $crate::Call::Put(request.clone());
            delete(request: coord_core::kv::Delete) -> coord_core::kv::DeleteResponse
                = $crate::Call::Delete(request.clone());
            txn(request: coord_core::kv::Txn) -> coord_core::kv::TxnResponse
                = $crate::Call::Txn(request.clone());
            lease_grant(request: coord_core::kv::LeaseGrant) -> coord_core::kv::LeaseGrantResponse
                = $crate::Call::LeaseGrant(request);
            lease_keep_alive(id: coord_core::kv::LeaseId) -> coord_core::kv::LeaseKeepAliveResponse
                = $crate::Call::LeaseKeepAlive(id);
            lease_revoke(id: coord_core::kv::LeaseId) -> coord_core::kv::LeaseRevokeResponse
                = $crate::Call::LeaseRevoke(id);
            lease_time_to_live(request: coord_core::kv::LeaseTimeToLive)
                -> coord_core::kv::LeaseTimeToLiveResponse
                = $crate::Call::LeaseTimeToLive(request);
            leases() -> coord_core::kv::LeasesResponse = $crate::Call::Leases;
            compact(request: coord_core::kv::Compact) -> coord_core::kv::CompactResponse
                = $crate::Call::Compact(request);
        }
    };
    ($layer:ident: $(
        $method:ident($($request:ident: $of:ty)?) -> $response:ty = $call:expr;
    )*) => {
        #[async_trait::async_trait]
        #[deny(clippy::missing_trait_methods, reason = "every call goes through the layer")]
        impl<B: KvBackend> KvBackend for $layer<B> {
            $(async fn $method(&self $(, $request: $of)?) -> coord_core::Result<$response> {
                let inner = std::sync::Arc::clone(&self.inner);
                let call = $call;
                self.call(call, async move { inner.$method($($request)?).await }).await
            })*

            async fn watch(
                &self,
                request: coord_core::kv::Watch,
            ) -> coord_core::Result<coord_core::kv::Watcher> {
                let inner = std::sync::Arc::clone(&self.inner);
                let call = $crate::Call::Watch(request.clone());
                let watch = self.call(call, async move { inner.watch(request).await }).await?;
                Ok(self.wrap(watch))
            }

            fn limits(&self) -> coord_core::kv::Limits {
                self.inner.limits()
            }
        }
    };
}

pub(crate) use forward_calls;
