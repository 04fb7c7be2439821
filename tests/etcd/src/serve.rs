//! Our own services, as a store to test the adapter on, and as a server to test beside etcd.

use coord_core::KvBackend;
use coord_etcd::EtcdBackend;
use coord_server::{ServerBuilder, in_process};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// The adapter over `backend`: between the two lies everything but the wires.
///
/// # Panics
/// Never: there is a channel.
pub fn adapter(backend: impl KvBackend) -> EtcdBackend {
    let nowhere: [&str; 0] = [];
    let builder = EtcdBackend::builder(nowhere).limits(backend.limits());
    builder.over_channels([in_process(backend)]).expect("one channel is enough")
}

/// A server of ours on a port of this machine. Dropped, it is gone.
#[derive(Debug)]
#[must_use = "whoever drops the server has it stopped"]
pub struct Served {
    endpoint: String,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinSet<()>,
}

impl Served {
    /// Starts it on a free port.
    ///
    /// # Panics
    /// If there is none.
    pub async fn start(builder: ServerBuilder) -> Self {
        Self::start_at(builder, "http://127.0.0.1:0").await
    }

    /// Starts it where another one was.
    ///
    /// # Panics
    /// If somebody listens there.
    pub async fn start_at(builder: ServerBuilder, endpoint: &str) -> Self {
        let server = builder.bind(endpoint.trim_start_matches("http://")).await;
        let server = server.expect("nobody listens there");
        let endpoint = format!("http://{}", server.local_addr());
        let (stop, stopped) = oneshot::channel();
        let mut serving = JoinSet::new();
        serving.spawn(server.serve_until(async { drop(stopped.await) }));
        Self { endpoint, stop: Some(stop), serving }
    }

    /// The URL at which clients reach it.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Asks it to stop.
    pub fn stop(&mut self) {
        self.stop = None;
    }

    /// Waits until it has stopped.
    ///
    /// # Panics
    /// If it has panicked.
    pub async fn stopped(&mut self) {
        while let Some(ended) = self.serving.join_next().await {
            ended.expect("the server does not panic");
        }
    }
}

/// A line of a transcript as it is compared: of cluster, member and term only whether they are
/// there.
#[must_use]
pub fn masked(mut text: String) -> String {
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
