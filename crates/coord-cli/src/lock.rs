//! `coord lock`: a command that runs on one machine at a time.

use std::time::Duration;

use clap::Args;

use crate::end::End;
use crate::hold::{HoldFlags, Kind, Patience, Stake, exit_status};
use crate::store::{ENVIRONMENT, duration};
use crate::words::{Word, completed, name};

/// Run a command while holding a lock, or hold it until a signal comes.
///
/// Waits for the lock behind everybody who came before, and gives it back when the command is gone,
/// whatever ended it. Holders may be others of this command, `etcdctl lock`, and programs that use
/// coord or Go's package.
///
/// INT, TERM, HUP and QUIT go to the command, which runs in a process group of its own. If the lock
/// is lost, that group gets TERM, and KILL before anybody else can have the lock: --grace tells how
/// long there is in between. If somebody revokes the lease or deletes the key, others can have it
/// at once, and the group gets TERM as soon as that is known.
///
/// With --hold-at-least the lock is kept when CMD has ended sooner; the exit status is that of CMD.
/// A signal gives the lock back at once then, and so does INT, TERM or QUIT that came before.
///
/// Nothing can stop a command on a machine that is suspended: have whatever the lock protects
/// refuse a COORD_FENCING_TOKEN smaller than one that it has seen.
#[derive(Args, Debug)]
#[command(after_long_help = after_help(), override_usage = USAGE)]
pub(crate) struct Lock {
    /// The lock's name: `etcdctl lock NAME` means the same lock; one that begins with `-` stands
    /// behind `--`
    #[arg(value_name = "NAME", value_parser = name, required_unless_present = "command")]
    name: Option<String>,
    /// Do not wait if somebody else has it
    #[arg(long = "try", conflicts_with = "timeout")]
    try_it: bool,
    /// Keep the lock at least this long, counted from when it was acquired, if CMD
    /// ends sooner
    #[arg(long, value_name = "TIME", value_parser = duration)]
    hold_at_least: Option<Duration>,
    #[command(flatten)]
    hold: HoldFlags,
}

const USAGE: &str = "coord lock [OPTIONS] <NAME> [-- <CMD>...]";

const EXAMPLES: &str = "\
Examples:
  coord lock nightly -- ./backup.sh
      wait, and run backup.sh
  coord lock nightly --try -- ./backup.sh || [ $? = 123 ]
      run it, unless another machine does
  coord lock nightly --try --hold-at-least 5m -- ./backup.sh
      run it once a night, although clocks differ: cron starts it on every machine
  coord lock nightly --timeout 1m --ttl 30s -- ./backup.sh
      wait for a minute; if this machine dies, others wait for half a minute
  coord lock nightly
      hold the lock until ctrl-C
  coord lock nightly --endpoints mem: -- env
      try it out, without an etcd
  coord lock -- -x -- ./backup.sh
      hold the lock `-x`

What CMD finds in its environment:
  COORD_LOCK_KEY, ETCD_LOCK_KEY   the key that stands for the lock while it is held
  COORD_FENCING_TOKEN             larger for every later holder: the key's create revision
  ETCD_LOCK_REV                   as for etcdctl: the store's revision when the lock was had";

fn after_help() -> String {
    [EXAMPLES, ENVIRONMENT, exit_status!("  123  another client holds it (--try)\n")].join("\n\n")
}

impl Lock {
    /// Whether a word is missing before `--`.
    pub(crate) const fn lacks_a_word(&self) -> bool {
        self.name.is_none()
    }

    pub(crate) async fn run(mut self) -> Result<(), End> {
        let word = Word { placeholder: "NAME", given: self.name, parse: name };
        let [name] = completed([word], self.hold.command_mut())?;
        let patience = if self.try_it { Patience::Try } else { Patience::Wait };
        let stake = Stake {
            kind: Kind::Lock,
            name,
            value: String::new(),
            patience,
            hold_at_least: self.hold_at_least,
            again: false,
        };
        self.hold.hold(stake).await
    }
}
