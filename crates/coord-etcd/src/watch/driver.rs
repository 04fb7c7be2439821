//! The task that owns the streams: it carries what happens to the machine, and does what that says.
//!
//! It waits for three things: what watches want, what streams say, and the time. It never waits
//! for anybody to take something, so nothing that a reader or a server fails to do holds it up.

use std::sync::Arc;

use coord_core::Error;
use tokio::sync::mpsc::{
    Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel,
};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::Command;
use super::lane::{self, Incarnation, News};
use super::machine::{Action, LaneName, Machine, Settings};
use super::wire::Request;
use crate::endpoints::Endpoints;

/// The most messages that wait for the driver; a stream that is ahead of it is not read meanwhile.
const INBOX: usize = 64;

/// The owner of the streams.
#[derive(Debug)]
pub(super) struct Driver {
    machine: Machine,
    endpoints: Arc<Endpoints>,
    lanes: [Option<Running>; 2],
    tasks: JoinSet<(Incarnation, Error)>,
    incarnations: u64,
    news: Sender<(Incarnation, News)>,
    inbox: Receiver<(Incarnation, News)>,
}

/// A stream that is open, or being opened.
#[derive(Debug)]
struct Running {
    incarnation: Incarnation,
    outbox: UnboundedSender<Request>,
    task: AbortHandle,
    /// Where it goes, once it is open.
    endpoint: Option<usize>,
}

impl Driver {
    pub(super) fn new(endpoints: Arc<Endpoints>) -> Self {
        let options = endpoints.options();
        let settings =
            Settings { attempt: options.request_timeout, has_login: options.login.is_some() };
        let (news, inbox) = channel(INBOX);
        Self {
            machine: Machine::new(settings),
            endpoints,
            lanes: [None, None],
            tasks: JoinSet::new(),
            incarnations: 0,
            news,
            inbox,
        }
    }

    /// Works until nobody can send a command any more. Its streams end with it.
    pub(super) async fn run(mut self, mut commands: UnboundedReceiver<Command>) {
        loop {
            let deadline = self.machine.deadline();
            let wait = sleep_until(deadline.unwrap_or_else(Instant::now));
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                // Before the ends of streams: what they said before comes first.
                Some((incarnation, news)) = self.inbox.recv() => self.heard(incarnation, news),
                Some(end) = self.tasks.join_next() => self.ended(end),
                () = wait, if deadline.is_some() => self.machine.tick(Instant::now()),
            }
            for action in self.machine.take_actions() {
                self.act(action);
            }
        }
    }

    fn command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Add { key, request, slot, reply } => {
                self.machine.add(key, request, slot, reply, now);
            }
            Command::Remove(key) => self.machine.remove(key),
            Command::GoOn(key) => self.machine.go_on(key, now),
            Command::Progress(key) => self.machine.request_progress(key, now),
            Command::EndAll(error) => self.machine.end_all(&error),
        }
    }

    fn heard(&mut self, incarnation: Incarnation, news: News) {
        let (name, _) = incarnation;
        if !self.is_current(incarnation) {
            return;
        }
        match news {
            News::Opened(lane::Opened { header, endpoint, proxied }) => {
                if let Some(running) = &mut self.lanes[name as usize] {
                    running.endpoint = Some(endpoint);
                }
                self.machine.opened(name, header, proxied, Instant::now());
            }
            News::Reply(reply) => self.machine.reply(name, reply, Instant::now()),
        }
    }

    fn is_current(&self, incarnation: Incarnation) -> bool {
        let running = &self.lanes[incarnation.0 as usize];
        running.as_ref().is_some_and(|running| running.incarnation == incarnation)
    }

    fn ended(&mut self, end: Result<(Incarnation, Error), JoinError>) {
        let (incarnation, error) = match end {
            Ok(end) => end,
            Err(aborted) if aborted.is_cancelled() => return,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        if self.is_current(incarnation) {
            let (name, _) = incarnation;
            tracing::debug!(?name, %error, "watch stream lost");
            self.lanes[name as usize] = None;
            self.machine.lost(name, &error, Instant::now());
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Open(lane) => self.open(lane),
            Action::Close(lane) => drop(self.close(lane)),
            Action::GiveUp(lane) => {
                if let Some(endpoint) = self.close(lane) {
                    self.endpoints.avoid(endpoint);
                }
            }
            Action::Send(lane, request) => {
                if let Some(running) = &self.lanes[lane as usize] {
                    // A stream that has just ended is about to be reported as lost.
                    let _ = running.outbox.send(request);
                }
            }
        }
    }

    fn open(&mut self, name: LaneName) {
        self.incarnations += 1;
        let incarnation = (name, self.incarnations);
        let (outbox, requests) = unbounded_channel();
        let endpoints = Arc::clone(&self.endpoints);
        let news = self.news.clone();
        let task = self.tasks.spawn(async move {
            let error = lane::run(endpoints, requests, &news, incarnation).await;
            (incarnation, error)
        });
        self.lanes[name as usize] = Some(Running { incarnation, outbox, task, endpoint: None });
    }

    /// Where the stream went that is closed.
    fn close(&mut self, name: LaneName) -> Option<usize> {
        let running = self.lanes[name as usize].take()?;
        running.task.abort();
        running.endpoint
    }
}
