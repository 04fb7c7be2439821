//! The signals that this program hears: those by which it is told to stop.

use std::fs;
use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

const HEARD: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

/// From now on, no such signal ends the program; each is to be had here.
///
/// Whoever started the program may have had it ignore some: `nohup` does so with HUP, a shell with
/// INT for what runs in the background. Those it does not hear, and so passes on to nobody.
#[derive(Debug)]
pub(crate) struct Signals {
    heard: Vec<(Signal, unix::Signal)>,
    /// Heard, and not listened to: see [`Signals::new`].
    _stop: unix::Signal,
}

impl Signals {
    /// Neither does ctrl-Z stop it, which would leave a command running that nobody watches over.
    pub(crate) fn new() -> io::Result<Self> {
        let stop = unix::signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?;
        let ignored = ignored();
        let mut heard = Vec::new();
        for signal in HEARD {
            if ignored & (1 << (signal.as_raw() - 1)) == 0 {
                let kind = SignalKind::from_raw(signal.as_raw());
                heard.push((signal, unix::signal(kind)?));
            }
        }
        Ok(Self { heard, _stop: stop })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Signal {
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

/// What a shell calls the end by this signal.
pub(crate) fn status_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX)
}

/// One bit for each signal that this process ignores; none where the system does not tell.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}
