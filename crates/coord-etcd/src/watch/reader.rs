//! The reader's end of a watch: a stream of batches from the reader buffer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use coord_core::{
    Error, Result,
    kv::{Watch, WatchBatch, WatchStream},
};
use futures_core::Stream;
use tokio::sync::mpsc::UnboundedSender;

use super::buffer::ReaderBuffer;
use super::machine::WatchNumber;
use super::{Command, driver_gone_error};
use crate::denied;
use crate::endpoints::Endpoints;

/// The stream inside the [`Watcher`](coord_core::kv::Watcher) of an `EtcdBackend`.
///
/// It is created before the watch is registered, so that dropping the future of the registration
/// removes the watch too.
#[derive(Debug)]
pub(super) struct EtcdWatch {
    number: WatchNumber,
    buffer: Arc<ReaderBuffer>,
    commands: UnboundedSender<Command>,
    /// For the login, which errors name.
    endpoints: Arc<Endpoints>,
    request: Watch,
}

impl EtcdWatch {
    pub(super) const fn new(
        number: WatchNumber,
        buffer: Arc<ReaderBuffer>,
        commands: UnboundedSender<Command>,
        endpoints: Arc<Endpoints>,
        request: Watch,
    ) -> Self {
        Self { number, buffer, commands, endpoints, request }
    }

    /// Adds the user and the keys to a permission error.
    fn complete(&self, error: Error) -> Error {
        denied::complete(error, self.endpoints.options().login.as_ref(), &self.request)
    }

    /// Sends a command to the driver. Ends the watch if the driver's runtime was shut down.
    pub(super) fn send(&self, command: Command) {
        if self.commands.send(command).is_err() {
            self.buffer.end(driver_gone_error());
        }
    }
}

impl Stream for EtcdWatch {
    type Item = Result<WatchBatch>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let taken = self.buffer.take(cx);
        if taken.resume {
            self.send(Command::Resume(self.number));
        }
        if taken.item.is_ready() {
            coop.made_progress();
        }
        taken.item.map_err(|error| self.complete(error))
    }
}

impl WatchStream for EtcdWatch {
    fn request_progress(self: Pin<&mut Self>) {
        self.send(Command::Progress(self.number));
    }
}

impl Drop for EtcdWatch {
    fn drop(&mut self) {
        // Fails if the driver's runtime was shut down. Then no registration is left.
        let _ = self.commands.send(Command::Remove(self.number));
    }
}
