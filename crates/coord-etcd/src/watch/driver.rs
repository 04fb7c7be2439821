//! The driver: the task that owns the watch streams and runs the state machine.
//!
//! The driver passes commands of watches, events of streams and the time to the machine, and
//! executes the actions that the machine returns. It never waits for a reader or a server, so
//! neither delays it.

use std::sync::Arc;

use coord_core::Error;
use tokio::sync::mpsc::{
    Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel,
};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::Command;
use super::machine::{Action, Machine, MachineConfig, StreamRole};
use super::stream::{self, StreamEvent, StreamId};
use super::wire::Request;
use crate::endpoints::Endpoints;

/// How many stream events may wait for the driver. While the channel is full, streams are not read.
const EVENT_CHANNEL_CAPACITY: usize = 64;

/// The owner of the watch streams and of the machine.
#[derive(Debug)]
pub(super) struct Driver {
    machine: Machine,
    endpoints: Arc<Endpoints>,
    /// The streams, by role.
    streams: [Option<RunningStream>; 2],
    tasks: JoinSet<(StreamId, Error)>,
    /// How many streams were opened so far.
    opened: u64,
    events_in: Sender<(StreamId, StreamEvent)>,
    events: Receiver<(StreamId, StreamEvent)>,
}

/// A stream that is open or being opened.
#[derive(Debug)]
struct RunningStream {
    id: StreamId,
    requests: UnboundedSender<Request>,
    task: AbortHandle,
    /// The number of the endpoint that serves the stream, once it is open.
    endpoint: Option<usize>,
}

impl Driver {
    pub(super) fn new(endpoints: Arc<Endpoints>) -> Self {
        let options = endpoints.options();
        let config = MachineConfig {
            registration_timeout: options.request_timeout,
            has_login: options.login.is_some(),
        };
        let (events_in, events) = channel(EVENT_CHANNEL_CAPACITY);
        Self {
            machine: Machine::new(config),
            endpoints,
            streams: [None, None],
            tasks: JoinSet::new(),
            opened: 0,
            events_in,
            events,
        }
    }

    /// Runs until every sender of commands is dropped. The streams end with the driver.
    pub(super) async fn run(mut self, mut commands: UnboundedReceiver<Command>) {
        loop {
            let deadline = self.machine.deadline();
            let wait = sleep_until(deadline.unwrap_or_else(Instant::now));
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => return,
                },
                // Before `tasks`, because the events of a stream precede its end.
                Some((id, event)) = self.events.recv() => self.on_event(id, event),
                Some(end) = self.tasks.join_next() => self.on_end(end),
                () = wait, if deadline.is_some() => self.machine.tick(Instant::now()),
            }
            for action in self.machine.take_actions() {
                self.execute(action);
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Add { number, request, buffer, reply } => {
                self.machine.add(number, request, buffer, reply, now);
            }
            Command::Remove(number) => self.machine.remove(number),
            Command::Resume(number) => self.machine.resume(number, now),
            Command::Progress(number) => self.machine.request_progress(number, now),
            Command::EndAll(error) => self.machine.end_all(&error),
        }
    }

    fn on_event(&mut self, id: StreamId, event: StreamEvent) {
        let (role, _) = id;
        if !self.is_current(id) {
            return;
        }
        match event {
            StreamEvent::Opened(stream::Opened { header, endpoint, proxied }) => {
                if let Some(running) = &mut self.streams[role as usize] {
                    running.endpoint = Some(endpoint);
                }
                self.machine.on_opened(role, header, proxied, Instant::now());
            }
            StreamEvent::Message(message) => self.machine.on_message(role, message, Instant::now()),
        }
    }

    fn is_current(&self, id: StreamId) -> bool {
        let running = &self.streams[id.0 as usize];
        running.as_ref().is_some_and(|running| running.id == id)
    }

    fn on_end(&mut self, end: Result<(StreamId, Error), JoinError>) {
        let (id, error) = match end {
            Ok(end) => end,
            Err(aborted) if aborted.is_cancelled() => return,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        if self.is_current(id) {
            let (role, _) = id;
            tracing::debug!(?role, %error, "watch stream lost");
            self.streams[role as usize] = None;
            self.machine.on_lost(role, &error, Instant::now());
        }
    }

    fn execute(&mut self, action: Action) {
        match action {
            Action::Open(role) => self.open(role),
            Action::Close(role) => drop(self.close(role)),
            Action::FailOver(role) => {
                if let Some(endpoint) = self.close(role) {
                    self.endpoints.avoid(endpoint);
                }
            }
            Action::Send(role, request) => {
                if let Some(running) = &self.streams[role as usize] {
                    // Fails if the stream has ended. `on_end` then registers its watches again.
                    let _ = running.requests.send(request);
                }
            }
        }
    }

    fn open(&mut self, role: StreamRole) {
        self.opened += 1;
        let id = (role, self.opened);
        let (requests, outgoing) = unbounded_channel();
        let endpoints = Arc::clone(&self.endpoints);
        let events = self.events_in.clone();
        let task = self.tasks.spawn(async move {
            let error = stream::run(endpoints, outgoing, &events, id).await;
            (id, error)
        });
        self.streams[role as usize] = Some(RunningStream { id, requests, task, endpoint: None });
    }

    /// Closes a stream. Returns the number of its endpoint if the stream was open.
    fn close(&mut self, role: StreamRole) -> Option<usize> {
        let running = self.streams[role as usize].take()?;
        running.task.abort();
        running.endpoint
    }
}
