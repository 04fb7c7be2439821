//! Where a test takes place, and a client that knows no more than protobuf.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coord_core::KvBackend;
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

/// Why calls cannot fail.
pub(crate) const THERE: &str = "the server is there";

/// Why calls are answered.
pub(crate) const DONE: &str = "nothing speaks against it";

/// Why they are not.
pub(crate) const REFUSED: &str = "it was to be refused";

/// How a call was refused.
pub(crate) type Refusal = (Code, String);

/// A server: etcd's or ours.
pub(crate) struct Place {
    endpoint: String,
    /// Of the server; if it is ours, of the newest etcdctl there is.
    release: Release,
    server: ServerOf,
}

enum ServerOf {
    Etcd { _lent: Box<Lent> },
    Ours { serving: JoinSet<()>, stop: oneshot::Sender<()> },
}

impl Place {
    pub(crate) fn etcd(lent: Lent) -> Self {
        let (endpoint, release) = (lent[0].endpoint().to_owned(), lent.release().clone());
        Self { endpoint, release, server: ServerOf::Etcd { _lent: Box::new(lent) } }
    }

    /// Ours, over a store in memory, on a port of its own.
    pub(crate) async fn ours() -> Self {
        let bound = Server::builder(MemBackend::new()).bind("127.0.0.1:0").await;
        let server = bound.expect("there are free ports");
        let address: SocketAddr = server.local_addr();
        let mut serving = JoinSet::new();
        let (stop, stopped) = oneshot::channel();
        serving.spawn(server.serve_until(async { drop(stopped.await) }));
        let endpoint = format!("http://{address}");
        let server = ServerOf::Ours { serving, stop };
        Self { endpoint, release: Release::newest(), server }
    }

    /// Stops it as a signal does, if it is ours, and waits for its end.
    pub(crate) async fn stop(self) {
        if let ServerOf::Ours { mut serving, stop } = self.server {
            stop.send(()).expect("it serves");
            serving.join_next().await.expect("it serves").expect("no panic");
        }
    }

    pub(crate) const fn is_etcd(&self) -> bool {
        matches!(self.server, ServerOf::Etcd { .. })
    }

    /// Up to 3.4 whoever waited had the lock, whatever became of its lease meanwhile.
    pub(crate) fn is_old(&self) -> bool {
        self.is_etcd() && self.release.version < (3, 5, 0)
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) const fn release(&self) -> &Release {
        &self.release
    }

    /// A client with a connection of its own.
    pub(crate) async fn peer(&self) -> Peer {
        Peer::of(Client::connect([&self.endpoint], None).await.expect(THERE))
    }

    /// Our own client.
    pub(crate) async fn backend(&self) -> Arc<dyn KvBackend> {
        Arc::new(EtcdBackend::connect([&self.endpoint]).await.expect(THERE))
    }
}

/// A client of the services. Clones share its connection.
#[derive(Clone)]
pub(crate) struct Peer {
    client: Client,
}

impl Peer {
    pub(crate) const fn of(client: Client) -> Self {
        Self { client }
    }

    /// A lease of so many seconds.
    pub(crate) async fn grant(&self, secs: i64) -> i64 {
        self.client.clone().lease_grant(secs, None).await.expect(THERE).id()
    }

    pub(crate) async fn grant_with_id(&self, secs: i64, id: i64) {
        let options = LeaseGrantOptions::new().with_id(id);
        self.client.clone().lease_grant(secs, Some(options)).await.expect(THERE);
    }

    pub(crate) async fn revoke(&self, lease: i64) {
        self.client.clone().lease_revoke(lease).await.expect(THERE);
    }

    /// What was granted, and what is left; -1 if it is not there.
    pub(crate) async fn time_of(&self, lease: i64) -> (i64, i64) {
        let options = LeaseTimeToLiveOptions::new();
        let asked = self.client.clone().lease_time_to_live(lease, Some(options)).await;
        let asked = asked.expect(THERE);
        (asked.granted_ttl(), asked.ttl())
    }

    pub(crate) async fn get(&self, key: impl Into<Vec<u8>>) -> Option<KeyValue> {
        self.client.clone().get(key, None).await.expect(THERE).take_kvs().pop()
    }

    pub(crate) async fn kv(&self, key: impl Into<Vec<u8>>) -> KeyValue {
        self.get(key).await.expect("the key is there")
    }

    /// Writes something that is nobody's business; returns the revision.
    pub(crate) async fn put(&self, key: &str) -> i64 {
        let put = self.client.clone().put(key, "", None).await.expect(THERE);
        revision(put.header())
    }

    pub(crate) async fn delete(&self, key: impl Into<Vec<u8>>) -> i64 {
        revision(self.client.clone().delete(key, None).await.expect(THERE).header())
    }

    pub(crate) async fn compact(&self, revision: i64) {
        self.client.clone().compact(revision, None).await.expect(THERE);
    }

