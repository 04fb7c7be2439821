//! Watches across the simulated network: a pump at the store sends each batch as a message, and the
//! process's side of the watch receives it.
//!
//! Each batch has a latency of its own, but the batches of one watch keep their order: a message
//! delivers the oldest batch that is in flight, whichever batch the message was sent for.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};

use coord_core::error::Outcome;
use coord_core::kv::{WatchBatch, WatchStream, Watcher};
use coord_core::{Result, sync};
use futures_util::{Stream, StreamExt as _};
use tokio::time::Instant;

use super::broken;
use crate::history::EventKind;
use crate::sim::faults::{self, Fault, WATCH_SILENCE};
use crate::sim::world::{BatchQueue, Message, Owner, World};

/// A watch for a process, whose batches cross the network.
pub(super) fn across_the_network(
    world: &Arc<World>,
    owner: Owner,
    index: usize,
    watch: Watcher,
) -> Watcher {
    let (header, state) = (watch.header(), Mutex::default());
    let channel = Arc::new(Channel { world: Arc::downgrade(world), owner, state });
    let pump = Pump { watch, channel: Arc::clone(&channel), index };
    // The server sends batches whether or not the process runs.
    world.spawn(Owner::Harness, Box::pin(pump.run()));
    Watcher::new(header, SimWatch { channel, has_ended: false })
}

/// The batches of one watch between the store and the process.
struct Channel {
    world: Weak<World>,
    owner: Owner,
    state: Mutex<ChannelState>,
}

#[derive(Default)]
struct ChannelState {
    in_flight: VecDeque<Option<Result<WatchBatch>>>,
    delivered: VecDeque<Option<Result<WatchBatch>>>,
    receiver: Option<Waker>,
    pump: Option<Waker>,
    /// The batches arrive in order: none before this time.
    last_delivery: Option<Instant>,
    is_progress_requested: bool,
    is_dropped: bool,
}

impl BatchQueue for Channel {
    fn deliver(&self) -> Option<EventKind> {
        let mut state = sync::lock(&self.state);
        let batch = state.in_flight.pop_front()?;
        let event = match &batch {
            Some(Ok(batch)) => {
                EventKind::Watched { revision: batch.revision, events: batch.events.len() }
            }
            Some(Err(error)) => EventKind::Fault(format!("watch ended: {error}")),
            None => EventKind::Note("watch ended".to_owned()),
        };
        state.delivered.push_back(batch);
        let receiver = state.receiver.take();
        drop(state);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        Some(event)
    }
}

/// The server's side of a watch: sends each batch of the store's watch to the process.
struct Pump {
    watch: Watcher,
    channel: Arc<Channel>,
    index: usize,
}

impl Pump {
    /// Runs until the watch ends on either side.
    async fn run(mut self) {
        let channel = Arc::clone(&self.channel);
        loop {
            let next = std::future::poll_fn(|cx| {
                let mut state = sync::lock(&channel.state);
                if state.is_dropped {
                    return Poll::Ready(None);
                }
                if std::mem::take(&mut state.is_progress_requested) {
                    self.watch.request_progress();
                }
                state.pump = Some(cx.waker().clone());
                drop(state);
                self.watch.poll_next_unpin(cx).map(Some)
            });
            let Some(batch) = next.await else { return };
            if self.send(batch) {
                return;
            }
        }
    }

    /// Sends a batch. Returns whether it is the last one.
    fn send(&self, batch: Option<Result<WatchBatch>>) -> bool {
        let Some(world) = self.channel.world.upgrade() else { return true };
        let mut state = world.lock();
        let withheld = |name: &str| format!("progress notification of a watch of {name}");
        if matches!(&batch, Some(Ok(batch)) if batch.events.is_empty())
            && state.choose(self.index, |lanes| lanes.progress, None, withheld) > 0
        {
            state.choices.coverage.note_mattered(Fault::ProgressWithheld);
            return false;
        }
        let words = |name: &str| match &batch {
            Some(Ok(batch)) => format!("watch batch of revision {} for {name}", batch.revision),
            _ => format!("end of a watch of {name}"),
        };
        let value = state.choose(self.index, |lanes| lanes.batch, None, words);
        let mut channel = sync::lock(&self.channel.state);
        if value > 0 {
            let fault = faults::BATCH[usize::from(value)].fault;
            state.choices.coverage.note_mattered(fault);
        }
        let process = &state.processes[self.index];
        let (batch, latency) = match value {
            4 => (batch, WATCH_SILENCE),
            5 => (Some(Err(broken(Outcome::NotApplied))), process.latency(0)),
            value => (batch, process.latency(value)),
        };
        let is_last = !matches!(batch, Some(Ok(_)));
        channel.in_flight.push_back(batch);
        let now = Instant::now();
        let at = (now + latency).max(channel.last_delivery.unwrap_or(now));
        channel.last_delivery = Some(at);
        drop(channel);
        let delivery = Message::Batch(Arc::clone(&self.channel) as Arc<dyn BatchQueue>);
        state.send(self.channel.owner, at - now, delivery);
        is_last
    }
}

/// The process's side of a watch.
struct SimWatch {
    channel: Arc<Channel>,
    has_ended: bool,
}

impl Stream for SimWatch {
    type Item = Result<WatchBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let mut state = sync::lock(&self.channel.state);
        let Some(batch) = state.delivered.pop_front() else {
            state.receiver = Some(cx.waker().clone());
            return Poll::Pending;
        };
        drop(state);
        self.has_ended = !matches!(batch, Some(Ok(_)));
        Poll::Ready(batch)
    }
}

impl WatchStream for SimWatch {
    fn request_progress(self: Pin<&mut Self>) {
        self.wake_pump(|state| state.is_progress_requested = true);
    }
}

impl SimWatch {
    fn wake_pump(&self, change: impl FnOnce(&mut ChannelState)) {
        let mut state = sync::lock(&self.channel.state);
        change(&mut state);
        let pump = state.pump.take();
        drop(state);
        if let Some(pump) = pump {
            pump.wake();
        }
    }
}

impl Drop for SimWatch {
    fn drop(&mut self) {
        self.wake_pump(|state| state.is_dropped = true);
    }
}
