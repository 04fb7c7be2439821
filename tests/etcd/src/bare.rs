//! Bare gRPC: nothing of a client's own comes in between, and nonsense can be said that no client
//! would say.

use std::time::Duration;

use etcd_client::proto::{PbWatchRequest, PbWatchRequestUnion, PbWatchResponse};
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// Longer than anything takes that is going to happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a server.
#[derive(Clone, Debug)]
pub struct Bare {
    endpoint: String,
    channel: Channel,
}

/// A stream of messages either way.
#[derive(Debug)]
pub struct Talk<Q, A> {
    /// `None` once nothing more will be said.
    said: Option<mpsc::UnboundedSender<Q>>,
    heard: Heard<A>,
}

/// etcd does not answer at all before it has something to say.
#[derive(Debug)]
enum Heard<A> {
    Nothing(JoinSet<Result<Streaming<A>, Status>>),
    Something(Box<Streaming<A>>),
}

impl Bare {
    /// Connects to the server at this URL.
    ///
    /// # Panics
    /// If there is none.
    pub async fn at(endpoint: &str) -> Self {
        let channel = Endpoint::new(endpoint.to_owned()).expect("it is a URL").connect().await;
        let channel = channel.expect("a server that is ready");
        Self { endpoint: endpoint.to_owned(), channel }
    }

    /// Where the server is.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// One message, answered with one.
    ///
    /// # Errors
    /// What the server refused it for.
    ///
    /// # Panics
    /// If it is not answered in a long time.
    pub async fn ask<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc().await;
        let path = PathAndQuery::from_static(path);
        let answer = grpc.unary(Request::new(request), path, ProstCodec::<Q, A>::default());
        let answer = timeout(PATIENCE, answer).await.expect("every call is answered");
        answer.map(tonic::Response::into_inner)
    }

    /// What calls are made with.
    ///
    /// # Panics
    /// If the server is gone.
    pub async fn grpc(&self) -> Grpc<Channel> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.expect("the server is there");
        grpc
    }

    /// A stream either way.
    ///
    /// # Panics
    /// If the server is gone.
    pub async fn talk<Q, A>(&self, path: &'static str) -> Talk<Q, A>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc().await;
        let (said, mut saying) = mpsc::unbounded_channel();
        let saying = stream::poll_fn(move |cx| saying.poll_recv(cx));
        let path = PathAndQuery::from_static(path);
        let mut opened = JoinSet::new();
        opened.spawn(async move {
            let talk = grpc.streaming(Request::new(saying), path, ProstCodec::<Q, A>::default());
            talk.await.map(tonic::Response::into_inner)
        });
        Talk { said: Some(said), heard: Heard::Nothing(opened) }
    }

    /// A watch stream.
    ///
    /// # Panics
    /// If the server is gone.
    pub async fn watch(&self) -> WatchTalk {
        self.talk("/etcdserverpb.Watch/Watch").await
    }
}

impl<Q, A: 'static> Talk<Q, A> {
    /// Says something.
    ///
    /// # Panics
    /// If it fell silent before.
    pub fn say(&self, message: Q) {
        let said = self.said.as_ref().expect("not yet done with talking");
        // If nobody hears it, the answers will tell.
        let _ = said.send(message);
    }

    /// Says that nothing more will be said.
    pub fn fall_silent(&mut self) {
        self.said = None;
    }

    /// The next message; `None` if none comes in a long time.
    ///
    /// # Panics
    /// Never: opening a stream does not.
    pub async fn next(&mut self) -> Option<Result<Option<A>, Status>> {
        self.next_within(PATIENCE).await
    }

    /// The next message; `None` if none comes in this time.
    pub(crate) async fn next_within(
        &mut self,
        patience: Duration,
    ) -> Option<Result<Option<A>, Status>> {
        timeout(patience, self.heard.message()).await.ok()
    }
}

impl<A: 'static> Heard<A> {
    async fn message(&mut self) -> Result<Option<A>, Status> {
        loop {
            match self {
                Self::Something(stream) => return stream.message().await,
                Self::Nothing(opened) => {
                    let opened = opened.join_next().await.expect("it is opened once");
                    let opened = opened.expect("opening does not panic")?;
                    *self = Self::Something(Box::new(opened));
                }
            }
        }
    }
}

/// A watch stream.
pub type WatchTalk = Talk<PbWatchRequest, PbWatchResponse>;

impl WatchTalk {
    /// Says one of the things that can be said.
    pub fn union(&self, union: PbWatchRequestUnion) {
        self.say(PbWatchRequest { request_union: Some(union) });
    }

    /// Cancels a watch.
    pub fn cancel(&self, watch_id: i64) {
        let mut cancel = PbWatchRequestUnion::CancelRequest(Default::default());
        if let PbWatchRequestUnion::CancelRequest(cancel) = &mut cancel {
            cancel.watch_id = watch_id;
        }
        self.union(cancel);
    }

    /// Asks for a bookmark.
    pub fn progress(&self) {
        self.union(PbWatchRequestUnion::ProgressRequest(Default::default()));
    }
}

/// The request to watch a key, with these fields set otherwise than by default.
#[macro_export]
macro_rules! create {
    ($key:expr $(, $field:ident: $value:expr)* $(,)?) => {{
        let mut union =
            etcd_client::proto::PbWatchRequestUnion::CreateRequest(Default::default());
        if let etcd_client::proto::PbWatchRequestUnion::CreateRequest(create) = &mut union {
            create.key = $key.into();
            $(create.$field = $value;)*
        }
        union
    }};
}

/// A refusal, as it is compared.
#[must_use]
pub fn refusal(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
