//! Opening a session: refused settings, retries, and the number of requests.

use std::time::Duration;

use coord_core::{Client, Error, Session, error::ErrorKind, kv::LeaseGrant};
use coord_mem::MemBackend;
use coord_testkit::{Action, Recorder};
use tokio::time::sleep;

use crate::support::{intercepted, is_keep_alive, nth, only, secs, session_on, timed};

#[tokio::test(start_paused = true)]
async fn invalid_ttl_is_refused_without_a_request() {
    let record = Recorder::new();
    let kv = intercepted(&Client::new(MemBackend::new()), record.clone());
    for (ttl, kind) in [
        (Duration::ZERO, ErrorKind::InvalidTtl),
        (Duration::from_millis(1500), ErrorKind::InvalidTtl),
        (secs(9_000_000_001), ErrorKind::TtlTooLarge),
    ] {
        let opened = Session::builder(&kv).ttl(ttl).open().await;
        assert_eq!(opened.unwrap_err().kind(), kind, "{ttl:?}");
    }
    assert_eq!(record.take().names(), "");
}

#[tokio::test(start_paused = true)]
async fn open_retries_until_its_connect_timeout() {
    let store = Client::new(MemBackend::new());
    session_on(intercepted(&store, nth("lease_grant", 1, 3, Action::DropRequest))).await;

    let unresponsive = intercepted(&store, only("lease_grant", Action::Hang));
    let builder = Session::builder(&unresponsive).connect_timeout(secs(3));
    let (opened, after) = timed(builder.open()).await;
    assert!(matches!(opened, Err(Error::Timeout { after }) if after == secs(3)), "{opened:?}");
    assert_eq!(after, secs(3));

    let down = intercepted(&store, only("lease_grant", Action::DropRequest));
    let opened = Session::builder(&down).connect_timeout(secs(3)).open().await;
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Unavailable, "the cause, not the timeout");
}

#[tokio::test(start_paused = true)]
async fn adopting_a_missing_lease_fails() {
    let store = Client::new(MemBackend::new());
    let lease = store.lease_grant(LeaseGrant::new(secs(5))).await.unwrap().id;
    store.lease_revoke(lease).await.unwrap();
    let opened = Session::builder(&Client::new(store)).lease(lease).open().await;
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::LeaseNotFound);
}

/// Regression: `open` refused an invalid TTL although an adopted lease keeps its own.
#[tokio::test(start_paused = true)]
async fn ttl_is_not_checked_when_a_lease_is_adopted() {
    let store = Client::new(MemBackend::new());
    let lease = store.lease_grant(LeaseGrant::new(secs(5))).await.unwrap().id;
    for ttl in [Duration::ZERO, Duration::from_millis(1500), secs(9_000_000_001)] {
        let adopter = Session::builder(&store).ttl(ttl).lease(lease).open().await.unwrap();
        assert_eq!(adopter.ttl(), secs(5));
    }
}

/// Later sessions of the supervisor use the TTL.
#[tokio::test(start_paused = true)]
async fn supervisor_that_adopts_a_lease_checks_its_ttl() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let lease = store.lease_grant(LeaseGrant::new(secs(5))).await.unwrap().id;
    let kv = intercepted(&store, record.clone());
    let supervised = Session::builder(&kv).ttl(Duration::ZERO).lease(lease).supervise().await;
    assert_eq!(supervised.unwrap_err().kind(), ErrorKind::InvalidTtl);
    assert_eq!(record.take().names(), "");
}

#[tokio::test(start_paused = true)]
async fn session_cost_is_open_keep_alives_and_close() {
    let record = Recorder::new();
    let session = session_on(intercepted(&Client::new(MemBackend::new()), record.clone())).await;
    assert_eq!(record.take().names(), "lease_grant");
    sleep(secs(100)).await;
    let calls = record.take();
    assert!(calls.0.iter().all(is_keep_alive), "{calls}");
    assert!((29..=31).contains(&calls.0.len()), "{} keep-alives in 100 s", calls.0.len());
    session.close().await.unwrap();
    assert_eq!(record.take().names(), "lease_revoke");
}
