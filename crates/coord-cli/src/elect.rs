//! `coord elect`: runs a command while it leads an election.

use clap::Args;

use crate::exit::ExitError;
use crate::hold::{HoldFlags, HoldRequest, Primitive, WaitMode, exit_status};
use crate::positional::{Positional, complete, name};
use crate::store::ENVIRONMENT_HELP;

/// Campaign and run a command while leading, or lead until a signal is received.
///
/// Waits in the queue of the election, runs CMD while it leads, and resigns when CMD has ended in
/// any way. `etcdctl elect` and programs that use coord or Go's package wait in the same queue.
/// `coord observe NAME` prints VALUE while this candidate leads.
///
/// With --again, coord campaigns again after each loss of leadership, on a new session and with a
/// new fencing token, as soon as the store is available. --timeout then limits each campaign.
///
/// coord forwards signals to the process group of CMD, as `coord lock` does. On a loss of
/// leadership the group gets TERM, and after --grace KILL. If no keep-alive is confirmed, KILL
/// comes before another candidate can lead.
#[derive(Args, Debug)]
#[command(after_long_help = after_help(), override_usage = USAGE)]
pub(crate) struct Elect {
    /// Name of the election, the same as for `etcdctl elect`; a name or value that begins with `-`
    /// is written after `--`
    #[arg(value_name = "NAME", value_parser = name, required_unless_present = "command")]
    name: Option<String>,
    /// The value that observers receive, such as the address of this candidate
    #[arg(value_name = "VALUE", required_unless_present = "command")]
    value: Option<String>,
    /// Campaign again after each loss, until CMD ends by itself, or INT, TERM or QUIT is received
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    hold: HoldFlags,
}

const USAGE: &str = "coord elect [OPTIONS] <NAME> <VALUE> [-- <CMD>...]";

const EXAMPLES: &str = "\
Examples:
  coord elect scheduler \"$(hostname):8080\" -- ./scheduler --listen :8080
      run a scheduler on the machine that leads
  coord elect scheduler \"$(hostname)\" --again -- ./scheduler
      campaign again after each loss of leadership
  coord elect scheduler \"$(hostname)\" --timeout 10s
      lead until ctrl-C; fail if not elected within ten seconds
  coord elect scheduler -- -x -- ./scheduler
      lead with the value `-x`

Variables of CMD:
  COORD_ELECTION_KEY    the leader's key
  COORD_FENCING_TOKEN   the fencing token, larger for every later leader";

fn after_help() -> String {
    [EXAMPLES, ENVIRONMENT_HELP, exit_status!("")].join("\n\n")
}

impl Elect {
    /// Whether the name or the value is not given before `--`.
    pub(crate) const fn lacks_positional(&self) -> bool {
        self.name.is_none() || self.value.is_none()
    }

    pub(crate) async fn run(mut self) -> Result<(), ExitError> {
        let any = |value: &str| Ok(value.to_owned());
        let positionals = [
            Positional { placeholder: "NAME", given: self.name, parse: name },
            Positional { placeholder: "VALUE", given: self.value, parse: any },
        ];
        let [name, value] = complete(positionals, self.hold.command_mut())?;
        let request = HoldRequest {
            primitive: Primitive::Election,
            name,
            value,
            wait_mode: WaitMode::Wait,
            slots: None,
            hold_at_least: None,
            again: self.again,
        };
        self.hold.hold(request).await
    }
}
