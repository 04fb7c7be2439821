//! `coord lock`: runs a command while it holds a lock.

use std::time::Duration;

use clap::Args;

use crate::exit::ExitError;
use crate::hold::{HoldFlags, HoldRequest, Primitive, WaitMode, exit_status};
use crate::positional::{Positional, complete, name};
use crate::store::{ENVIRONMENT_HELP, duration};

/// Run a command while holding a lock, or hold the lock until a signal is received.
///
/// Waits in the queue of the lock, runs CMD, and releases the lock when CMD has ended in any way.
/// `etcdctl lock` and programs that use coord or Go's package wait in the same queue.
///
/// CMD runs in a process group of its own. coord forwards INT, TERM, HUP and QUIT to that group. If
/// no keep-alive is confirmed, the group gets TERM, and after --grace KILL, before another client
/// can acquire the lock. If another client revokes the lease or deletes the key, the next waiter
/// acquires the lock at once, and the group gets TERM as soon as coord is notified.
///
/// With --hold-at-least coord keeps the lock after CMD has ended. INT, TERM, HUP and QUIT then
/// release the lock at once. INT, TERM and QUIT received while CMD ran do the same. The exit status
/// is that of CMD, or 122 if CMD exited with 0 and the lock was lost.
///
/// With --slots up to N commands run at the same time: NAME is a semaphore with N permits, not a
/// lock. Its contenders wait in the queue NAME/permits, and the key coord/limit/NAME is N. A
/// fencing token orders the holders, but does not show that an earlier holder has ended.
///
/// Nothing can stop a command on a machine that is suspended. The resource that the lock protects
/// should refuse a COORD_FENCING_TOKEN that is smaller than the largest it has seen.
#[derive(Args, Debug)]
#[command(after_long_help = after_help(), override_usage = USAGE)]
pub(crate) struct Lock {
    /// Name of the lock, the same as for `etcdctl lock`; a name that begins with `-` is written
    /// after `--`
    #[arg(value_name = "NAME", value_parser = name, required_unless_present = "command")]
    name: Option<String>,
    /// Do not wait if the lock is taken
    #[arg(long = "try", conflicts_with = "timeout")]
    try_it: bool,
    /// Let up to N commands run at the same time, instead of one; all clients of NAME must give the
    /// same N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    slots: Option<u32>,
    /// Keep the lock at least this long after it was acquired, also if CMD ends sooner
    #[arg(long, value_name = "TIME", value_parser = duration)]
    hold_at_least: Option<Duration>,
    #[command(flatten)]
    hold: HoldFlags,
}

const USAGE: &str = "coord lock [OPTIONS] <NAME> [-- <CMD>...]";

const EXAMPLES: &str = "\
Examples:
  coord lock nightly -- ./backup.sh
      wait for the lock and run backup.sh
  coord lock nightly --try -- ./backup.sh || [ $? = 123 ]
      run backup.sh unless another machine holds the lock
  coord lock nightly --try --hold-at-least 5m -- ./backup.sh
      run backup.sh once a night when cron starts it on machines whose clocks differ
  coord lock downloads --slots 3 -- ./fetch.sh
      run fetch.sh on three machines at a time; `coord who downloads/permits` shows which
  coord lock nightly --timeout 1m --ttl 30s -- ./backup.sh
      wait for up to a minute; if this machine fails, the lock is free after 30 seconds
  coord lock nightly
      hold the lock until ctrl-C
  coord lock nightly --endpoints mem: -- env
      try it without an etcd server
  coord lock -- -x -- ./backup.sh
      hold the lock `-x`

Variables of CMD:
  COORD_LOCK_KEY, ETCD_LOCK_KEY   the holder's key
  COORD_FENCING_TOKEN             the fencing token, larger for every later holder
  ETCD_LOCK_REV                   as from etcdctl: the store's revision at the acquisition";

fn after_help() -> String {
    [
        EXAMPLES,
        ENVIRONMENT_HELP,
        exit_status!("  123  the lock, or each of its slots, is taken, by another client or a foreign key (--try)\n"),
    ]
    .join("\n\n")
}

impl Lock {
    /// Whether the name is not given before `--`.
    pub(crate) const fn lacks_positional(&self) -> bool {
        self.name.is_none()
    }

    pub(crate) async fn run(mut self) -> Result<(), ExitError> {
        let name = Positional { placeholder: "NAME", given: self.name, parse: name };
        let [name] = complete([name], self.hold.command_mut())?;
        let wait_mode = if self.try_it { WaitMode::Try } else { WaitMode::Wait };
        let request = HoldRequest {
            primitive: Primitive::Lock,
            name,
            value: String::new(),
            wait_mode,
            slots: self.slots,
            hold_at_least: self.hold_at_least,
            again: false,
        };
        self.hold.hold(request).await
    }
}
