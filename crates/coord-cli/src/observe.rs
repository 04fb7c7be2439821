//! `coord observe`: who leads, now and from now on.

use anyhow::{Context as _, Result};
use clap::Args;
use coord_core::election::Leader;
use coord_core::election::{Gap, GapCause, Observer};
use serde_json::json;

use crate::end::{End, complain, nobody_reads, print};
use crate::signals::Signals;
use crate::store::{ENVIRONMENT, StoreFlags};
use crate::{text, words};

/// Print each leader of an election, now and from now on.
///
/// A line for every leader and every value that it proclaims, in order, none missing and none
/// twice: the leader's fencing token, which is larger for every later leader, and its value. When
/// nobody leads, the line is `-`. Leaders may be of `coord elect`, `etcdctl elect`, or a program of
/// yours.
///
/// If the store compacted changes before they were shown, or its history was replaced, the next
/// line is the newest leader, and a line on standard error names the revisions in between.
///
/// Goes on until INT, TERM, HUP or QUIT comes, or nobody reads what it prints. While the store is
/// away it waits.
#[derive(Args, Debug)]
#[command(after_long_help = after_help())]
pub(crate) struct Observe {
    /// The election's name
    #[arg(value_name = "NAME", value_parser = words::name)]
    name: String,
    /// Print who leads now, and end
    #[arg(long)]
    once: bool,
    /// Print a JSON object a line, with the fields `leader`, which is null when nobody leads, and
    /// of a leader `key`, `value`, `fencing_token`, `lease` and `revision`; `gap` is there if
    /// changes may be missing before it, with the fields `after`, `until` and `cause`
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreFlags,
}

const EXAMPLES: &str = "\
Examples:
  coord observe scheduler
      each leader as it comes
  coord observe scheduler --once | { read -r token leader && curl \"http://$leader/health\"; }
      ask the leader something
  coord observe scheduler --json | jq -r '.leader.value // \"nobody\"'
      JSON, a line each

A value that is not UTF-8 is an array of its bytes in JSON. On a plain line its odd bytes, and
what would break the line, are escaped.";

const EXIT_STATUS: &str = "\
Exit status:
  0  somebody leads (--once), or it was told to stop
  1  the store cannot be reached, or refused
  2  the command line is wrong
  4  nobody leads (--once)";

fn after_help() -> String {
    [EXAMPLES, ENVIRONMENT, EXIT_STATUS].join("\n\n")
}

impl Observe {
    pub(crate) async fn run(self) -> Result<(), End> {
        let mut signals = Signals::new().map_err(anyhow::Error::from)?;
        tokio::select! {
            biased;
            _ = signals.next() => Ok(()),
            () = nobody_reads(), if !self.once => Ok(()),
            shown = self.show() => shown,
        }
    }

    async fn show(&self) -> Result<(), End> {
        let observer = Observer::new(self.store.connect().await?, self.name.clone());
        if self.once {
            let leader = observer.leader().await.with_context(|| self.asked())?;
            print(self.line(leader.as_ref(), None))?;
            return if leader.is_some() { Ok(()) } else { Err(End::silent(End::NOBODY)) };
        }
        let mut leaders = observer.observe();
        while let Some(leader) = leaders.next().await {
            let leader = leader.with_context(|| self.asked())?;
            let gap = leaders.gap();
            if let Some(gap) = gap.filter(|_| !self.json) {
                complain("observe", &format!("{}: {gap}", self.name));
            }
            if !print(self.line(leader.as_ref(), gap))? {
                break;
            }
        }
        Ok(())
    }

    fn asked(&self) -> String {
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
            Some(leader) => format!("{} {}", leader.fencing_token(), text::line(leader.value())),
        }
    }
}

fn gap_as_json(gap: Gap) -> serde_json::Value {
    let cause = match gap.cause {
        GapCause::Compacted => "compacted",
        GapCause::HistoryReplaced => "history_replaced",
        _ => "unknown",
    };
    json!({ "after": gap.after.0, "until": gap.until.0, "cause": cause })
}

fn as_json(leader: &Leader) -> serde_json::Value {
    json!({
        "key": text::json(leader.key()),
        "value": text::json(leader.value()),
        "fencing_token": leader.fencing_token().0.0,
        "lease": leader.lease().map(|lease| lease.to_string()),
        "revision": leader.key_value().mod_revision.0,
    })
}