    /// The keys that begin so, in the order in which they came.
    pub(crate) async fn keys(&self, prefix: &str) -> Vec<String> {
        let mut kvs = self.kvs(prefix).await;
        kvs.sort_by_key(KeyValue::create_revision);
        kvs.iter().map(|kv| kv.key_str().expect("text").to_owned()).collect()
    }

    async fn kvs(&self, prefix: &str) -> Vec<KeyValue> {
        let options = GetOptions::new().with_prefix();
        self.client.clone().get(prefix, Some(options)).await.expect(THERE).take_kvs()
    }

    /// Waits until so many keys begin so.
    pub(crate) async fn until_there_are(&self, count: usize, prefix: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.kvs(prefix).await.len() != count {
            assert!(
                Instant::now() < deadline,
                "never {count} at {prefix}: {:?}",
                self.keys(prefix).await
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// The key that was got, and the revision of the answer.
    pub(crate) async fn lock(&self, name: &str, lease: i64) -> Result<(String, i64), Refusal> {
        let options = LockOptions::new().with_lease(lease);
        let locked = self.client.lock_client().lock(name, Some(options)).await;
        let locked = locked.map_err(refusal)?;
        Ok((text(locked.key()), revision(locked.header())))
    }

    /// The revision of the answer.
    pub(crate) async fn unlock(&self, key: impl Into<Vec<u8>>) -> Result<i64, Refusal> {
        let unlocked = self.client.lock_client().unlock(key).await;
        Ok(revision(unlocked.map_err(refusal)?.header()))
    }

    /// What stands for the leader, and the revision of the answer.
    pub(crate) async fn campaign(
        &self,
        name: &str,
        value: &str,
        lease: i64,
    ) -> Result<(PbLeaderKey, i64), Refusal> {
        let elected = self.client.election_client().campaign(name, value, lease).await;
        let elected = elected.map_err(refusal)?;
        let revision = revision(elected.header());
        let leader = elected.leader().expect("an answer names the leader");
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
    ) -> Result<i64, Refusal> {
        let options =
            leader.map(|leader| ProclaimOptions::new().with_leader(leader.clone().into()));
        let proclaimed = self.client.election_client().proclaim(value, options).await;
        Ok(revision(proclaimed.map_err(refusal)?.header()))
    }

    pub(crate) async fn resign(&self, leader: Option<&PbLeaderKey>) -> Result<i64, Refusal> {
        let options = leader.map(|leader| ResignOptions::new().with_leader(leader.clone().into()));
        let resigned = self.client.election_client().resign(options).await;
        Ok(revision(resigned.map_err(refusal)?.header()))
    }

    pub(crate) async fn leader(&self, name: &str) -> Result<(KeyValue, i64), Refusal> {
        let told = self.client.election_client().leader(name).await;
        let mut told = told.map_err(refusal)?;
        let revision = revision(told.header());
        Ok((told.take_kv().expect("an answer has the leader's key"), revision))
    }

    /// The stream opens when it has something to say, and not before.
    pub(crate) async fn observe(&self, name: &str) -> ObserveStream {
        self.client.election_client().observe(name).await.expect(THERE)
    }
}

/// Waits for what a stream of leaders shows next: the key, and the revision of the message.
pub(crate) async fn shown(stream: &mut ObserveStream) -> (KeyValue, i64) {
    let message = soon(stream.message()).await.expect(THERE);
    let mut message = message.expect("the stream goes on");
    let revision = revision(message.header());
    (message.take_kv().expect("a message has the leader's key"), revision)
}

pub(crate) fn value(kv: &KeyValue) -> &str {
    kv.value_str().expect("text")
}

/// What `future` gives, which must not take long.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(20), future).await.expect("it has taken twenty seconds")
}

/// A call under way. Dropped, it is cancelled.
pub(crate) struct Call<T> {
    task: JoinSet<T>,
}

impl<T: Debug + Send + 'static> Call<T> {
    pub(crate) fn begin(call: impl Future<Output = T> + Send + 'static) -> Self {
        let mut task = JoinSet::new();
        task.spawn(call);
        Self { task }
    }

    /// The answer, which must come soon.
    pub(crate) async fn answer(mut self) -> T {
        self.next().await
    }

    /// The answer must not come for a while.
    pub(crate) async fn waits(&mut self) {
        let early = timeout(Duration::from_millis(200), self.task.join_next()).await;
        assert!(early.is_err(), "it was not to be yet: {early:?}");
    }

    async fn next(&mut self) -> T {
        soon(self.task.join_next()).await.expect("it was not answered before").expect("no panic")
    }
}

pub(crate) fn unknown(message: &str) -> Refusal {
    (Code::Unknown, message.to_owned())
}

fn refusal(error: Error) -> Refusal {
    match error {
        Error::GRpcStatus(status) => (status.code(), status.message().to_owned()),
        error => panic!("not refused by the server: {error:?}"),
    }
}

/// A header says who answers; who that is, is tested elsewhere.
fn revision(header: Option<&ResponseHeader>) -> i64 {
    let header = header.expect("every answer has a header");
    assert!(header.cluster_id() != 0 && header.member_id() != 0 && header.raft_term() != 0);
    header.revision()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}
