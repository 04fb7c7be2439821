//! A watch as its reader sees it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use coord_core::{Error, Result, WatchBatch, WatchRequest, WatchStream};
use futures_core::Stream;
use tokio::sync::mpsc::UnboundedSender;

use super::machine::WatchKey;
use super::slot::Slot;
use super::{Command, driver_is_gone};
use crate::denied;
use crate::endpoints::Endpoints;

/// The stream behind a [`Watch`](coord_core::Watch) of an `EtcdBackend`.
///
/// It exists before the watch is registered, so that a registration that is dropped midway is
/// cancelled like any other watch.
#[derive(Debug)]
pub(super) struct EtcdWatch {
    key: WatchKey,
    slot: Arc<Slot>,
    commands: UnboundedSender<Command>,
    /// For errors that name the user and the keys.
    endpoints: Arc<Endpoints>,
    request: WatchRequest,
}

impl EtcdWatch {
    pub(super) const fn new(
        key: WatchKey,
        slot: Arc<Slot>,
        commands: UnboundedSender<Command>,
        endpoints: Arc<Endpoints>,
        request: WatchRequest,
    ) -> Self {
        Self { key, slot, commands, endpoints, request }
    }

    fn named(&self, error: Error) -> Error {
        denied::complete(error, self.endpoints.options().login.as_ref(), &self.request)
    }

    /// Tells the driver. If it is gone, with the runtime that it ran on, the watch has ended.
    pub(super) fn tell(&self, command: Command) {
        if self.commands.send(command).is_err() {
            self.slot.end(driver_is_gone());
        }
    }
}

impl Stream for EtcdWatch {
    type Item = Result<WatchBatch>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let taken = self.slot.take(cx);
        if taken.go_on {
            self.tell(Command::GoOn(self.key));
        }
        if taken.item.is_ready() {
            coop.made_progress();
        }
        taken.item.map_err(|error| self.named(error))
    }
}

impl WatchStream for EtcdWatch {
    fn request_progress(self: Pin<&mut Self>) {
        self.tell(Command::Progress(self.key));
    }
}

impl Drop for EtcdWatch {
    fn drop(&mut self) {
        // A driver that is gone has nothing left to cancel.
        let _ = self.commands.send(Command::Remove(self.key));
    }
}
