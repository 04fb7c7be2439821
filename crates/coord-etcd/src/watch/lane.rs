//! One watch stream: opened, read and written.
//!
//! A server sends no headers before it has something to say, so opening a stream needs a request
//! that is surely answered: a watch of an empty range, which every etcd refuses at once, and which
//! leaves nothing behind. The refusal carries the revision of the store. That the login is too old
//! is said in the same way, and comes first: so this is also where that is found out.
//!
//! `etcd grpc-proxy` refuses it too, but does not know the revision. That is how it is recognized;
//! the revision is read apart.
//!
//! Reading and writing go on side by side: a server that does not take what it is sent must still
//! be heard.

use std::sync::Arc;

use coord_core::{Error, Result, kv::Header};
use etcd_client::proto::PbResponseHeader;
use etcd_client::{GetOptions, WatchRequestSender, WatchResponseStream};
use tokio::sync::mpsc::{Sender, UnboundedReceiver};

use super::machine::LaneName;
use super::stream_failed;
use super::wire::{self, Reply, Request};
use crate::endpoints::{Endpoints, WatchLine};
use crate::error::{Asked, Failure};
use crate::link::Link;
use crate::wire::{FromWire, Malformed};

/// Which stream something is about: there is a new one under the same name after each loss.
pub(super) type Incarnation = (LaneName, u64);

/// What a lane has to tell.
#[derive(Debug)]
pub(super) enum News {
    /// It is open.
    Opened(Opened),
    Reply(Reply),
}

/// A stream that was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    /// How far the store was.
    pub(super) header: Header,
    /// The number of the endpoint.
    pub(super) endpoint: usize,
    /// Whether the server is `etcd grpc-proxy`.
    pub(super) proxied: bool,
}

/// A stream from its opening to its end. Ends with the reason, unless it is aborted.
pub(super) async fn run(
    endpoints: Arc<Endpoints>,
    outbox: UnboundedReceiver<Request>,
    news: &Sender<(Incarnation, News)>,
    incarnation: Incarnation,
) -> Error {
    let (opened, line) = match open(&endpoints).await {
        Ok(opened) => opened,
        Err(error) => return error,
    };
    let WatchLine { sender, mut stream, endpoint } = line;
    tell(news, incarnation, News::Opened(opened)).await;
    let failure = tokio::select! {
        biased;
        failure = read(&mut stream, news, incarnation) => failure,
        failure = write(sender, outbox) => failure,
    };
    endpoints.avoid(endpoint);
    match failure {
        Broken::Ended => stream_failed("the server ended it"),
        Broken::Failed(error) => {
            Failure::of_client(error, &Asked::default(), endpoints.name(endpoint)).error
        }
        Broken::Nonsense(malformed) => Failure::of_malformed(malformed, &Asked::default()).error,
    }
}

/// How a stream came to its end.
enum Broken {
    Ended,
    Failed(etcd_client::Error),
    Nonsense(Malformed),
}

/// Opens a stream on a member that answers, and is content with the login.
async fn open(endpoints: &Endpoints) -> Result<(Opened, WatchLine)> {
    let asked = Asked { waited: endpoints.options().request_timeout, ..Asked::default() };
    let opened = endpoints.call(&asked, |link| async move {
        let (nothing, options) = wire::probe(0);
        let stream = link.watch.clone().watch(nothing, Some(options)).await?;
        let (sender, mut stream) = stream.split();
        let refusal = stream.message().await?.ok_or_else(ended)?.0;
        if let Some(status) = wire::login_refused(&refusal.cancel_reason) {
            return Err(etcd_client::Error::GRpcStatus(status));
        }
        // No store is at revision 0.
        let proxied = refusal.header.as_ref().is_none_or(|header| header.revision == 0);
        let header = if proxied { revision(&link).await? } else { refusal.header };
        Ok((header, proxied, WatchLine { sender, stream, endpoint: link.endpoint }))
    });
    let (header, proxied, line) = opened.await?;
    let header = Header::from_wire(header).map_err(|m| Failure::of_malformed(m, &asked).error)?;
    Ok((Opened { header, endpoint: line.endpoint, proxied }, line))
}

/// How far the store is now.
pub(super) async fn now(endpoints: &Endpoints) -> Result<Header> {
    let asked = Asked { waited: endpoints.options().request_timeout, ..Asked::default() };
    let header = endpoints.call(&asked, |link| async move { revision(&link).await }).await?;
    Header::from_wire(header).map_err(|malformed| Failure::of_malformed(malformed, &asked).error)
}

async fn revision(link: &Link) -> Result<Option<PbResponseHeader>, etcd_client::Error> {
    let options = GetOptions::new().with_count_only();
    let mut kv = link.kv.clone();
    Ok(kv.get("\0", Some(options)).await?.0.header)
}

fn ended() -> etcd_client::Error {
    etcd_client::Error::WatchError("the server ended it".to_owned())
}

/// The next message.
async fn hear(stream: &mut WatchResponseStream) -> Result<Reply, Broken> {
    let message = stream.message().await.map_err(Broken::Failed)?;
    Reply::from_wire(message.ok_or(Broken::Ended)?.0).map_err(Broken::Nonsense)
}

async fn read(
    stream: &mut WatchResponseStream,
    news: &Sender<(Incarnation, News)>,
    incarnation: Incarnation,
) -> Broken {
    loop {
        match hear(stream).await {
            Ok(reply) => tell(news, incarnation, News::Reply(reply)).await,
            Err(broken) => return broken,
        }
    }
}

/// Tells the driver. It lives longer than its lanes, so somebody takes it.
async fn tell(news: &Sender<(Incarnation, News)>, incarnation: Incarnation, what: News) {
    let _ = news.send((incarnation, what)).await;
}

async fn write(mut sender: WatchRequestSender, mut outbox: UnboundedReceiver<Request>) -> Broken {
    while let Some(request) = outbox.recv().await {
        let sent = match request {
            Request::Create { id, start, watch } => {
                let (key, options) = wire::create(id, start, &watch);
                sender.watch(key, Some(options)).await
            }
            Request::Probe { id } => {
                let (nothing, options) = wire::probe(id);
                sender.watch(nothing, Some(options)).await
            }
            Request::Cancel { id } => sender.cancel(id).await,
            Request::Progress => sender.request_progress().await,
        };
        if let Err(error) = sent {
            return Broken::Failed(error);
        }
    }
    Broken::Ended
}
