//! Steps that many tests take.

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

/// One member of the newest etcd there is.
pub(crate) async fn single() -> Cluster {
    Setup::new(Release::newest()).start().await
}

/// A client of its own, with connections of its own, that knows all members.
pub(crate) async fn client(endpoints: &[String]) -> Client {
    Client::new(EtcdBackend::connect(endpoints).await.expect("there are endpoints"))
}

/// A session of `ttl` seconds.
pub(crate) async fn session(client: &Client, ttl: u64) -> Session {
    let builder = Session::builder(client).ttl(secs(ttl)).connect_timeout(secs(30));
    builder.open().await.expect("the store is there")
}

/// Waits for something that can only be asked for, not awaited; panics after a minute.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "a minute has passed without this: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// That a request was refused, for this reason, and surely not applied; returns what was said.
#[track_caller]
pub(crate) fn refused<T>(result: Result<T, Error>, kind: ErrorKind) -> String {
    let Err(error) = result else { panic!("accepted, not refused with {kind:?}") };
    assert_eq!((error.kind(), error.outcome()), (kind, Outcome::NotApplied), "{error}");
    error.to_string()
}
