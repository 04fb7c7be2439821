//! The program `coord`: coordination from the command line.
//!
//! This file knows the subcommands; each is a module of its own. What they share:
//!
//! - `table`: columns;
//! - `store`: how to reach the store, flags and environment;
//! - `hold`: standing in a line and running a command, for `lock` and `elect`;
//! - `line`: a waiting line, seen from outside;
//! - `signals`: those that this program hears;
//! - `end`: what the end of a subcommand means to a shell;
//! - `text`: keys and values as text;
//! - `usage`: what is said of a command line that is wrong;
//! - `words`: names and values on the command line.

mod bench;
mod break_lock;
mod elect;
mod end;
mod hold;
mod line;
mod list;
mod lock;
mod manual;
mod observe;
mod serve;
mod signals;
mod store;
mod table;
mod text;
mod usage;
mod who;
mod words;

use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::{CommandFactory, Parser, Subcommand};
use tokio::runtime::Builder;

use end::{End, complain};

/// Locks, elections and a look at them, from the command line.
///
/// The store is an etcd cluster, which other programs use at the same time: those written with
/// coord, with Go's `concurrency` package, and `etcdctl lock` and `etcdctl elect`. They all stand
/// in the same lines.
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
    Break(break_lock::Break),
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
      run a scheduler wherever it leads
  coord who nightly
      who has the lock, and who waits
  coord list
      what is held, and how many wait
  coord serve
      an etcd in memory, for the tests of a program in any language

Each subcommand tells its exit status in its own help: `coord help lock`.";

impl Cli {
    /// Whether a name or value is missing that clap does not miss, because it may stand behind
    /// `--`.
    fn lacks_a_word(&self) -> bool {
        match &self.command {
            Command::Lock(lock) => lock.lacks_a_word(),
            Command::Elect(elect) => elect.lacks_a_word(),
            _ => false,
        }
    }
}

impl Command {
    /// Its name, and how it ended.
    async fn run(self) -> (&'static str, Result<(), End>) {
        match self {
            Self::Lock(lock) => ("lock", lock.run().await),
            Self::Elect(elect) => ("elect", elect.run().await),
            Self::Observe(observe) => ("observe", observe.run().await),
            Self::Who(who) => ("who", who.run().await),
            Self::List(list) => ("list", list.run().await),
            Self::Break(break_lock) => ("break", break_lock.run().await),
            Self::Serve(serve) => ("serve", serve.run().await),
            Self::Bench(bench) => ("bench", bench.run().await),
            Self::Completions(completions) => ("completions", completions.run(Cli::command())),
            Self::Man(man) => ("man", man.run(Cli::command())),
        }
    }
}

fn main() -> ExitCode {
    let cli = usage::parsed();
    // Half of the processors: whoever measures a store on the same machine wants it to have the
    // others, and no other command has work for more than one.
    let threads = available_parallelism().map_or(1, |all| all.get().div_ceil(2));
    let mut runtime = match cli.command {
        // The memory of any thread but the main one grows page by page, each with a call of the
        // system, and what is served stays in memory.
        Command::Serve(_) if threads == 1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(threads).enable_all().build();
    let (name, ended) = match runtime {
        Ok(runtime) => runtime.block_on(cli.command.run()),
        Err(error) => {
            complain("runtime", &format!("{error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let Err(end) = ended else { return ExitCode::SUCCESS };
    if let Some(message) = end.message {
        complain(name, &message);
    }
    ExitCode::from(end.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_definition_is_valid() {
        Cli::command().debug_assert();
    }
}
