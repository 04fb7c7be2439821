//! The server under test, a real etcd or coord's server, and a client of its services.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use coord_etcd::EtcdBackend;
use coord_etcd_tests::{PooledCluster, Release};
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

/// The status code and the message of a rejected call.
pub(crate) type Rejection = (Code, String);

/// The result of a Lock call: the queue key, and the revision of the response.
pub(crate) type LockResult = Result<(String, i64), Rejection>;

/// The result of a Campaign call: the leader key, and the revision of the response.
pub(crate) type CampaignResult = Result<(PbLeaderKey, i64), Rejection>;

/// A server under test: a real etcd or coord's server.
pub(crate) struct Target {
    endpoint: String,
    /// The release of the server, or for coord's server the newest release, whose etcdctl is used.
    release: Release,
    server: ServerKind,
}

enum ServerKind {
    Etcd { _cluster: Box<PooledCluster> },
    Coord { serving: JoinSet<()>, stop: oneshot::Sender<()> },
}

impl Target {
    /// A real etcd of a pool.
    pub(crate) fn etcd(cluster: PooledCluster) -> Self {
        let (endpoint, release) = (cluster[0].endpoint().to_owned(), cluster.release().clone());
        Self { endpoint, release, server: ServerKind::Etcd { _cluster: Box::new(cluster) } }
    }

    /// Starts coord's server over an in-memory store, on a free port.
    pub(crate) async fn coord() -> Self {
        let server = Server::builder(MemBackend::new()).bind("127.0.0.1:0").await;
        let server = server.unwrap();
        let address: SocketAddr = server.local_addr();
        let mut serving = JoinSet::new();
        let (stop, stopped) = oneshot::channel();
        serving.spawn(server.serve_until(async { drop(stopped.await) }));
        let endpoint = format!("http://{address}");
        let server = ServerKind::Coord { serving, stop };
        Self { endpoint, release: Release::newest(), server }
    }

    /// Stops coord's server as a signal does, and waits until it has shut down.
    pub(crate) async fn stop(self) {
        if let ServerKind::Coord { mut serving, stop } = self.server {
            stop.send(()).unwrap();
            serving.join_next().await.unwrap().unwrap();
        }
    }

    /// Whether the server is a real etcd.
    pub(crate) const fn is_etcd(&self) -> bool {
        matches!(self.server, ServerKind::Etcd { .. })
    }

