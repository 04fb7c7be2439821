//! The etcd adapter: [`EtcdBackend`], a [`KvBackend`] on an etcd cluster, 3.4 to 3.6.
//!
//! The adapter translates requests for the client crate `etcd-client`, and adds only robustness: it
//! uses all endpoints, resends a request to the next endpoint if it was not applied, and reports
//! the outcome of the request with every error.
//!
//! ```no_run
//! use coord_core::{Client, layer::PrefixLayer};
//! use coord_etcd::EtcdBackend;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> coord_core::Result<()> {
//! let etcd = EtcdBackend::connect(["a.example:2379", "b.example:2379"]).await?;
//! let client = Client::new(etcd.clone());
//! client.put("hello", "world").await?;
//!
//! // A namespace is a layer, as over any other backend.
//! let mine = Client::new(PrefixLayer::new(etcd, "my-app/"));
//! mine.put("hello", "to myself").await?;
//! # Ok(())
//! # }
//! ```
//!
//! The modules, from the outside in:
//!
//! - this file: the calls of the trait;
//! - `connect`, `options`, `config` and `tls`: the builder, its options and their errors;
//!   [`environment`]: the same options from the variables of `etcdctl`;
//! - `preflight`: the check of a request before it is sent, and the request context for errors;
//! - `history`: detects that the history of the store was replaced;
//! - `watch`: all watches of a backend, on a shared watch stream;
//! - `lease`: keep-alive streams;
//! - `endpoints`: failover and retries; `abandoned`: reports requests that callers abandon;
//! - `link`, `address` and `connector`: one endpoint, its login, and how it is dialled;
//! - `connections` and `coalesce`: the connections to a member, and write coalescing;
//! - `delivery`: whether a connection took a request, and responses that are not gRPC;
//! - `error`, `causes`, `denied` and `not_tls`: errors with outcomes and retry decisions;
//! - [`wire`]: the translation from and to etcd's messages.

mod abandoned;
mod address;
mod causes;
mod coalesce;
mod config;
mod connect;
mod connections;
mod connector;
mod delivery;
mod denied;
mod endpoints;
pub mod environment;
mod error;
mod history;
mod lease;
mod link;
mod not_tls;
mod options;
mod preflight;
mod tls;
mod watch;
pub mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use coord_core::{
    Error, KvBackend, Result,
    error::Outcome,
    kv::{
        Compact, CompactResponse, Delete, DeleteResponse, Header, LeaseGrant, LeaseGrantResponse,
        LeaseId, LeaseKeepAliveResponse, LeaseRevokeResponse, LeaseTimeToLive,
        LeaseTimeToLiveResponse, LeasesResponse, Limits, Op, Put, PutResponse, Range,
        RangeResponse, Revision, Txn, TxnResponse, Watch, Watcher,
    },
};

pub use config::ConfigError;
pub use connect::EtcdBuilder;
use denied::{KeyAccess, ListLeases, Revoke};
use endpoints::Endpoints;
use error::{RequestContext, backend_error};
use history::History;
use lease::KeepAlivePool;
use link::{Endpoint, Link};
use options::{Login, Options};
use preflight::{Preflight, RequestSize};
pub use tls::Tls;
use watch::Watches;
use wire::{FromWire, Malformed, send};

/// A backend on an etcd cluster.
///
/// Clones share the connection to a member, or several (see [`EtcdBuilder::connections`]). The
/// connections run on the tokio runtime that dialled them. After that runtime has shut down, the
/// next call dials again, and watches that were open have ended with an error.
///
/// # Limits
/// - Transactions may be nested 48 levels deep. A deeper one is refused with `TxnTooDeep`.
/// - The client reads the keys of one lease, and the list of all leases, up to 4 MiB. Other
///   responses have no limit.
/// - etcd does not state the key, lease or revision that an error is about. The error names it only
///   where the request contains a single candidate.
///
/// Source: `docs/etcd-contract.md` §1 to §9.
#[derive(Clone, Debug)]
pub struct EtcdBackend {
    shared: Arc<Shared>,
}

