//! The server under test, a real etcd or ours, and a client of its Lock and Election services.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use coord_etcd::EtcdBackend;
use coord_etcd_tests::{Lent, Release};
use coord_mem::MemBackend;
use coord_server::Server;
use etcd_client::proto::PbLeaderKey;
use etcd_client::{
    Client, Error, GetOptions, KeyValue, LeaseGrantOptions, LeaseTimeToLiveOptions, LockOptions,
    ObserveStream, ProclaimOptions, ResignOptions, ResponseHeader,
};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

/// Panic message for calls that fail only if the server is not reachable.
pub(crate) const REACHABLE: &str = "the server is reachable";

/// Panic message for calls that the test expects to succeed.
pub(crate) const SUCCEEDS: &str = "the call succeeds";

/// Panic message for calls that the test expects to be rejected.
pub(crate) const REJECTED: &str = "the call is rejected";

/// Status code and message of a rejected call.
pub(crate) type Rejection = (Code, String);

/// A server under test: a real etcd or ours.
pub(crate) struct Target {
    endpoint: String,
    /// The version of the server; for ours, the version of the newest etcdctl.
    release: Release,
    server: ServerKind,
}

enum ServerKind {
    Etcd { _lent: Box<Lent> },
    Ours { serving: JoinSet<()>, stop: oneshot::Sender<()> },
}

impl Target {
    /// A real etcd, lent by a pool.
    pub(crate) fn etcd(lent: Lent) -> Self {
        let (endpoint, release) = (lent[0].endpoint().to_owned(), lent.release().clone());
        Self { endpoint, release, server: ServerKind::Etcd { _lent: Box::new(lent) } }
    }

    /// Our server over an in-memory store, on a free port.
    pub(crate) async fn ours() -> Self {
        let server = Server::builder(MemBackend::new()).bind("127.0.0.1:0").await;
        let server = server.expect("a free port");
        let address: SocketAddr = server.local_addr();
        let mut serving = JoinSet::new();
        let (stop, stopped) = oneshot::channel();
        serving.spawn(server.serve_until(async { drop(stopped.await) }));
        let endpoint = format!("http://{address}");
        let server = ServerKind::Ours { serving, stop };
        Self { endpoint, release: Release::newest(), server }
    }

    /// Stops our server as a signal does, and waits until it has stopped.
    pub(crate) async fn stop(self) {
        if let ServerKind::Ours { mut serving, stop } = self.server {
            stop.send(()).expect("the server is running");
            serving.join_next().await.expect("the server is running").expect("no panic");
        }
    }

    pub(crate) const fn is_etcd(&self) -> bool {
        matches!(self.server, ServerKind::Etcd { .. })
    }

    /// Up to 3.4, a waiter acquires even if its lease ended while it waited.
    pub(crate) fn acquires_without_lease(&self) -> bool {
        self.is_etcd() && self.release.version < (3, 5, 0)
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) const fn release(&self) -> &Release {
        &self.release
    }

    /// A client with its own connection.
    pub(crate) async fn client(&self) -> ServiceClient {
        ServiceClient::of(Client::connect([&self.endpoint], None).await.expect(REACHABLE))
    }

    /// A client of coord on the adapter, connected to this server.
    pub(crate) async fn coord_client(&self) -> coord_core::Client {
        coord_core::Client::new(EtcdBackend::connect([&self.endpoint]).await.expect(REACHABLE))
    }
}

/// A client of the server. Clones share its connection.
#[derive(Clone)]
pub(crate) struct ServiceClient {
    client: Client,
}

impl ServiceClient {
    pub(crate) const fn of(client: Client) -> Self {
        Self { client }
    }

    /// Grants a lease of `secs` seconds.
    pub(crate) async fn grant(&self, secs: i64) -> i64 {
        self.client.clone().lease_grant(secs, None).await.expect(REACHABLE).id()
    }

    pub(crate) async fn grant_with_id(&self, secs: i64, id: i64) {
        let options = LeaseGrantOptions::new().with_id(id);
        self.client.clone().lease_grant(secs, Some(options)).await.expect(REACHABLE);
    }

    pub(crate) async fn revoke(&self, lease: i64) {
        self.client.clone().lease_revoke(lease).await.expect(REACHABLE);
    }

    /// The granted and the remaining TTL of a lease; the latter is -1 if it does not exist.
    pub(crate) async fn lease_ttl(&self, lease: i64) -> (i64, i64) {
        let options = LeaseTimeToLiveOptions::new();
        let response = self.client.clone().lease_time_to_live(lease, Some(options)).await;
        let response = response.expect(REACHABLE);
        (response.granted_ttl(), response.ttl())
    }

    pub(crate) async fn get(&self, key: impl Into<Vec<u8>>) -> Option<KeyValue> {
        self.client.clone().get(key, None).await.expect(REACHABLE).take_kvs().pop()
    }

    pub(crate) async fn kv(&self, key: impl Into<Vec<u8>>) -> KeyValue {
        self.get(key).await.expect("the key exists")
    }

    /// Puts a key that no lock uses, and returns the revision.
    pub(crate) async fn put(&self, key: &str) -> i64 {
        let put = self.client.clone().put(key, "", None).await.expect(REACHABLE);
        revision(put.header())
    }

    pub(crate) async fn delete(&self, key: impl Into<Vec<u8>>) -> i64 {
        revision(self.client.clone().delete(key, None).await.expect(REACHABLE).header())
    }

    pub(crate) async fn compact(&self, revision: i64) {
        self.client.clone().compact(revision, None).await.expect(REACHABLE);
    }

