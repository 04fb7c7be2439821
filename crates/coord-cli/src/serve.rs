//! `coord serve`: serves etcd's v3 gRPC API from memory.

use std::num::NonZeroU64;
use std::time::Duration;

use anyhow::{Context as _, Error};
use clap::Args;
use coord_core::kv::Limits;
use coord_mem::MemBackend;
use coord_server::Server;

use crate::exit::{ExitError, print};
use crate::signals::Signals;
use crate::store::duration;

/// Serve etcd's v3 gRPC API from memory, for tests of programs in any language.
///
/// The server behaves as one etcd member, starts in milliseconds, and loses its data when it stops.
/// It has neither TLS nor authentication.
///
/// The first line on standard output is `coord: serving etcd v3 API on ADDR`. It is printed when
/// the server accepts connections. INT, TERM, HUP and QUIT stop the server after the requests in
/// flight, for which it waits up to five seconds. A second signal stops it at once.
#[derive(Args, Debug)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Serve {
    /// Address to listen on; with port 0 the system chooses a port. Every client that can connect
    /// can read and write all keys
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:2379", value_parser = address)]
    listen: String,
    /// Compact history that is older than this many revisions; without it, all history is kept
    #[arg(long, value_name = "N")]
    retain_revisions: Option<NonZeroU64>,
    /// Maximum size of a write request, for a transaction with all its operations
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().max_request_bytes)]
    max_request_bytes: usize,
    /// Maximum number of compares of a transaction, and of operations in each branch
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_txn_ops)]
    max_txn_ops: usize,
    /// Interval of progress notifications to idle watches that request them
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    #[arg(alias = "experimental-watch-progress-notify-interval")]
    watch_progress_notify_interval: Duration,
}

const AFTER_HELP: &str = "\
Examples:
  coord serve
      listen where etcd listens by default
  coord serve --listen 127.0.0.1:0 > address &
      listen on a free port, which the first line names
  coord serve --retain-revisions 100000
      bound the memory of a long run
  coord serve --max-request-bytes 65536 --max-txn-ops 16
      test how a program handles refused requests

Exit status:
  0  stopped by a signal
  1  the server cannot listen on the address, for example because the port is in use
  2  usage error";

/// Checks an address to listen on. Without this check, a wrong one would be resolved as a host
/// name.
fn address(text: &str) -> Result<String, &'static str> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("write HOST:PORT, such as 127.0.0.1:2379; with port 0 the system chooses one"),
    }
}

impl Serve {
    pub(crate) async fn run(self) -> Result<(), ExitError> {
        // Handled before the address is printed, because a script may stop the server as soon as it
        // has read the address.
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
        // The server runs although its standard output may be closed.
        let _ = print(format_args!("coord: serving etcd v3 API on {}", server.local_addr()))?;

        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = server.serve_until(async { drop(stopped.await) });
        let second_signal = async {
            signals.next().await;
            drop(stop);
            signals.next_distinct().await;
        };
        tokio::select! {
            biased;
            () = serving => {}
            () = second_signal => {}
        }
        Ok(())
    }
}
