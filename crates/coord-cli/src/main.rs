//! The program `coord`: coordination from the command line.
//!
//! This file lists the subcommands and runs one of them. Each subcommand has a module; that of
//! `completions` and `man` is `manual`, and that of `queue` is `message_queue`. Modules that the
//! subcommands share:
//!
//! - `exit`: exit statuses, error messages and output;
//! - `hold`: acquire, run a command, release, for `lock` and `elect`;
//! - `positional`: names and values on the command line;
//! - `queue`: the keys of a wait queue;
//! - `signals`: the signals that the program handles;
//! - `store`: the flags and variables that choose the store;
//! - `table`: tables with aligned columns;
//! - `text`: keys and values as text;
//! - `usage`: usage errors of clap.

mod bench;
mod break_lock;
mod check;
mod elect;
mod exit;
mod hold;
mod list;
mod lock;
mod manual;
mod members;
mod message_queue;
mod observe;
mod positional;
mod queue;
mod serve;
mod signals;
mod store;
mod table;
mod text;
mod usage;
mod who;

use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::{CommandFactory, Parser, Subcommand};
use tokio::runtime::Builder;

use exit::{ExitError, report};

/// Distributed locks and leader election from the command line.
///
/// The store is an etcd cluster. Programs that use coord or Go's `concurrency` package, `etcdctl
/// lock` and `etcdctl elect` can use it at the same time: all of them wait in the same queues.
#[derive(Debug, Parser)]
#[command(name = "coord", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Lock(lock::Lock),
    Elect(elect::Elect),
    Observe(observe::Observe),
    Who(who::Who),
    List(list::List),
    Members(members::Members),
    Break(break_lock::Break),
    Queue(message_queue::Queue),
    Check(check::Check),
    Serve(serve::Serve),
    Bench(bench::Bench),
    Completions(manual::Completions),
    Man(manual::Man),
}

const AFTER_HELP: &str = "\
Examples:
  coord lock nightly -- ./backup.sh
      run backup.sh on one machine at a time
  coord elect scheduler \"$(hostname)\" -- ./scheduler
      run a scheduler on the machine that leads
  coord who nightly
      show the holder of the lock and the waiters
  coord list
      list the locks and elections that are held
  coord queue take mails -- ./send.sh
      run send.sh with the next message of a queue
  coord check history.jsonl
      check the isolation of recorded transactions
  coord serve
      serve etcd's API from memory, for tests of programs in any language

The help of a subcommand lists its exit statuses: `coord help lock`.";

impl Cli {
    /// Whether a name or value is missing. clap does not check that for `lock` and `elect`, whose
    /// names and values may come after `--`.
    fn lacks_positional(&self) -> bool {
        match &self.command {
            Command::Lock(lock) => lock.lacks_positional(),
            Command::Elect(elect) => elect.lacks_positional(),
            _ => false,
        }
    }
}

impl Command {
    /// Runs the subcommand. Returns its name and its result.
    async fn run(self) -> (&'static str, Result<(), ExitError>) {
        match self {
            Self::Lock(lock) => ("lock", lock.run().await),
            Self::Elect(elect) => ("elect", elect.run().await),
            Self::Observe(observe) => ("observe", observe.run().await),
            Self::Who(who) => ("who", who.run().await),
            Self::List(list) => ("list", list.run().await),
            Self::Members(members) => ("members", members.run().await),
            Self::Break(break_lock) => ("break", break_lock.run().await),
            Self::Queue(queue) => ("queue", queue.run().await),
            Self::Check(check) => ("check", check.run()),
            Self::Serve(serve) => ("serve", serve.run().await),
            Self::Bench(bench) => ("bench", bench.run().await),
            Self::Completions(completions) => ("completions", completions.run(Cli::command())),
            Self::Man(man) => ("man", man.run(Cli::command())),
        }
    }
}

fn main() -> ExitCode {
    let cli = usage::parse();
    // Half of the processors: `bench` leaves the others to a store on the same machine. Of the
    // other subcommands, only `serve` can use more than one.
    let threads = available_parallelism().map_or(1, |all| all.get().div_ceil(2));
    let mut runtime = match cli.command {
        // `serve` keeps the whole store in memory, and the memory of a thread other than the main
        // thread grows page by page, with one system call each.
        Command::Serve(_) if threads == 1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(threads).enable_all().build();
    let (name, result) = match runtime {
        Ok(runtime) => runtime.block_on(cli.command.run()),
        Err(error) => {
            report("runtime", &format!("{error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    if let Some(message) = error.message {
        report(name, &message);
    }
    ExitCode::from(error.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_definition_is_valid() {
        Cli::command().debug_assert();
    }
}
