//! `coord observe`: prints the current leader of an election and each later one.

use anyhow::{Context as _, Result};
use clap::Args;
use coord_core::Election;
use coord_core::election::{Gap, GapCause, Leader};
use serde_json::json;

use crate::exit::{ExitError, print, report, stdout_closed};
use crate::signals::Signals;
use crate::store::{ENVIRONMENT_HELP, StoreFlags};
use crate::{positional, text};

/// Print the current leader of an election and each later one.
///
/// Prints one line for each leader and for each value that the leader proclaims, in order, without
/// gaps or repetitions: the leader's fencing token, which is larger for every later leader, and the
/// value. The line is `-` while the election has no leader. Leaders can be `coord elect`,
/// `etcdctl elect`, or programs that use coord or Go's package.
///
/// If the store compacted changes before they were delivered, or its history was replaced, the next
/// line is the newest leader. Without `--json`, a line on standard error names the revisions of the
/// gap.
///
/// Runs until INT, TERM, HUP or QUIT is received or standard output is closed. If the store becomes
/// unavailable after the connection, coord waits.
#[derive(Args, Debug)]
#[command(after_long_help = after_help())]
pub(crate) struct Observe {
    /// Name of the election
    #[arg(value_name = "NAME", value_parser = positional::name)]
    name: String,
    /// Print the current leader and exit
    #[arg(long)]
    once: bool,
    /// Print one JSON object per line: `leader` with `key`, `value`, `fencing_token`, `lease` and
    /// `revision`, or null if there is no leader; and `gap` with `after`, `until` and `cause` if
    /// changes may be missing before it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreFlags,
}

const EXAMPLES: &str = "\
Examples:
  coord observe scheduler
      print each leader
  coord observe scheduler --once | { read -r token leader && curl \"http://$leader/health\"; }
      send a request to the leader
  coord observe scheduler --json | jq -r '.leader.value // \"no leader\"'
      print JSON, one object per line

In JSON, a value that is not UTF-8 is an array of its bytes. On a plain line, bytes that are not
UTF-8, control characters and invisible characters are escaped.";

const EXIT_STATUS: &str = "\
Exit status:
  0  the election has a leader (--once), or a signal or closed output ended coord
  1  the store is unavailable, or refused a request
  2  usage error
  4  the election has no leader (--once)";

fn after_help() -> String {
    [EXAMPLES, ENVIRONMENT_HELP, EXIT_STATUS].join("\n\n")
}

impl Observe {
    pub(crate) async fn run(self) -> Result<(), ExitError> {
        let mut signals = Signals::new().map_err(anyhow::Error::from)?;
        tokio::select! {
            biased;
            _ = signals.next() => Ok(()),
            () = stdout_closed(), if !self.once => Ok(()),
            shown = self.show() => shown,
        }
    }

    async fn show(&self) -> Result<(), ExitError> {
        let client = self.store.connect().await?;
        let observer = Election::observer(&client, self.name.clone());
        if self.once {
            let leader = observer.leader().await.with_context(|| self.operation())?;
            print(self.line(leader.as_ref(), None))?;
            return if leader.is_some() {
                Ok(())
            } else {
                Err(ExitError::silent(ExitError::NOT_HELD))
            };
        }
        let mut leaders = observer.observe();
        while let Some(leader) = leaders.next().await {
            let leader = leader.with_context(|| self.operation())?;
            let gap = leaders.gap();
            if let Some(gap) = gap.filter(|_| !self.json) {
                report("observe", &format!("{}: {gap}", self.name));
            }
            if !print(self.line(leader.as_ref(), gap))? {
                break;
            }
        }
        Ok(())
    }

    /// The operation that an error names.
    fn operation(&self) -> String {
        format!("read the leader of {}", self.name)
    }

    fn line(&self, leader: Option<&Leader>, gap: Option<Gap>) -> String {
        match leader {
            _ if self.json => {
                let mut line = json!({ "leader": leader.map(as_json) });
                if let Some(gap) = gap {
                    line["gap"] = gap_as_json(gap);
                }
                text::json_line(&line)
            }
            None => "-".to_owned(),
            Some(leader) => format!("{} {}", leader.fencing_token(), text::escape(leader.value())),
        }
    }
}

fn gap_as_json(gap: Gap) -> serde_json::Value {
    let cause = match gap.cause {
        GapCause::Compacted => "compacted",
        GapCause::HistoryReplaced => "history_replaced",
        GapCause::OutOfOrder => "out_of_order",
        _ => "unknown",
    };
    json!({ "after": gap.after.0, "until": gap.until.0, "cause": cause })
}

fn as_json(leader: &Leader) -> serde_json::Value {
    json!({
        "key": text::to_json(leader.key()),
        "value": text::to_json(leader.value()),
        "fencing_token": leader.fencing_token().0.0,
        "lease": leader.lease().map(|lease| lease.to_string()),
        "revision": leader.key_value().mod_revision.0,
    })
}
