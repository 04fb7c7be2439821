//! Tests of the keep-alive streams, on a member in the same process. The id of a lease decides how
//! the member responds to its keep-alives.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use coord_core::{
    KvBackend,
    error::{ErrorKind, Outcome},
    kv::LeaseTimeToLive,
};
use etcd_client::Channel;
use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse,
    PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse,
    PbLeaseServer, PbLeaseService, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Request, Response, Status, Streaming};
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt as _, service_fn};

use super::*;
use crate::EtcdBackend;

/// A lease that does not exist.
const MISSING_LEASE: i64 = 404;
/// A lease whose keep-alive receives no response on the first stream of the member.
const SILENT_LEASE: i64 = 13;
/// A lease whose keep-alive breaks the first stream of the member.
const BREAKING_LEASE: i64 = 500;
/// A lease with keys of 4 MiB; other leases have a little less.
const LARGE_LEASE: i64 = 4;

/// A member that serves only leases.
#[derive(Clone, Default)]
struct Member {
    /// How many streams were opened.
    opened: Arc<AtomicUsize>,
    /// The delay of each response.
    delay_ms: Arc<AtomicU64>,
}

impl Member {
    fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    fn set_delay(&self, delay: Duration) {
        let millis = delay.as_millis().try_into().expect("the delay fits into 64 bits");
        self.delay_ms.store(millis, Ordering::Relaxed);
    }

    fn channel(&self) -> Channel {
        let server = PbLeaseServer::new(self.clone());
        Channel::Custom(BoxCloneSyncService::new(service_fn(
            move |request: http::Request<Body>| {
                let response = server.clone().oneshot(request);
                async { response.await.map_err(|never: Infallible| match never {}) }
            },
        )))
    }
}

#[tonic::async_trait]
impl PbLeaseService for Member {
    type LeaseKeepAliveStream = BoxStream<'static, Result<PbLeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let first = self.opened.fetch_add(1, Ordering::Relaxed) == 0;
        let delay_ms = Arc::clone(&self.delay_ms);
        let responses = request.into_inner().then(move |request| {
            let delay = Duration::from_millis(delay_ms.load(Ordering::Relaxed));
            async move {
                if !delay.is_zero() {
                    sleep(delay).await;
                }
                let id = request?.id;
                match id {
                    SILENT_LEASE if first => std::future::pending().await,
                    BREAKING_LEASE if first => Err(Status::unavailable("etcdserver: no leader")),
                    id => {
                        let ttl = if id == MISSING_LEASE { 0 } else { 10 };
                        Ok(PbLeaseKeepAliveResponse { header: None, id, ttl })
                    }
                }
            }
        });
        Ok(Response::new(responses.boxed()))
    }

    async fn lease_grant(
        &self,
        _: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        Err(Status::unimplemented("not used by these tests"))
    }

    async fn lease_revoke(
        &self,
        _: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        Err(Status::unimplemented("not used by these tests"))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let delay = Duration::from_millis(self.delay_ms.load(Ordering::Relaxed));
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let id = request.into_inner().id;
        let keys = vec![vec![0; 1 << 10]; if id == LARGE_LEASE { 4 << 10 } else { 4000 }];
        let response =
            PbLeaseTimeToLiveResponse { id, ttl: 9, granted_ttl: 10, keys, header: None };
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        _: Request<PbLeaseLeasesRequest>,
    ) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        Err(Status::unimplemented("not used by these tests"))
    }
}

/// A backend on one member, and the count of its streams.
fn backend() -> (EtcdBackend, Arc<AtomicUsize>) {
    let member = Member::default();
    (over([&member]), member.opened)
}

