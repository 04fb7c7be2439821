//! `coord serve`: an etcd in memory.

use std::num::NonZeroU64;

use anyhow::{Context as _, Error};
use clap::Args;
use coord_mem::MemBackend;
use coord_server::Server;

use crate::end::{End, print};
use crate::signals::Signals;

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
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:2379")]
    listen: String,
    /// Forget history beyond so many revisions, as if compacted; all is kept unless set
    #[arg(long, value_name = "N")]
    retain_revisions: Option<NonZeroU64>,
}

const AFTER_HELP: &str = "\
Examples:
  coord serve
      where etcd listens
  coord serve --listen 127.0.0.1:0 > address &
      on a free port, which the first line tells
  coord serve --retain-revisions 100000
      for a long run that would fill the memory

Exit status:
  0  stopped by a signal
  1  it cannot listen there: the port is taken, for one
  2  the command line is wrong";

impl Serve {
    pub(crate) async fn run(self) -> Result<(), End> {
        // Heard before anybody can know that it runs.
        let mut signals = Signals::new().map_err(Error::from)?;
        let mut store = MemBackend::builder();
        if let Some(revisions) = self.retain_revisions {
            store = store.retain_revisions(revisions.get());
        }
        let bound = Server::builder(store.build()).bind(&self.listen).await;
        let server = bound.with_context(|| format!("listen on {}", self.listen))?;
        // Who started it may not want to know.
        let _ = print(format_args!("coord: serving etcd v3 API on {}", server.local_addr()))?;

        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = server.serve_until(async { drop(stopped.await) });
        let told_twice = async {
            signals.next().await;
            drop(stop);
            signals.next().await;
        };
        tokio::select! {
            biased;
            () = serving => {}
            () = told_twice => {}
        }
        Ok(())
    }
}