    /// The keys with a prefix, in order of creation.
    pub(crate) async fn keys(&self, prefix: &str) -> Vec<String> {
        let mut kvs = self.kvs(prefix).await;
        kvs.sort_by_key(KeyValue::create_revision);
        kvs.iter().map(|kv| kv.key_str().expect("text").to_owned()).collect()
    }

    async fn kvs(&self, prefix: &str) -> Vec<KeyValue> {
        let options = GetOptions::new().with_prefix();
        self.client.clone().get(prefix, Some(options)).await.expect(REACHABLE).take_kvs()
    }

    /// Waits until exactly `count` keys have the prefix.
    pub(crate) async fn wait_for_key_count(&self, count: usize, prefix: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.kvs(prefix).await.len() != count {
            assert!(
                Instant::now() < deadline,
                "never {count} keys at {prefix}: {:?}",
                self.keys(prefix).await
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns the queue key and the revision of the response.
    pub(crate) async fn lock(&self, name: &str, lease: i64) -> Result<(String, i64), Rejection> {
        let options = LockOptions::new().with_lease(lease);
        let locked = self.client.lock_client().lock(name, Some(options)).await;
        let locked = locked.map_err(rejection)?;
        Ok((text(locked.key()), revision(locked.header())))
    }

    /// Returns the revision of the response.
    pub(crate) async fn unlock(&self, key: impl Into<Vec<u8>>) -> Result<i64, Rejection> {
        let unlocked = self.client.lock_client().unlock(key).await;
        Ok(revision(unlocked.map_err(rejection)?.header()))
    }

    /// Returns the leader key and the revision of the response.
    pub(crate) async fn campaign(
        &self,
        name: &str,
        value: &str,
        lease: i64,
    ) -> Result<(PbLeaderKey, i64), Rejection> {
        let elected = self.client.election_client().campaign(name, value, lease).await;
        let elected = elected.map_err(rejection)?;
        let revision = revision(elected.header());
        let leader = elected.leader().expect("a response with the leader");
        let leader = PbLeaderKey {
            name: leader.name().to_vec(),
            key: leader.key().to_vec(),
            rev: leader.rev(),
            lease: leader.lease(),
        };
        Ok((leader, revision))
    }

    pub(crate) async fn proclaim(
        &self,
        leader: Option<&PbLeaderKey>,
        value: &str,
    ) -> Result<i64, Rejection> {
        let options =
            leader.map(|leader| ProclaimOptions::new().with_leader(leader.clone().into()));
        let proclaimed = self.client.election_client().proclaim(value, options).await;
        Ok(revision(proclaimed.map_err(rejection)?.header()))
    }

    pub(crate) async fn resign(&self, leader: Option<&PbLeaderKey>) -> Result<i64, Rejection> {
        let options = leader.map(|leader| ResignOptions::new().with_leader(leader.clone().into()));
        let resigned = self.client.election_client().resign(options).await;
        Ok(revision(resigned.map_err(rejection)?.header()))
    }

    pub(crate) async fn leader(&self, name: &str) -> Result<(KeyValue, i64), Rejection> {
        let response = self.client.election_client().leader(name).await;
        let mut response = response.map_err(rejection)?;
        let revision = revision(response.header());
        Ok((response.take_kv().expect("a response with the leader's key"), revision))
    }

    /// Opens a stream, which the server does when there is a first leader.
    pub(crate) async fn observe(&self, name: &str) -> ObserveStream {
        self.client.election_client().observe(name).await.expect(REACHABLE)
    }
}

/// The next leader that a stream delivers: its key, and the revision of the message.
pub(crate) async fn next_leader(stream: &mut ObserveStream) -> (KeyValue, i64) {
    let message = within_20_s(stream.message()).await.expect(REACHABLE);
    let mut message = message.expect("the stream is open");
    let revision = revision(message.header());
    (message.take_kv().expect("a message with the leader's key"), revision)
}

pub(crate) fn value(kv: &KeyValue) -> &str {
    kv.value_str().expect("text")
}

/// Awaits a future that must complete within 20 s.
pub(crate) async fn within_20_s<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("a result within 20 s")
}

/// A call in progress. Dropping it cancels the call.
pub(crate) struct PendingCall<T> {
    task: JoinSet<T>,
}

impl<T: Debug + Send + 'static> PendingCall<T> {
    pub(crate) fn spawn(call: impl Future<Output = T> + Send + 'static) -> Self {
        let mut task = JoinSet::new();
        task.spawn(call);
        Self { task }
    }

    /// Waits for the result.
    pub(crate) async fn response(mut self) -> T {
        self.next().await
    }

    /// Checks that there is no result for a while.
    pub(crate) async fn expect_pending(&mut self) {
        let early = timeout(Duration::from_millis(200), self.task.join_next()).await;
        assert!(early.is_err(), "early result: {early:?}");
    }

    async fn next(&mut self) -> T {
        within_20_s(self.task.join_next())
            .await
            .expect("the result was not taken yet")
            .expect("no panic")
    }
}

/// A rejection with status `Unknown`, as the services return it.
pub(crate) fn unknown(message: &str) -> Rejection {
    (Code::Unknown, message.to_owned())
}

fn rejection(error: Error) -> Rejection {
    match error {
        Error::GRpcStatus(status) => (status.code(), status.message().to_owned()),
        error => panic!("not rejected by the server: {error:?}"),
    }
}

/// The revision of a header whose ids are set; other tests check their values.
fn revision(header: Option<&ResponseHeader>) -> i64 {
    let header = header.expect("every response has a header");
    assert!(header.cluster_id() != 0 && header.member_id() != 0 && header.raft_term() != 0);
    header.revision()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}
