//! The I/O of one watch stream: opens it, reads it and writes to it.
//!
//! A server sends no response headers before its first message, so a stream is opened with a
//! request that every etcd responds to at once: a watch of an empty range, which etcd refuses and
//! which leaves nothing behind. The refusal carries the revision of the store. If the login has
//! expired, the refusal states that instead, so an expired login is detected here too.
//!
//! `etcd grpc-proxy` refuses the range without a revision. That is how a proxy is recognized; the
//! revision is read with a request of its own.
//!
//! Reading and writing are concurrent: a server that accepts no requests may still send events.

use std::sync::Arc;

use coord_core::{Error, Result, kv::Header};
use etcd_client::proto::PbResponseHeader;
use etcd_client::{GetOptions, WatchRequestSender, WatchResponseStream};
use tokio::sync::mpsc::{Sender, UnboundedReceiver};

use super::machine::StreamRole;
use super::stream_failed;
use super::wire::{self, Reply, Request};
use crate::endpoints::{Endpoints, OpenWatchStream};
use crate::error::{Failure, RequestContext};
use crate::link::Link;
use crate::wire::{FromWire, Malformed};

/// The id of a stream: its role, and how many streams were opened before.
pub(super) type StreamId = (StreamRole, u64);

/// An event of a stream.
#[derive(Debug)]
pub(super) enum StreamEvent {
    /// It is open.
    Opened(Opened),
    /// The server sent a message.
    Reply(Reply),
}

/// A stream that was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    /// The header with the revision of the store.
    pub(super) header: Header,
    /// The number of the endpoint.
    pub(super) endpoint: usize,
    /// Whether the server is `etcd grpc-proxy`.
    pub(super) proxied: bool,
}

/// Runs a stream until it ends, and returns the reason.
pub(super) async fn run(
    endpoints: Arc<Endpoints>,
    requests: UnboundedReceiver<Request>,
    events: &Sender<(StreamId, StreamEvent)>,
    id: StreamId,
) -> Error {
    let (opened, stream) = match open(&endpoints).await {
        Ok(opened) => opened,
        Err(error) => return error,
    };
    let OpenWatchStream { sender, mut stream, endpoint } = stream;
    emit(events, id, StreamEvent::Opened(opened)).await;
    let end = tokio::select! {
        biased;
        end = read(&mut stream, events, id) => end,
        end = write(sender, requests) => end,
    };
    endpoints.avoid(endpoint);
    let context = RequestContext::default();
    match end {
        StreamEnd::Ended => stream_failed("the server ended it"),
        StreamEnd::Failed(error) => {
            Failure::from_client(error, &context, endpoints.name(endpoint)).error
        }
        StreamEnd::Malformed(malformed) => Failure::from_malformed(malformed, &context).error,
    }
}

/// Why a stream ended.
enum StreamEnd {
    Ended,
    Failed(etcd_client::Error),
    Malformed(Malformed),
}

/// Opens a stream on a member that responds and accepts the login.
async fn open(endpoints: &Endpoints) -> Result<(Opened, OpenWatchStream)> {
    let context = read_context(endpoints);
    let opened = endpoints.call(&context, |link| async move {
        let (key, options) = wire::probe(0);
        let stream = link.watch.clone().watch(key, Some(options)).await?;
        let (sender, mut stream) = stream.split();
        let refusal = stream.message().await?.ok_or_else(ended)?.0;
        if let Some(status) = wire::login_refused(&refusal.cancel_reason) {
            return Err(etcd_client::Error::GRpcStatus(status));
        }
        // No store is at revision 0.
        let proxied = refusal.header.as_ref().is_none_or(|header| header.revision == 0);
        let header = if proxied { revision(&link).await? } else { refusal.header };
        Ok((header, proxied, OpenWatchStream { sender, stream, endpoint: link.endpoint }))
    });
    let (header, proxied, stream) = opened.await?;
    let header =
        Header::from_wire(header).map_err(|m| Failure::from_malformed(m, &context).error)?;
    Ok((Opened { header, endpoint: stream.endpoint, proxied }, stream))
}

/// Reads the current revision of the store.
pub(super) async fn now(endpoints: &Endpoints) -> Result<Header> {
    let context = read_context(endpoints);
    let header = endpoints.call(&context, |link| async move { revision(&link).await }).await?;
    Header::from_wire(header).map_err(|m| Failure::from_malformed(m, &context).error)
}

fn read_context(endpoints: &Endpoints) -> RequestContext {
    RequestContext { waited: endpoints.options().request_timeout, ..RequestContext::default() }
}

async fn revision(link: &Link) -> Result<Option<PbResponseHeader>, etcd_client::Error> {
    let options = GetOptions::new().with_count_only();
    let mut kv = link.kv.clone();
    Ok(kv.get("\0", Some(options)).await?.0.header)
}

fn ended() -> etcd_client::Error {
    etcd_client::Error::WatchError("the server ended it".to_owned())
}

/// Reads the next message.
async fn next_reply(stream: &mut WatchResponseStream) -> Result<Reply, StreamEnd> {
    let message = stream.message().await.map_err(StreamEnd::Failed)?;
    Reply::from_wire(message.ok_or(StreamEnd::Ended)?.0).map_err(StreamEnd::Malformed)
}

async fn read(
    stream: &mut WatchResponseStream,
    events: &Sender<(StreamId, StreamEvent)>,
    id: StreamId,
) -> StreamEnd {
    loop {
        match next_reply(stream).await {
            Ok(reply) => emit(events, id, StreamEvent::Reply(reply)).await,
            Err(end) => return end,
        }
    }
}

/// Sends an event to the driver, which outlives its streams.
async fn emit(events: &Sender<(StreamId, StreamEvent)>, id: StreamId, event: StreamEvent) {
    let _ = events.send((id, event)).await;
}

async fn write(
    mut sender: WatchRequestSender,
    mut requests: UnboundedReceiver<Request>,
) -> StreamEnd {
    while let Some(request) = requests.recv().await {
        let sent = match request {
            Request::Create { id, start, watch } => {
                let (key, options) = wire::create(id, start, &watch);
                sender.watch(key, Some(options)).await
            }
            Request::Probe { id } => {
                let (key, options) = wire::probe(id);
                sender.watch(key, Some(options)).await
            }
            Request::Cancel { id } => sender.cancel(id).await,
            Request::Progress => sender.request_progress().await,
        };
        if let Err(error) = sent {
            return StreamEnd::Failed(error);
        }
    }
    StreamEnd::Ended
}
