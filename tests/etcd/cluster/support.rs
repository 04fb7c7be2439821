//! Shared steps: clusters, clients, sessions, and waiting with a time limit.

use std::fmt::Debug;
use std::panic::Location;
use std::time::Duration;

use coord_core::{
    Client, Error, Session,
    error::{ErrorKind, Outcome},
};
use coord_etcd::EtcdBackend;
use coord_etcd_tests::{Cluster, ClusterBuilder, Release};
use tokio::time::{Instant, sleep, timeout};

/// Seconds.
pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A cluster of one member, with the newest etcd release.
pub(crate) async fn single_member() -> Cluster {
    ClusterBuilder::new(Release::newest()).start().await
}

/// A client with its own connections, which prefers the first endpoint.
pub(crate) async fn client(endpoints: &[String]) -> Client {
    Client::new(EtcdBackend::connect(endpoints).await.unwrap())
}

/// A session with a TTL in seconds.
pub(crate) async fn session(client: &Client, ttl: u64) -> Session {
    let builder = Session::builder(client).ttl(secs(ttl)).connect_timeout(secs(30));
    builder.open().await.unwrap()
}

/// The output of `future`. Panics, with the position of the caller, if it takes longer than
/// `limit`.
#[track_caller]
pub(crate) fn within<F: Future>(limit: Duration, future: F) -> impl Future<Output = F::Output> {
    let caller = Location::caller();
    async move {
        let output = timeout(limit, future).await;
        output.unwrap_or_else(|_| panic!("{caller}: not completed within {limit:?}"))
    }
}

/// Waits until the wait queue `name` has `length` entries.
pub(crate) async fn wait_for_queue_length(client: &Client, name: &str, length: usize) {
    let prefix = format!("{name}/");
    let has_length = async || client.get_prefix(prefix.clone()).await.unwrap().len() == length;
    wait_until(&format!("the queue {name} has {length} entries"), has_length).await;
}

/// Polls `waiting` until the wait queue `name` has `length` entries. `waiting` must not complete
/// before.
pub(crate) async fn assert_waits(
    waiting: &mut (impl Future<Output: Debug> + Unpin),
    client: &Client,
    name: &str,
    length: usize,
) {
    tokio::select! {
        biased;
        output = waiting => panic!("{output:?}, but another client holds {name}"),
        () = wait_for_queue_length(client, name, length) => {}
    }
}

/// Polls a condition until it holds. Panics after a minute.
pub(crate) async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Asserts that a request failed with this kind and was not applied. Returns the message.
#[track_caller]
pub(crate) fn assert_refused<T>(result: Result<T, Error>, kind: ErrorKind) -> String {
    let Err(error) = result else { panic!("the request succeeded, expected {kind:?}") };
    assert_eq!((error.kind(), error.outcome()), (kind, Outcome::NotApplied), "{error}");
    error.to_string()
}
