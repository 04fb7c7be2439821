//! Bare gRPC, and a transcript of what it brings.

use std::fmt::Debug;
use std::time::Duration;

use coord_etcd_tests::serve::masked;
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
/// Lines beyond this are cut: what matters of a megabyte is how long it is.
const MAX_LINE: usize = 4_000;

/// One play of a scene.
pub(crate) struct Play {
    endpoint: String,
    channel: Channel,
    lines: Vec<(String, String)>,
}

/// A stream of messages either way.
pub(crate) struct Talk<Q, A> {
    /// `None` once nothing more will be said.
    said: Option<mpsc::UnboundedSender<Q>>,
    heard: Heard<A>,
}

/// etcd does not answer at all before it has something to say.
enum Heard<A> {
    Nothing(JoinSet<Result<Streaming<A>, Status>>),
    Something(Box<Streaming<A>>),
}

impl Play {
    pub(crate) async fn at(endpoint: &str) -> Self {
        let channel = Endpoint::new(endpoint.to_owned()).expect("it is a URL").connect().await;
        let channel = channel.expect("a server that is ready");
        Self { endpoint: endpoint.to_owned(), channel, lines: Vec::new() }
    }

    /// Where the server is.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn transcript(self) -> Vec<(String, String)> {
        self.lines
    }

    /// Writes a line.
    pub(crate) fn note(&mut self, what: &str, answer: impl Debug) {
        let mut text = masked(format!("{answer:?}"));
        if text.len() > MAX_LINE {
            text = format!("{}… of {}", &text[..200], text.len());
        }
        self.lines.push((what.to_owned(), text));
    }

    /// Writes down how a call ended.
    pub(crate) fn told<A: Debug>(&mut self, what: &str, answer: Result<A, Status>) -> Option<A> {
        match answer {
            Ok(answer) => {
                self.note(what, &answer);
                Some(answer)
            }
            Err(status) => {
                self.note(what, refusal(&status));
                None
            }
        }
    }

    /// One message, answered with one, which is written down.
    pub(crate) async fn call<Q, A>(
        &mut self,
        what: &str,
        path: &'static str,
        request: Q,
    ) -> Option<A>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Debug + Default + 'static,
    {
        let answer = self.ask(path, request).await;
        self.told(what, answer)
    }

    /// The same, not written down.
    pub(crate) async fn ask<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
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
    pub(crate) async fn grpc(&self) -> Grpc<Channel> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.expect("the server is there");
        grpc
    }

    /// A stream either way.
    pub(crate) async fn talk<Q, A>(&self, path: &'static str) -> Talk<Q, A>
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

    /// The next message of a stream, written down.
    pub(crate) async fn next<Q, A>(&mut self, what: &str, talk: &mut Talk<Q, A>) -> Option<A>
    where
        A: Debug + 'static,
    {
        let next = talk.next().await.unwrap_or_else(|| panic!("{what}: nothing came"));
        match next {
            Ok(Some(message)) => {
                self.note(what, &message);
                Some(message)
            }
            Ok(None) => {
                self.note(what, "the end");
                None
            }
            Err(status) => {
                self.note(what, refusal(&status));
                None
            }
        }
    }
}

impl<Q, A: 'static> Talk<Q, A> {
    pub(crate) fn say(&self, message: Q) {
        let said = self.said.as_ref().expect("not yet done with talking");
        // If nobody hears it, the answers will tell.
        let _ = said.send(message);
    }

    /// Says that nothing more will be said.
    pub(crate) fn fall_silent(&mut self) {
        self.said = None;
    }

    /// The next message; `None` if none comes in a long time.
    pub(crate) async fn next(&mut self) -> Option<Result<Option<A>, Status>> {
        timeout(PATIENCE, self.heard.message()).await.ok()
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
pub(crate) type WatchTalk = Talk<PbWatchRequest, PbWatchResponse>;

impl Play {
    pub(crate) async fn watch(&self) -> WatchTalk {
        self.talk("/etcdserverpb.Watch/Watch").await
    }
}

impl WatchTalk {
    pub(crate) fn union(&self, union: PbWatchRequestUnion) {
        self.say(PbWatchRequest { request_union: Some(union) });
    }

    pub(crate) fn cancel(&self, watch_id: i64) {
        let mut cancel = PbWatchRequestUnion::CancelRequest(Default::default());
        if let PbWatchRequestUnion::CancelRequest(cancel) = &mut cancel {
            cancel.watch_id = watch_id;
        }
        self.union(cancel);
    }

    pub(crate) fn progress(&self) {
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
pub(crate) fn refusal(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
