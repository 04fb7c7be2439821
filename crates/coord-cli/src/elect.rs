//! `coord elect`: a command that runs wherever it leads.

use clap::Args;

use crate::end::End;
use crate::hold::{HoldFlags, Kind, Patience, Stake, exit_status};
use crate::store::ENVIRONMENT;
use crate::words::{Word, completed, name};

/// Campaign, and run a command while leading, or lead until a signal comes.
///
/// Waits to be elected behind everybody who campaigned before, and resigns when the command is
/// gone, whatever ended it. Others may be of this command, `etcdctl elect`, and programs that use
/// coord or Go's package. VALUE is what `coord observe NAME` shows as long as this one leads.
///
/// With --again, a new campaign follows whenever leadership is lost, on a new session and with a
/// new fencing token, as soon as the store can be reached; --timeout then limits each campaign.
///
/// Signals, and what happens when leadership is lost, are as for `coord lock`: the command's
/// process group gets TERM, and KILL before anybody else can lead.
#[derive(Args, Debug)]
#[command(after_long_help = after_help(), override_usage = USAGE)]
pub(crate) struct Elect {
    /// The election's name: `etcdctl elect NAME` means the same election; a name or value that
    /// begins with `-` stands behind `--`
    #[arg(value_name = "NAME", value_parser = name, required_unless_present = "command")]
    name: Option<String>,
    /// What observers are shown: where this one can be reached, for one
    #[arg(value_name = "VALUE", required_unless_present = "command")]
    value: Option<String>,
    /// Campaign again whenever leadership is lost, until CMD ends by itself or a signal comes
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    hold: HoldFlags,
}

const USAGE: &str = "coord elect [OPTIONS] <NAME> <VALUE> [-- <CMD>...]";

const EXAMPLES: &str = "\
Examples:
  coord elect scheduler \"$(hostname):8080\" -- ./scheduler --listen :8080
      run a scheduler wherever it leads
  coord elect scheduler \"$(hostname)\" --again -- ./scheduler
      and campaign again whenever leadership was lost
  coord elect scheduler \"$(hostname)\" --timeout 10s
      lead until ctrl-C, if that can be had within ten seconds
  coord elect scheduler -- -x -- ./scheduler
      lead with the value `-x`

What CMD finds in its environment:
  COORD_ELECTION_KEY    the key that stands for the leader while it leads
  COORD_FENCING_TOKEN   larger for every later leader: the key's create revision";

fn after_help() -> String {
    [EXAMPLES, ENVIRONMENT, exit_status!("")].join("\n\n")
}

impl Elect {
    /// Whether a word is missing before `--`.
    pub(crate) const fn lacks_a_word(&self) -> bool {
        self.name.is_none() || self.value.is_none()
    }

    pub(crate) async fn run(mut self) -> Result<(), End> {
        let words = [
            Word { placeholder: "NAME", given: self.name, parse: name },
            Word { placeholder: "VALUE", given: self.value, parse: |value| Ok(value.to_owned()) },
        ];
        let [name, value] = completed(words, self.hold.command_mut())?;
        let stake = Stake {
            kind: Kind::Election,
            name,
            value,
            patience: Patience::Wait,
            hold_at_least: None,
            again: self.again,
        };
        self.hold.hold(stake).await
    }
}