/// The state that all clones share.
#[derive(Debug)]
struct Shared {
    endpoints: Arc<Endpoints>,
    preflight: Preflight,
    keep_alives: KeepAlivePool,
    watches: Watches,
    history: History,
}

impl EtcdBackend {
    /// Connects to the cluster with these endpoints, without a login and without TLS options.
    ///
    /// An endpoint is `host:port`, or a URL with the scheme `http`, `https`, `unix` or `unixs`.
    ///
    /// # Errors
    /// As [`EtcdBuilder::connect`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub async fn connect<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E> + Send,
    ) -> Result<Self> {
        Self::builder(endpoints).connect().await
    }

    /// Configures the connection to the cluster with these endpoints.
    pub fn builder<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> EtcdBuilder {
        EtcdBuilder::new(endpoints)
    }

    /// A backend on the endpoints of `options`, of which at least one has responded.
    pub(crate) async fn open(options: Options) -> Result<Self> {
        let tls = link::tls_config(&options)?;
        let addresses = options.endpoints.iter().enumerate();
        let endpoints = addresses
            .map(|(number, address)| Endpoint::network(number, address, &options, tls.as_ref()));
        let backend = Self::over(endpoints.collect::<Result<_>>()?, options)?;
        backend.shared.endpoints.reach().await?;
        Ok(backend)
    }

    /// A backend on endpoints that are not dialled yet.
    pub(crate) fn over(all: Vec<Endpoint>, options: Options) -> Result<Self> {
        if all.is_empty() {
            let reason = "the list of endpoints is empty: give at least one".to_owned();
            let source = etcd_client::Error::InvalidArgs(reason);
            return Err(backend_error(Outcome::NotApplied, source));
        }
        if options.connections == 0 {
            return Err(ConfigError::Connections { connections: 0 }.into());
        }
        let preflight = Preflight { limits: options.limits, timeout: options.request_timeout };
        let endpoints = Arc::new(Endpoints::new(all, options));
        let watches = Watches::new(Arc::clone(&endpoints));
        let keep_alives = KeepAlivePool::default();
        let history = History::default();
        Ok(Self {
            shared: Arc::new(Shared { endpoints, preflight, keep_alives, watches, history }),
        })
    }

    /// Ends the watches if a linearizable response shows that the store's history was replaced.
    /// `newest` was the newest revision when the request was sent.
    fn check_history<T>(
        &self,
        newest: Revision,
        response: &Result<T>,
        header: impl Fn(&T) -> Header,
    ) {
        let Ok(response) = response else { return };
        if let Some(replaced) = self.shared.history.note(newest, header(response).revision) {
            self.shared.watches.end_all(replaced);
        }
    }

    fn login(&self) -> Option<&Login> {
        self.shared.endpoints.options().login.as_ref()
    }

    /// Adds what the error lacks from the request: its size, or the user and the keys.
    fn complete(&self, error: Error, request: &(impl RequestSize + KeyAccess)) -> Error {
        denied::complete(request.with_size(error), self.login(), request)
    }

    /// Sends a request to the endpoints in turn until one of them responds, and translates the
    /// response.
    async fn call<T, W, S, F>(&self, context: RequestContext, send: S) -> Result<T>
    where
        T: FromWire<W>,
        S: Fn(Arc<Link>) -> F + Sync,
        F: Future<Output = Result<W, etcd_client::Error>> + Send,
    {
        // A malformed response is handled like any other failure of the endpoint.
        let send = &send;
        let read = |link| async move { T::from_wire(send(link).await?).map_err(malformed_status) };
        self.shared.endpoints.call(&context, read).await
    }
}

