//! The reader's end of a watch.

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
use super::machine::WatchKey;
use super::{Command, driver_is_gone};
use crate::denied;
use crate::endpoints::Endpoints;

/// The stream behind a [`Watch`](coord_core::kv::Watcher) of an `EtcdBackend`.
///
/// It exists before the watch is registered, so that dropping the registration cancels the watch
/// too.
#[derive(Debug)]
pub(super) struct EtcdWatch {
    key: WatchKey,
    buffer: Arc<ReaderBuffer>,
    commands: UnboundedSender<Command>,
    /// For errors that name the user and the keys.
    endpoints: Arc<Endpoints>,
    request: Watch,
}

impl EtcdWatch {
    pub(super) const fn new(
        key: WatchKey,
        buffer: Arc<ReaderBuffer>,
        commands: UnboundedSender<Command>,
        endpoints: Arc<Endpoints>,
        request: Watch,
    ) -> Self {
        Self { key, buffer, commands, endpoints, request }
    }

    fn complete(&self, error: Error) -> Error {
        denied::complete(error, self.endpoints.options().login.as_ref(), &self.request)
    }

    /// Sends a command to the driver. If the driver is gone with its runtime, the watch ends.
    pub(super) fn send(&self, command: Command) {
        if self.commands.send(command).is_err() {
            self.buffer.end(driver_is_gone());
        }
    }
}

impl Stream for EtcdWatch {
    type Item = Result<WatchBatch>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let taken = self.buffer.take(cx);
        if taken.resume {
            self.send(Command::Resume(self.key));
        }
        if taken.item.is_ready() {
            coop.made_progress();
        }
        taken.item.map_err(|error| self.complete(error))
    }
}

impl WatchStream for EtcdWatch {
    fn request_progress(self: Pin<&mut Self>) {
        self.send(Command::Progress(self.key));
    }
}

impl Drop for EtcdWatch {
    fn drop(&mut self) {
        // If the driver is gone, there is no registration to cancel.
        let _ = self.commands.send(Command::Remove(self.key));
    }
}
