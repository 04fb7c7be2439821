//! The program `coord`: coordination from the command line.
//!
//! This file knows the subcommands, and what their ends mean to a shell; each subcommand is a
//! module of its own.

mod bench;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Distributed coordination from the command line.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Bench),
}

/// The same for every subcommand, and told in the help of each.
const EXIT_STATUS: &str = "\
Exit status:
  0  done
  1  it failed, or something that must always hold did not
  2  the command line is wrong
  3  timed out";

/// Why a subcommand did not do its work.
#[derive(Debug)]
enum End {
    Failed(anyhow::Error),
    Misused(String),
    TimedOut,
}

impl From<anyhow::Error> for End {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let (name, ended) = match Cli::parse().command {
        Command::Bench(bench) => ("bench", bench.run().await),
    };
    let (status, message) = match ended {
        Ok(()) => return ExitCode::SUCCESS,
        Err(End::Failed(error)) => (1, format!("{error:#}")),
        Err(End::Misused(message)) => (2, message),
        Err(End::TimedOut) => (3, "timed out".to_owned()),
    };
    complain(&format!("coord {name}: {message}"));
    ExitCode::from(status)
}

#[expect(clippy::print_stderr, reason = "a program tells its user why it gave up")]
fn complain(message: &str) {
    eprintln!("{message}");
}