/// The client crate's error for a response that does not follow etcd's protocol.
fn malformed_status(malformed: Malformed) -> etcd_client::Error {
    let mut status = tonic::Status::internal(malformed.to_string());
    status.set_source(Arc::new(malformed));
    etcd_client::Error::GRpcStatus(status)
}

/// Whether one member can serve the transaction without a leader: it contains only serializable
/// reads.
fn needs_no_leader(txn: &Txn) -> bool {
    let mut ops = txn.success.iter().chain(&txn.failure).peekable();
    ops.peek().is_some() && ops.all(|op| matches!(op, Op::Range(range) if range.serializable))
}

/// Whether etcd serves a transaction as a serializable read: every operation is a serializable
/// range, or there is no operation. Then the response may be older than the newest revision.
///
/// Source: etcd 3.5 `server/etcdserver/v3_server.go`, `isTxnSerializable`.
fn is_serializable(txn: &Txn) -> bool {
    let mut ops = txn.success.iter().chain(&txn.failure);
    ops.all(|op| matches!(op, Op::Range(range) if range.serializable))
}

#[async_trait]
impl KvBackend for EtcdBackend {
    async fn range(&self, request: Range) -> Result<RangeResponse> {
        let context = self.shared.preflight.range(&request)?;
        let (request, newest) = (&request, self.shared.history.newest());
        let call = self.call::<RangeResponse, _, _, _>(context, |link| async move {
            let mut kv = if request.serializable {
                link.kv_without_leader().await?
            } else {
                link.kv.clone()
            };
            let (key, options) = send::range(request);
            Ok(kv.get(key, Some(options)).await?.0)
        });
        let response = call.await;
        if !request.serializable {
            self.check_history(newest, &response, |response| response.header);
        }
        response.map_err(|error| self.complete(error, request))
    }

    async fn txn(&self, request: Txn) -> Result<TxnResponse> {
        let context = self.shared.preflight.txn(&request)?;
        let (request, newest) = (&request, self.shared.history.newest());
        let without_leader = needs_no_leader(request);
        let call = self.call::<TxnResponse, _, _, _>(context, |link| async move {
            let mut kv =
                if without_leader { link.kv_without_leader().await? } else { link.kv.clone() };
            Ok(kv.txn(send::txn(request)).await?.0)
        });
        let response = call.await;
        if !is_serializable(request) {
            self.check_history(newest, &response, |response| response.header);
        }
        response.map_err(|error| self.complete(error, request))
    }

    async fn watch(&self, request: Watch) -> Result<Watcher> {
        let watch = self.shared.watches.watch(request.clone()).await;
        watch.map_err(|error| denied::complete(error, self.login(), &request))
    }

