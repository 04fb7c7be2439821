//! `coord serve`: an etcd in memory.

use std::num::NonZeroU64;
use std::time::Duration;

use anyhow::{Context as _, Error};
use clap::Args;
use coord_core::kv::Limits;
use coord_mem::MemBackend;
use coord_server::Server;

use crate::end::{End, print};
use crate::signals::Signals;
use crate::store::duration;

/// Serve etcd's v3 gRPC API from memory, for the tests of programs in any language.
///
/// It behaves as one member of etcd, starts in milliseconds, and forgets everything when it stops.
/// There are neither TLS nor logins.
///
/// The first line on standard output is `coord: serving etcd v3 API on ADDR`, printed when
/// connections are accepted. INT, TERM, HUP and QUIT stop it: calls under way are answered, for
/// five seconds at most; a second signal ends it at once.
#[derive(Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Serve {
    /// Where to listen; with port 0 the system chooses one. Whoever can reach it can do everything
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:2379", value_parser = address)]
    listen: String,
    /// Forget history beyond so many revisions, as if compacted; all is kept unless set
    #[arg(long, value_name = "N")]
    retain_revisions: Option<NonZeroU64>,
    /// How many bytes a change may have, a transaction with all its steps
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_request_bytes)]
    max_request_bytes: usize,
    /// How many comparisons a transaction may have, and steps in either branch
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_txn_ops)]
    max_txn_ops: usize,
    /// How often a watch that wants it is told how far the store has come, if it hears nothing
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    #[arg(alias = "experimental-watch-progress-notify-interval")]
    watch_progress_notify_interval: Duration,
}

const AFTER_HELP: &str = "\
Examples:
  coord serve
      where etcd listens
  coord serve --listen 127.0.0.1:0 > address &
      on a free port, which the first line tells
  coord serve --retain-revisions 100000
      for a long run that would fill the memory
  coord serve --max-request-bytes 65536 --max-txn-ops 16
      to see what a program does when it is refused

Exit status:
  0  stopped by a signal
  1  it cannot listen there: the port is taken, for one
  2  the command line is wrong";

/// Somewhere to listen: a wrong one would be looked up as a name.
fn address(text: &str) -> Result<String, &'static str> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("write HOST:PORT, such as 127.0.0.1:2379; with port 0 the system chooses one"),
    }
}

impl Serve {
    pub(crate) async fn run(self) -> Result<(), End> {
        // Heard before anybody can know that it runs.
        let mut signals = Signals::new().map_err(Error::from)?;
        let (max_request_bytes, max_txn_ops) = (self.max_request_bytes, self.max_txn_ops);
        let limits = Limits { max_request_bytes, max_txn_ops };
        let mut store = MemBackend::builder().limits(limits);
        if let Some(revisions) = self.retain_revisions {
            store = store.retain_revisions(revisions.get());
        }
        let server =
            Server::builder(store.build()).progress_interval(self.watch_progress_notify_interval);
        let bound = server.bind(&self.listen).await;
        let server = bound.with_context(|| format!("listen on {}", self.listen))?;
        // Who started it may not want to know.
        let _ = print(format_args!("coord: serving etcd v3 API on {}", server.local_addr()))?;

        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = server.serve_until(async { drop(stopped.await) });
        let told_twice = async {
            signals.next().await;
            drop(stop);
            signals.insists().await;
        };
        tokio::select! {
            biased;
            () = serving => {}
            () = told_twice => {}
        }
        Ok(())
    }
}