    /// Whether a waiter acquires although its lease ended while it waited, as in etcd 3.4.
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
        ServiceClient::of(Client::connect([&self.endpoint], None).await.unwrap())
    }

    /// A client of coord on the adapter, connected to this server.
    pub(crate) async fn coord_client(&self) -> coord_core::Client {
        coord_core::Client::new(EtcdBackend::connect([&self.endpoint]).await.unwrap())
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
        self.client.clone().lease_grant(secs, None).await.unwrap().id()
    }

    pub(crate) async fn grant_with_id(&self, secs: i64, id: i64) {
        let options = LeaseGrantOptions::new().with_id(id);
        self.client.clone().lease_grant(secs, Some(options)).await.unwrap();
    }

    pub(crate) async fn revoke(&self, lease: i64) {
        self.client.clone().lease_revoke(lease).await.unwrap();
    }

    /// The granted and the remaining TTL of a lease. The latter is -1 if the lease does not exist.
    pub(crate) async fn lease_ttl(&self, lease: i64) -> (i64, i64) {
        let options = LeaseTimeToLiveOptions::new();
        let response = self.client.clone().lease_time_to_live(lease, Some(options)).await;
        let response = response.unwrap();
        (response.granted_ttl(), response.ttl())
    }

    pub(crate) async fn get(&self, key: impl Into<Vec<u8>>) -> Option<KeyValue> {
        self.client.clone().get(key, None).await.unwrap().take_kvs().pop()
    }

    /// The key, which must exist.
    pub(crate) async fn kv(&self, key: impl Into<Vec<u8>>) -> KeyValue {
        self.get(key).await.unwrap()
    }

    /// Puts a key that no lock uses, and returns the revision.
    pub(crate) async fn put(&self, key: &str) -> i64 {
        let put = self.client.clone().put(key, "", None).await.unwrap();
        revision(put.header())
    }

    pub(crate) async fn delete(&self, key: impl Into<Vec<u8>>) -> i64 {
        revision(self.client.clone().delete(key, None).await.unwrap().header())
    }

    pub(crate) async fn compact(&self, revision: i64) {
        self.client.clone().compact(revision, None).await.unwrap();
    }

    /// The keys with a prefix, in order of creation.
    pub(crate) async fn keys(&self, prefix: &str) -> Vec<String> {
        let mut kvs = self.kvs(prefix).await;
        kvs.sort_by_key(KeyValue::create_revision);
        kvs.iter().map(|kv| kv.key_str().unwrap().to_owned()).collect()
    }

    async fn kvs(&self, prefix: &str) -> Vec<KeyValue> {
        let options = GetOptions::new().with_prefix();
        self.client.clone().get(prefix, Some(options)).await.unwrap().take_kvs()
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

    /// Locks `name`.
    pub(crate) async fn lock(&self, name: &str, lease: i64) -> LockResult {
        let options = LockOptions::new().with_lease(lease);
        let locked = self.client.lock_client().lock(name, Some(options)).await;
        let locked = locked.map_err(rejection)?;
        Ok((text(locked.key()), revision(locked.header())))
    }

    /// Starts to lock `name`, and returns once its queue has `length` keys.
    pub(crate) async fn start_lock(
        &self,
        name: &'static str,
        lease: i64,
        length: usize,
    ) -> PendingCall<LockResult> {
        let client = self.clone();
        let call = PendingCall::spawn(async move { client.lock(name, lease).await });
        self.wait_for_key_count(length, &format!("{name}/")).await;
        call
    }

    /// Unlocks, and returns the revision of the response.
    pub(crate) async fn unlock(&self, key: impl Into<Vec<u8>>) -> Result<i64, Rejection> {
        let unlocked = self.client.lock_client().unlock(key).await;
        Ok(revision(unlocked.map_err(rejection)?.header()))
    }

    /// Campaigns for `name`.
    pub(crate) async fn campaign(&self, name: &str, value: &str, lease: i64) -> CampaignResult {
        let elected = self.client.election_client().campaign(name, value, lease).await;
        let elected = elected.map_err(rejection)?;
        let revision = revision(elected.header());
        let leader = elected.leader().unwrap();
        let leader = PbLeaderKey {
            name: leader.name().to_vec(),
            key: leader.key().to_vec(),
            rev: leader.rev(),
            lease: leader.lease(),
        };
        Ok((leader, revision))
    }

    /// Starts to campaign for `name`, and returns once its queue has `length` keys.
    pub(crate) async fn start_campaign(
        &self,
        name: &'static str,
        value: &'static str,
        lease: i64,
        length: usize,
    ) -> PendingCall<CampaignResult> {
        let client = self.clone();
        let call = PendingCall::spawn(async move { client.campaign(name, value, lease).await });
        self.wait_for_key_count(length, &format!("{name}/")).await;
        call
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
        Ok((response.take_kv().unwrap(), revision))
    }

    /// Opens an observe stream. The server opens it when there is a leader.
    pub(crate) async fn observe(&self, name: &str) -> ObserveStream {
        self.client.election_client().observe(name).await.unwrap()
    }
}

/// The key of the next leader that a stream delivers, and the revision of the message.
pub(crate) async fn next_leader(stream: &mut ObserveStream) -> (KeyValue, i64) {
    let message = within_20_s(stream.message()).await.unwrap();
    let mut message = message.unwrap();
    let revision = revision(message.header());
    (message.take_kv().unwrap(), revision)
}

pub(crate) fn value(kv: &KeyValue) -> &str {
    kv.value_str().unwrap()
}

/// The output of `future`, which must complete within 20 s.
pub(crate) async fn within_20_s<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.unwrap()
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

    /// Asserts that there is no result for 200 ms.
    pub(crate) async fn assert_pending(&mut self) {
        let early = timeout(Duration::from_millis(200), self.task.join_next()).await;
        assert!(early.is_err(), "the call has returned: {early:?}");
    }

    async fn next(&mut self) -> T {
        within_20_s(self.task.join_next()).await.unwrap().unwrap()
    }
}

/// A rejection with status `Unknown`, as the services return it.
pub(crate) fn unknown_status(message: &str) -> Rejection {
    (Code::Unknown, message.to_owned())
}

fn rejection(error: Error) -> Rejection {
    match error {
        Error::GRpcStatus(status) => (status.code(), status.message().to_owned()),
        error => panic!("not rejected by the server: {error:?}"),
    }
}

/// The revision of a header, whose ids must be set. Other tests check the values of the ids.
fn revision(header: Option<&ResponseHeader>) -> i64 {
    let header = header.unwrap();
    assert!(header.cluster_id() != 0 && header.member_id() != 0 && header.raft_term() != 0);
    header.revision()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
