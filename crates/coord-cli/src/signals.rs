//! The signals that this program handles: INT, TERM, HUP and QUIT.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sys::signal::SigSet;
use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};
use tokio::time::Instant;

const HEARD: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

/// The same signal so soon again is an echo: `timeout` sends it to this program and then to the
/// group that this is in, and who closes a terminal hangs up twice. People are not as quick.
const ECHO: Duration = Duration::from_millis(200);

/// From now on, no such signal ends the program; each is to be had here.
///
/// Whoever started the program may have had it ignore some: `nohup` does so with HUP, a shell with
/// INT for what runs in the background. Those it does not hear, and so passes on to nobody.
#[derive(Debug)]
pub(crate) struct Signals {
    heard: Vec<(Signal, unix::Signal)>,
    /// The last one, and when it was had.
    last: Option<(Signal, Instant)>,
    /// Whether INT, TERM or QUIT has been received: HUP may mean to read a configuration again.
    stop_requested: bool,
    /// The signals that the parent blocked.
    inherited_mask: SigSet,
}

impl Signals {
    /// As [`Signals::new`], and neither does ctrl-Z stop the program: that would leave a command
    /// running that nobody watches over.
    pub(crate) fn of_a_holder() -> io::Result<Self> {
        // It is heard from now on, also where nobody listens.
        drop(unix::signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?);
        Self::new()
    }

    pub(crate) fn new() -> io::Result<Self> {
        let ignored = ignored();
        let mut heard = Vec::new();
        for signal in HEARD {
            if ignored & (1 << (signal.as_raw() - 1)) == 0 {
                let kind = SignalKind::from_raw(signal.as_raw());
                heard.push((signal, unix::signal(kind)?));
            }
        }
        // Handled from here on, so that one which was sent while it was blocked is delivered here.
        let inherited_mask = unblocked()?;
        Ok(Self { heard, last: None, stop_requested: false, inherited_mask })
    }

    /// The signal mask that this program was started with, for a command that it runs.
    pub(crate) const fn inherited_mask(&self) -> SigSet {
        self.inherited_mask
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Signal {
        let signal = self.heard().await;
        self.last = Some((signal, Instant::now()));
        self.stop_requested |= signal != Signal::HUP;
        signal
    }

    /// Whether INT, TERM or QUIT has been received.
    pub(crate) const fn stop_requested(&self) -> bool {
        self.stop_requested
    }

    /// The next one by which somebody insists: an echo of the last is not.
    pub(crate) async fn insists(&mut self) -> Signal {
        loop {
            let before = self.last;
            let signal = self.next().await;
            if before.is_none_or(|(last, at)| last != signal || at.elapsed() >= ECHO) {
                return signal;
            }
        }
    }

    async fn heard(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (signal, stream) in &mut self.heard {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*signal);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// Unblocks the signals that this program handles, for this thread and so for the process. A parent
/// that blocks them would leave it with KILL only. Returns the mask before.
fn unblocked() -> io::Result<SigSet> {
    let inherited = SigSet::thread_get_mask()?;
    let mut needed = SigSet::empty();
    for signal in HEARD.into_iter().chain([Signal::CHILD]) {
        needed.add(nix::sys::signal::Signal::try_from(signal.as_raw())?);
    }
    needed.thread_unblock()?;
    Ok(inherited)
}

/// What a shell calls the end by this signal.
pub(crate) fn status_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX)
}

/// The name of a signal that this program handles.
pub(crate) const fn name_of(signal: Signal) -> &'static str {
    match signal {
        Signal::INT => "INT",
        Signal::HUP => "HUP",
        Signal::QUIT => "QUIT",
        _ => "TERM",
    }
}

/// One bit for each signal that this process ignores; none where the system does not tell.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}