    async fn lease_grant(&self, request: LeaseGrant) -> Result<LeaseGrantResponse> {
        let context = self.shared.preflight.grant(request)?;
        let (ttl, options) = send::lease_grant(request);
        let options = &options;
        self.call(context, |link| async move {
            Ok(link.lease.clone().grant(ttl, Some(options.clone())).await?.0)
        })
        .await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseKeepAliveResponse> {
        self.shared.keep_alives.refresh(&self.shared.endpoints, id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<LeaseRevokeResponse> {
        let context = RequestContext { lease: Some(id), ..self.shared.preflight.change() };
        let call = self
            .call(context, |link| async move { Ok(link.lease.clone().revoke(id.get()).await?.0) });
        call.await.map_err(|error| denied::complete(error, self.login(), &Revoke(id)))
    }

    async fn lease_time_to_live(
        &self,
        request: LeaseTimeToLive,
    ) -> Result<LeaseTimeToLiveResponse> {
        let context = RequestContext { lease: Some(request.id), ..self.shared.preflight.read() };
        let (id, options) = send::lease_time_to_live(request);
        let options = &options;
        let call = self.call(context, |link| async move {
            Ok(link.lease.clone().time_to_live(id, Some(options.clone())).await?.0)
        });
        call.await.map_err(|error| denied::complete(error, self.login(), &request))
    }

    async fn leases(&self) -> Result<LeasesResponse> {
        let context = self.shared.preflight.read();
        let call =
            self.call(context, |link| async move { Ok(link.lease.clone().leases().await?.0) });
        call.await.map_err(|error| denied::complete(error, self.login(), &ListLeases))
    }

    async fn compact(&self, request: Compact) -> Result<CompactResponse> {
        let context = self.shared.preflight.compact(request);
        let (revision, options) = send::compact(request);
        let options = &options;
        self.call(context, |link| async move {
            Ok(link.kv.clone().compact(revision, Some(options.clone())).await?.0)
        })
        .await
    }

    fn limits(&self) -> Limits {
        self.shared.preflight.limits
    }

    async fn put(&self, request: Put) -> Result<PutResponse> {
        let context = self.shared.preflight.put(&request)?;
        let (request, newest) = (&request, self.shared.history.newest());
        let call = self.call::<PutResponse, _, _, _>(context, |link| async move {
            let (key, value, options) = send::put(request);
            Ok(link.kv.clone().put(key, value, Some(options)).await?.0)
        });
        let response = call.await;
        self.check_history(newest, &response, |response| response.header);
        response.map_err(|error| self.complete(error, request))
    }

    async fn delete(&self, request: Delete) -> Result<DeleteResponse> {
        let context = self.shared.preflight.delete(&request)?;
        let (request, newest) = (&request, self.shared.history.newest());
        let call = self.call::<DeleteResponse, _, _, _>(context, |link| async move {
            let (key, options) = send::delete(request);
            Ok(link.kv.clone().delete(key, Some(options)).await?.0)
        });
        let response = call.await;
        self.check_history(newest, &response, |response| response.header);
        response.map_err(|error| self.complete(error, request))
    }
}

#[cfg(test)]
mod tests {
    //! Tests of the futures of requests, and of what counts as a serializable read.

    use std::time::Duration;

    use coord_core::kv::Put;

    use super::*;

    /// A future contains those of the functions that it calls, and each move copies it whole. The
    /// future of a put had 61 KB, because it contained that of a dial three times, and copying it
    /// took a quarter of the client's processor time.
    #[tokio::test]
    async fn futures_of_requests_are_small() {
        let channel = tonic::transport::Endpoint::from_static("http://localhost:1").connect_lazy();
        let channels = [etcd_client::Channel::Tonic(channel)];
        let backend = EtcdBackend::builder([] as [String; 0]).over_channels(channels).unwrap();
        let (lease, grant) = (LeaseId::new(1).unwrap(), LeaseGrant::new(Duration::from_secs(1)));
        let sizes = [
            ("range", size_of_val(&*backend.range(Range::new("a")))),
            ("txn", size_of_val(&*backend.txn(Txn::new()))),
            ("put", size_of_val(&*backend.put(Put::new("a", "1")))),
            ("delete", size_of_val(&*backend.delete(Delete::new("a")))),
            ("lease_grant", size_of_val(&*backend.lease_grant(grant))),
            ("lease_keep_alive", size_of_val(&*backend.lease_keep_alive(lease))),
            ("watch", size_of_val(&*backend.watch(Watch::new("a")))),
        ];
        for (request, size) in sizes {
            assert!(size < 4_096, "{request}: {size} bytes");
        }
    }

    /// Regression: the response to a transaction without operations was taken for linearizable, and
    /// an older one ended all watches.
    #[test]
    fn txn_of_serializable_ranges_or_nothing_is_serializable() {
        let read = || Range::new("k");
        assert!(is_serializable(&Txn::new()));
        assert!(is_serializable(&Txn::new().and_then([read().serializable()])));
        assert!(!is_serializable(&Txn::new().and_then([read(), read().serializable()])));
        assert!(!is_serializable(&Txn::new().or_else([read()])));
        assert!(!is_serializable(&Txn::new().and_then([Put::new("k", "v")])));
    }
}
