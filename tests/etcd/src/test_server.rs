//! coord's own server for tests: in process below the adapter, and on a socket.

use coord_core::KvBackend;
use coord_etcd::EtcdBackend;
use coord_server::{ServerBuilder, in_process};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// The adapter over coord's server over `backend`, in this process and without sockets.
///
/// # Panics
/// Never, because one channel is enough.
pub fn adapter_over(backend: impl KvBackend) -> EtcdBackend {
    let no_endpoints: [&str; 0] = [];
    let builder = EtcdBackend::builder(no_endpoints).limits(backend.limits());
    builder.over_channels([in_process(backend)]).expect("one channel is given")
}

/// coord's server on a port of this machine. Dropping it stops the server.
#[derive(Debug)]
#[must_use = "dropping it stops the server"]
pub struct TestServer {
    endpoint: String,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinSet<()>,
}

impl TestServer {
    /// Starts a server on a free port.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(builder: ServerBuilder) -> Self {
        Self::start_at(builder, "http://127.0.0.1:0").await
    }

    /// Starts a server at the endpoint of an earlier server.
    ///
    /// # Panics
    /// If the address is in use.
    pub async fn start_at(builder: ServerBuilder, endpoint: &str) -> Self {
        let server = builder.bind(endpoint.trim_start_matches("http://")).await;
        let server = server.expect("the address is not in use");
        let endpoint = format!("http://{}", server.local_addr());
        let (stop, stopped) = oneshot::channel();
        let mut serving = JoinSet::new();
        serving.spawn(server.serve_until(async { drop(stopped.await) }));
        Self { endpoint, stop: Some(stop), serving }
    }

    /// The URL at which clients reach the server.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Requests the shutdown of the server.
    pub fn stop(&mut self) {
        self.stop = None;
    }

    /// Waits until the server has shut down.
    ///
    /// # Panics
    /// If the server has panicked.
    pub async fn wait_until_stopped(&mut self) {
        while let Some(ended) = self.serving.join_next().await {
            ended.expect("the server does not panic");
        }
    }
}

/// Replaces the cluster id, the member id and the term in a line of a transcript: by `0` if they
/// are zero, else by `some`.
#[must_use]
pub fn mask_server_ids(mut text: String) -> String {
    for field in ["cluster_id: ", "member_id: ", "raft_term: "] {
        let parts: Vec<_> = text.split(field).map(str::to_owned).collect();
        let rest = parts.iter().skip(1).map(|part| {
            let digits = part.chars().take_while(char::is_ascii_digit).count();
            let shown = if &part[..digits] == "0" { "0" } else { "some" };
            format!("{field}{shown}{}", &part[digits..])
        });
        text = parts[0].clone() + &rest.collect::<String>();
    }
    text
}
