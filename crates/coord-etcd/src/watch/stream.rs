//! The I/O of one watch stream: opens it, reads it and writes to it.
//!
//! A server sends no response headers before its first message. So a stream is opened with a
//! request that every etcd responds to at once: a watch of an empty range, which etcd refuses
//! without a trace. The refusal carries the revision of the store. If the login has expired, the
//! refusal states that instead, so an expired login is detected here too.
//!
//! The refusal of `etcd grpc-proxy` carries no revision. That identifies the proxy; the revision is
//! read with a request of its own.
//!
//! Reading and writing are concurrent, because a server that accepts no requests may still send
//! events.

use std::sync::Arc;

use coord_core::{Error, Result, kv::Header};
use etcd_client::proto::PbResponseHeader;
use etcd_client::{GetOptions, WatchRequestSender, WatchResponseStream};
use tokio::sync::mpsc::{Sender, UnboundedReceiver};

use super::machine::StreamRole;
use super::stream_error;
use super::wire::{self, Request, ServerMessage};
use crate::endpoints::{Endpoints, OpenWatchStream};
use crate::error::{Failure, RequestContext};
use crate::link::Link;
use crate::wire::{FromWire, Malformed};

/// The id of a stream: its role, and its number in the order in which streams were opened.
pub(super) type StreamId = (StreamRole, u64);

/// An event of a stream.
#[derive(Debug)]
pub(super) enum StreamEvent {
    /// The stream is open.
    Opened(Opened),
    /// The server sent a message.
    Message(ServerMessage),
}

/// The properties of a stream that was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    /// The header with the revision of the store.
    pub(super) header: Header,
    /// The number of the endpoint that serves the stream.
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
        StreamEnd::Ended => stream_error("the server ended the stream"),
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
        let refusal = stream.message().await?.ok_or_else(stream_ended)?.0;
        if let Some(status) = wire::login_error(&refusal.cancel_reason) {
            return Err(etcd_client::Error::GRpcStatus(status));
        }
        // No store is at revision 0.
        let proxied = refusal.header.as_ref().is_none_or(|header| header.revision == 0);
        let header = if proxied { read_header(&link).await? } else { refusal.header };
        Ok((header, proxied, OpenWatchStream { sender, stream, endpoint: link.endpoint }))
    });
    let (header, proxied, stream) = opened.await?;
    let header =
        Header::from_wire(header).map_err(|m| Failure::from_malformed(m, &context).error)?;
    Ok((Opened { header, endpoint: stream.endpoint, proxied }, stream))
}

/// Reads a header with the current revision of the store.
pub(super) async fn current_header(endpoints: &Endpoints) -> Result<Header> {
    let context = read_context(endpoints);
    let header = endpoints.call(&context, |link| async move { read_header(&link).await }).await?;
    Header::from_wire(header).map_err(|m| Failure::from_malformed(m, &context).error)
}

fn read_context(endpoints: &Endpoints) -> RequestContext {
    RequestContext { timeout: endpoints.options().request_timeout, ..RequestContext::default() }
}

/// Reads a header at one endpoint: the response to a read of a key that does not exist.
async fn read_header(link: &Link) -> Result<Option<PbResponseHeader>, etcd_client::Error> {
    let options = GetOptions::new().with_count_only();
    let mut kv = link.kv.clone();
    Ok(kv.get("\0", Some(options)).await?.0.header)
}

fn stream_ended() -> etcd_client::Error {
    etcd_client::Error::WatchError("the server ended the watch stream".to_owned())
}

/// Waits for the next message.
async fn next_message(stream: &mut WatchResponseStream) -> Result<ServerMessage, StreamEnd> {
    let message = stream.message().await.map_err(StreamEnd::Failed)?;
    ServerMessage::from_wire(message.ok_or(StreamEnd::Ended)?.0).map_err(StreamEnd::Malformed)
}

/// Delivers the server's messages to the driver.
async fn read(
    stream: &mut WatchResponseStream,
    events: &Sender<(StreamId, StreamEvent)>,
    id: StreamId,
) -> StreamEnd {
    loop {
        match next_message(stream).await {
            Ok(message) => emit(events, id, StreamEvent::Message(message)).await,
            Err(end) => return end,
        }
    }
}

/// Sends an event to the driver. Cannot fail, because the driver outlives its streams.
async fn emit(events: &Sender<(StreamId, StreamEvent)>, id: StreamId, event: StreamEvent) {
    let _ = events.send((id, event)).await;
}

/// Sends the requests of the machine.
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
