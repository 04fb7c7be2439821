//! Helpers that many tests share.

use std::time::Duration;

use coord_core::{
    Client, Error, Session,
    error::{ErrorKind, Outcome},
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::{Cluster, Release, Setup};
use tokio::time::{Instant, sleep};

/// Seconds.
pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A cluster of one member, with the newest etcd release.
pub(crate) async fn single() -> Cluster {
    Setup::new(Release::newest()).start().await
}

/// A client with connections of its own, for all members.
pub(crate) async fn client(endpoints: &[String]) -> Client {
    Client::new(EtcdBackend::connect(endpoints).await.expect("there are endpoints"))
}

/// A session of `ttl` seconds.
pub(crate) async fn session(client: &Client, ttl: u64) -> Session {
    let builder = Session::builder(client).ttl(secs(ttl)).connect_timeout(secs(30));
    builder.open().await.expect("the store is there")
}

/// Polls a condition until it holds. Panics after a minute.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Checks that a request was refused with this kind and not applied. Returns the message.
#[track_caller]
pub(crate) fn refused<T>(result: Result<T, Error>, kind: ErrorKind) -> String {
    let Err(error) = result else { panic!("accepted, not refused with {kind:?}") };
    assert_eq!((error.kind(), error.outcome()), (kind, Outcome::NotApplied), "{error}");
    error.to_string()
}
