//! A raw gRPC client: sends any message on any path, also malformed requests.

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

/// The time limit for a response. Expected responses take less.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a server.
#[derive(Clone, Debug)]
pub struct RawClient {
    endpoint: String,
    channel: Channel,
}

/// A stream of messages in both directions.
#[derive(Debug)]
pub struct RawStream<Q, A> {
    /// `None` after [`finish`](Self::finish).
    requests: Option<mpsc::UnboundedSender<Q>>,
    responses: Responses<A>,
}

/// The responses of a stream. etcd opens a stream only when it has a first message to send.
#[derive(Debug)]
enum Responses<A> {
    Opening(JoinSet<Result<Streaming<A>, Status>>),
    Open(Box<Streaming<A>>),
}

impl RawClient {
    /// Connects to the server at this URL.
    ///
    /// # Panics
    /// If `endpoint` is not a URL or no server listens there.
    pub async fn connect(endpoint: &str) -> Self {
        let channel =
            Endpoint::new(endpoint.to_owned()).expect("`endpoint` is a URL").connect().await;
        let channel = channel.expect("the server is ready");
        Self { endpoint: endpoint.to_owned(), channel }
    }

    /// The URL of the server.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Makes a unary call.
    ///
    /// # Errors
    /// The status of the server.
    ///
    /// # Panics
    /// If the connection is closed, or there is no response within 10 s.
    pub async fn unary<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc().await;
        let path = PathAndQuery::from_static(path);
        let response = grpc.unary(Request::new(request), path, ProstCodec::<Q, A>::default());
        let response =
            timeout(RESPONSE_TIMEOUT, response).await.expect("a response arrives within 10 s");
        response.map(tonic::Response::into_inner)
    }

    /// A client of tonic on this connection.
    ///
    /// # Panics
    /// If the connection is closed.
    pub async fn grpc(&self) -> Grpc<Channel> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.expect("the connection is open");
        grpc
    }

    /// Opens a stream in both directions.
    ///
    /// # Panics
    /// If the connection is closed.
    pub async fn open_stream<Q, A>(&self, path: &'static str) -> RawStream<Q, A>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc().await;
        let (requests, mut sent) = mpsc::unbounded_channel();
        let sent = stream::poll_fn(move |cx| sent.poll_recv(cx));
        let path = PathAndQuery::from_static(path);
        let mut opened = JoinSet::new();
        opened.spawn(async move {
            let stream = grpc.streaming(Request::new(sent), path, ProstCodec::<Q, A>::default());
            stream.await.map(tonic::Response::into_inner)
        });
        RawStream { requests: Some(requests), responses: Responses::Opening(opened) }
    }

    /// Opens a watch stream.
    ///
    /// # Panics
    /// If the connection is closed.
    pub async fn watch(&self) -> RawWatchStream {
        self.open_stream("/etcdserverpb.Watch/Watch").await
    }
}

impl<Q, A: 'static> RawStream<Q, A> {
    /// Sends a message.
    ///
    /// # Panics
    /// After [`finish`](Self::finish).
    pub fn send(&self, message: Q) {
        let requests = self.requests.as_ref().expect("the stream is not finished");
        // If the server has closed the stream, the responses show it.
        let _ = requests.send(message);
    }

    /// Closes the client's side of the stream.
    pub fn finish(&mut self) {
        self.requests = None;
    }

    /// The next message; `None` if no message arrives within 10 s.
    ///
    /// # Panics
    /// If the task that opens the stream panics, or if opening the stream has failed before.
    pub async fn next(&mut self) -> Option<Result<Option<A>, Status>> {
        self.next_within(RESPONSE_TIMEOUT).await
    }

    /// The next message; `None` if no message arrives within `time`.
    pub(crate) async fn next_within(
        &mut self,
        time: Duration,
    ) -> Option<Result<Option<A>, Status>> {
        timeout(time, self.responses.message()).await.ok()
    }
}

impl<A: 'static> Responses<A> {
    async fn message(&mut self) -> Result<Option<A>, Status> {
        loop {
            match self {
                Self::Open(stream) => return stream.message().await,
                Self::Opening(opened) => {
                    let opened = opened.join_next().await.expect("the stream is opened once");
                    let opened = opened.expect("opening a stream does not panic")?;
                    *self = Self::Open(Box::new(opened));
                }
            }
        }
    }
}

/// A watch stream.
pub type RawWatchStream = RawStream<PbWatchRequest, PbWatchResponse>;

impl RawWatchStream {
    /// Sends a request of any kind.
    pub fn send_request(&self, union: PbWatchRequestUnion) {
        self.send(PbWatchRequest { request_union: Some(union) });
    }

    /// Cancels a watch.
    pub fn cancel(&self, watch_id: i64) {
        let mut cancel = PbWatchRequestUnion::CancelRequest(Default::default());
        if let PbWatchRequestUnion::CancelRequest(cancel) = &mut cancel {
            cancel.watch_id = watch_id;
        }
        self.send_request(cancel);
    }

    /// Requests a progress notification.
    pub fn request_progress(&self) {
        self.send_request(PbWatchRequestUnion::ProgressRequest(Default::default()));
    }
}

/// A create request for a watch of `$key`, whose other fields have their defaults unless given.
#[macro_export]
macro_rules! create_watch {
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

/// The rejection of a call: the code and the message of its status, for comparison in tests.
#[must_use]
pub fn rejection(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