fn over<const N: usize>(members: [&Member; N]) -> EtcdBackend {
    let builder = EtcdBackend::builder::<String>([]);
    builder.over_channels(members.map(Member::channel)).expect("there is a channel")
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
async fn missing_lease_is_reported_and_the_stream_stays_open() {
    let (kv, opened) = backend();
    for _ in 0..2 {
        kv.lease_keep_alive(lease(1)).await.expect("it exists");
        let error = kv.lease_keep_alive(lease(MISSING_LEASE)).await.expect_err("it does not");
        assert!(
            matches!(error, Error::LeaseNotFound { lease: Some(id) } if id == lease(MISSING_LEASE))
        );
    }
    assert_eq!(opened.load(Ordering::Relaxed), 1);
    let (kv, _) = backend();
    let error =
        kv.lease_keep_alive(lease(MISSING_LEASE)).await.expect_err("on a new stream neither");
    assert_eq!(error.kind(), ErrorKind::LeaseNotFound);
}

#[tokio::test(start_paused = true)]
async fn broken_stream_is_reopened() {
    let (kv, opened) = backend();
    kv.lease_keep_alive(lease(1)).await.expect("on the first stream");
    kv.lease_keep_alive(lease(BREAKING_LEASE)).await.expect("on the second stream");
    kv.lease_keep_alive(lease(1)).await.expect("on the second stream too");
    assert_eq!(opened.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn silent_stream_gets_half_of_the_timeout() {
    let (kv, opened) = backend();
    kv.lease_keep_alive(lease(1)).await.expect("on the first stream");
    let start = Instant::now();
    kv.lease_keep_alive(lease(SILENT_LEASE)).await.expect("on the second stream");
    assert_eq!(start.elapsed(), Duration::from_millis(3500));
    assert_eq!(opened.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn abandoned_refresh_drops_its_stream() {
    let (kv, opened) = backend();
    kv.lease_keep_alive(lease(1)).await.expect("on the first stream");
    let abandoned = timeout(Duration::from_secs(1), kv.lease_keep_alive(lease(SILENT_LEASE)));
    abandoned.await.expect_err("there is no response");
    let alive = kv.lease_keep_alive(lease(2)).await.expect("on a stream of its own");
    assert_eq!(alive.id, lease(2));
    assert_eq!(opened.load(Ordering::Relaxed), 2);
}

/// A delay of responses that exceeds every timeout.
const ENDLESS_DELAY: Duration = Duration::from_secs(1_000_000);

/// Regression: a session with a short TTL was lost although another member was healthy. It abandons
/// a keep-alive long before half of the request timeout, and has time for two or three. The first
/// used an idle stream, the second another stream to the same member, and only then was that member
/// avoided.
#[tokio::test(start_paused = true)]
async fn abandoned_keep_alive_is_followed_on_another_member() {
    let (frozen, healthy) = (Member::default(), Member::default());
    let kv = over([&frozen, &healthy]);
    let keep_alives = &kv.shared.keep_alives;
    kv.lease_keep_alive(lease(1)).await.expect("on the first stream");
    let first = keep_alives.take().expect("it is idle");
    kv.lease_keep_alive(lease(2)).await.expect("on the second stream");
    keep_alives.put(first);
    frozen.set_delay(ENDLESS_DELAY);
    let abandoned = timeout(Duration::from_millis(1500), kv.lease_keep_alive(lease(1)));
    abandoned.await.expect_err("there is no response");
    let start = Instant::now();
    kv.lease_keep_alive(lease(1)).await.expect("the other member is healthy");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!((frozen.opened(), healthy.opened()), (2, 1));
}

/// Regression: streams to healthy members were tried with no time left and dropped one by one, and
/// their members avoided, so the keep-alive returned to the frozen member.
#[tokio::test(start_paused = true)]
async fn silent_stream_does_not_affect_other_members() {
    let (frozen, healthy) = (Member::default(), Member::default());
    let kv = over([&frozen, &healthy]);
    let keep_alives = &kv.shared.keep_alives;
    kv.lease_keep_alive(lease(1)).await.expect("on the first member");
    let first = keep_alives.take().expect("it is idle");
    kv.shared.endpoints.avoid(0);
    kv.lease_keep_alive(lease(1)).await.expect("on the second member");
    keep_alives.put(first);
    frozen.set_delay(ENDLESS_DELAY);
    healthy.set_delay(Duration::from_millis(5));
    let start = Instant::now();
    kv.lease_keep_alive(lease(1)).await.expect("the second member is healthy");
    assert_eq!(start.elapsed(), Duration::from_millis(3510), "half of the time, and a new stream");
    assert_eq!((frozen.opened(), keep_alives.idle().len()), (1, 2));
}

/// Regression: after half of the timeout on a silent idle stream, the call had the whole timeout
/// again.
#[tokio::test(start_paused = true)]
async fn keep_alive_ends_within_the_request_timeout() {
    let member = Member::default();
    let kv = over([&member]);
    kv.lease_keep_alive(lease(1)).await.expect("it exists");
    member.set_delay(ENDLESS_DELAY);
    let start = Instant::now();
    let error = kv.lease_keep_alive(lease(1)).await.expect_err("there is no response");
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Timeout, Duration::from_secs(7)));
}

/// The client crate has no option for this limit of tonic, as it has for keys and watches.
#[tokio::test(start_paused = true)]
async fn keys_of_a_lease_are_read_up_to_four_mib() {
    let (kv, _) = backend();
    let keys = |id| kv.lease_time_to_live(LeaseTimeToLive { id: lease(id), keys: true });
    let response = keys(1).await.expect("they fit").lease.expect("it exists");
    assert_eq!(response.keys.len(), 4000);
    let error = keys(LARGE_LEASE).await.expect_err("they do not");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Backend, Outcome::NotApplied));
}
