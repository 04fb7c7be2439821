//! The signals that this program handles: INT, TERM, HUP and QUIT.
//!
//! A release request of another client has the effect of TERM. It is sent through a channel, not as
//! a signal of the system: a signal that is received too late cannot be discarded, and would end
//! the wait for the release.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The signals that end a command or a wait.
const HANDLED_SIGNALS: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

/// The same signal within this time is a duplicate. `timeout` sends its signal to this program and
/// then to its process group, and a closed terminal sends HUP twice. A user is not that fast.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(200);

/// Receives the handled signals. While it exists, none of them terminates the program.
///
/// A signal that was ignored when the program started stays ignored, and is not forwarded: `nohup`
/// ignores HUP, and a shell ignores INT for a background job.
#[derive(Debug)]
pub(crate) struct Signals {
    streams: Vec<(Signal, unix::Signal)>,
    /// The signals that this program sends to itself, and their sender.
    requests: mpsc::UnboundedReceiver<Signal>,
    request_sender: mpsc::UnboundedSender<Signal>,
    /// The last received signal, and when it was received.
    last: Option<(Signal, Instant)>,
    /// Whether INT, TERM or QUIT has been received. HUP does not count, because many programs
    /// reload their configuration on it.
    stop_requested: bool,
    /// The signals that the parent blocked.
    inherited_mask: SigSet,
}

impl Signals {
    /// The same as [`Signals::new`], and ctrl-Z does not stop the program: a stopped program could
    /// not stop the command when the lock is lost.
    pub(crate) fn for_holder() -> io::Result<Self> {
        // tokio handles the signal from here on, also without a receiver.
        drop(unix::signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?);
        Self::new()
    }

    /// Starts to handle the signals.
    pub(crate) fn new() -> io::Result<Self> {
        let ignored = ignored_mask();
        let mut streams = Vec::new();
        for signal in HANDLED_SIGNALS {
            if ignored & (1 << (signal.as_raw() - 1)) == 0 {
                let kind = SignalKind::from_raw(signal.as_raw());
                streams.push((signal, unix::signal(kind)?));
            }
        }
        // After the handlers are installed, so that a signal that is pending now reaches them.
        let inherited_mask = unblock_handled()?;
        let (request_sender, requests) = mpsc::unbounded_channel();
        let (last, stop_requested) = (None, false);
        Ok(Self { streams, requests, request_sender, last, stop_requested, inherited_mask })
    }

    /// The signal mask that this program was started with. A command that it runs gets the same.
    pub(crate) const fn inherited_mask(&self) -> SigSet {
        self.inherited_mask
    }

    /// Returns the sender of signals that this program sends to itself.
    pub(crate) fn request_sender(&self) -> mpsc::UnboundedSender<Signal> {
        self.request_sender.clone()
    }

    /// Discards the signals that this program has sent to itself and not received yet.
    pub(crate) fn discard_requests(&mut self) {
        while self.requests.try_recv().is_ok() {}
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> Signal {
        let signal = self.receive().await;
        self.last = Some((signal, Instant::now()));
        self.stop_requested |= signal != Signal::HUP;
        signal
    }

    /// Whether INT, TERM or QUIT has been received.
    pub(crate) const fn stop_requested(&self) -> bool {
        self.stop_requested
    }

    /// Waits for the next signal that is no duplicate of the last one.
    pub(crate) async fn next_distinct(&mut self) -> Signal {
        loop {
            let before = self.last;
            let signal = self.next().await;
            if before.is_none_or(|(last, at)| last != signal || at.elapsed() >= DUPLICATE_WINDOW) {
                return signal;
            }
        }
    }

    async fn receive(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (signal, stream) in &mut self.streams {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*signal);
                }
            }
            // This struct has a sender, so the channel is never closed.
            self.requests.poll_recv(context).map(|request| request.unwrap_or(Signal::TERM))
        })
        .await
    }
}

/// Unblocks the handled signals and CHLD for this thread, and so for the process. If the parent
/// blocked the handled signals, only KILL could end the program. Returns the signal mask before.
fn unblock_handled() -> io::Result<SigSet> {
    let inherited = SigSet::thread_get_mask()?;
    let mut needed = SigSet::empty();
    for signal in HANDLED_SIGNALS.into_iter().chain([Signal::CHILD]) {
        needed.add(nix::sys::signal::Signal::try_from(signal.as_raw())?);
    }
    needed.thread_unblock()?;
    Ok(inherited)
}

/// Spawns a child with this signal mask: a child inherits the mask of the thread that spawns it.
pub(crate) fn spawn_with_mask<T>(
    mask: SigSet,
    spawn: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let own = mask.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let child = spawn();
    own.thread_set_mask()?;
    child
}

/// The exit status by which a shell reports that this signal ended a process.
pub(crate) fn status_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX)
}

/// The name of a handled signal.
pub(crate) const fn name_of(signal: Signal) -> &'static str {
    match signal {
        Signal::INT => "INT",
        Signal::HUP => "HUP",
        Signal::QUIT => "QUIT",
        _ => "TERM",
    }
}

/// The signals that this process ignores, one bit each. Empty where the system does not report
/// them.
fn ignored_mask() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}
