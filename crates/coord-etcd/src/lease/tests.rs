//! What becomes of streams: a member in the same process, whose streams do as the lease's id says.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coord_core::{ErrorKind, KvBackend};
use etcd_client::Channel;
use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse,
    PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse,
    PbLeaseServer, PbLeaseService, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Request, Response, Status, Streaming};
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt as _, service_fn};

use super::*;
use crate::EtcdBackend;

/// A lease that does not exist.
const GONE: i64 = 404;
/// A lease whose refresh is never answered on the first stream that it is asked for on.
const SLOW: i64 = 13;
/// A lease whose refresh breaks the first stream that it is asked for on.
const FATAL: i64 = 500;

#[derive(Clone, Default)]
struct Member {
    /// How many streams were opened.
    opened: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl PbLeaseService for Member {
    type LeaseKeepAliveStream = BoxStream<'static, Result<PbLeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let first = self.opened.fetch_add(1, Ordering::Relaxed) == 0;
        let answers = request.into_inner().then(move |request| async move {
            let id = request?.id;
            match id {
                SLOW if first => std::future::pending().await,
                FATAL if first => Err(Status::unavailable("etcdserver: no leader")),
                id => {
                    let ttl = if id == GONE { 0 } else { 10 };
                    Ok(PbLeaseKeepAliveResponse { header: None, id, ttl })
                }
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_grant(
        &self,
        _: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn lease_revoke(
        &self,
        _: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn lease_time_to_live(
        &self,
        _: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn lease_leases(
        &self,
        _: Request<PbLeaseLeasesRequest>,
    ) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }
}

/// A backend on one member, and the count of its streams.
fn backend() -> (EtcdBackend, Arc<AtomicUsize>) {
    let member = Member::default();
    let opened = Arc::clone(&member.opened);
    let server = PbLeaseServer::new(member);
    let channel = BoxCloneSyncService::new(service_fn(move |request: http::Request<Body>| {
        let answer = server.clone().oneshot(request);
        async { answer.await.map_err(|never: Infallible| match never {}) }
    }));
    let builder = EtcdBackend::builder::<String>([]);
    (builder.over_channels([Channel::Custom(channel)]).expect("there is a channel"), opened)
}

fn lease(id: i64) -> LeaseId {
    LeaseId::new(id).expect("not zero")
}

#[tokio::test(start_paused = true)]
async fn one_stream_serves_all_leases_in_turn() {
    let (kv, opened) = backend();
    for id in 1..=5 {
        let alive = kv.lease_keep_alive(lease(id)).await.expect("it exists");
        assert_eq!((alive.id, alive.ttl), (lease(id), Duration::from_secs(10)));
    }
    assert_eq!(opened.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn lease_that_is_gone_is_told_and_breaks_nothing() {
    let (kv, opened) = backend();
    for _ in 0..2 {
        kv.lease_keep_alive(lease(1)).await.expect("it exists");
        let error = kv.lease_keep_alive(lease(GONE)).await.expect_err("it does not");
        assert!(matches!(error, Error::LeaseNotFound { lease: Some(id) } if id == lease(GONE)));
    }
    assert_eq!(opened.load(Ordering::Relaxed), 1);
    let (kv, _) = backend();
    let error = kv.lease_keep_alive(lease(GONE)).await.expect_err("on a new stream neither");
    assert_eq!(error.kind(), ErrorKind::LeaseNotFound);
}

#[tokio::test(start_paused = true)]
async fn stream_that_broke_is_opened_again() {
    let (kv, opened) = backend();
    kv.lease_keep_alive(lease(1)).await.expect("on the first stream");
    kv.lease_keep_alive(lease(FATAL)).await.expect("on the second stream");
    kv.lease_keep_alive(lease(1)).await.expect("on the second stream too");
    assert_eq!(opened.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn stream_that_is_silent_gets_half_of_the_time() {
    let (kv, opened) = backend();
    kv.lease_keep_alive(lease(1)).await.expect("on the first stream");
    let start = Instant::now();
    kv.lease_keep_alive(lease(SLOW)).await.expect("on the second stream");
    assert_eq!(start.elapsed(), Duration::from_millis(3500));
    assert_eq!(opened.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn abandoned_refresh_takes_its_stream_along() {
    let (kv, opened) = backend();
    kv.lease_keep_alive(lease(1)).await.expect("on the first stream");
    let abandoned = timeout(Duration::from_secs(1), kv.lease_keep_alive(lease(SLOW)));
    abandoned.await.expect_err("it is not answered");
    let alive = kv.lease_keep_alive(lease(2)).await.expect("on a stream of its own");
    assert_eq!(alive.id, lease(2));
    assert_eq!(opened.load(Ordering::Relaxed), 2);
}
