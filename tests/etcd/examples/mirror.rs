//! Differential runs of any length, which compare coord's store and server with real etcd servers.

use std::fmt::Display;
use std::hash::{BuildHasher, RandomState};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::str::FromStr;

use coord_etcd_tests::Release;
use coord_etcd_tests::differential::{DifferentialRun, RunReport, Target};
use coord_testkit::mirror::Tally;
use tokio::time::Instant;

const HELP: &str = "\
Compares MemBackend with real etcd servers on random sequences of operations, and
reports each mismatch in a response, an error or a watch on a shrunk sequence.

usage: mirror [--streams] [--etcd VERSION] [--seed N] [--count N] [--batch N] [--jobs N]

  --streams       compare the watch streams of `coord serve` instead, message by
                  message, on random scenarios
  --etcd VERSION  the etcd release to use, such as 3.5; may be repeated. Default: all
                  in COORD_ETCD_BIN (folders separated by colons), else .tools/etcd and PATH
  --seed N        the seed of the first sequence; later ones have the next seeds.
                  Default: random, and printed
  --count N       the number of sequences on each release; default 1000
  --batch N       how many sequences share a server; default 50
  --jobs N        how many servers run concurrently; default 4

examples, each after `cargo run --release -p coord-etcd-tests --example mirror --`:

  --count 20000                              a long run on every release
  --etcd 3.5 --seed 7 --count 20000          a reproducible run on one release
  --streams --count 5000                     a long run of watch streams
  --etcd 3.5 --seed 1234 --count 1           one sequence, as in a report

exit code: 0 no mismatch · 1 mismatches · 2 invalid command line or no such release
";

/// The number of sequences between two lines of progress when the error output is not a terminal.
const SEQUENCES_PER_LINE: u64 = 500;

/// The parsed command line.
struct Arguments {
    target: Target,
    releases: Vec<Release>,
    seed: u64,
    count: u64,
    batch: u64,
    jobs: usize,
}

#[tokio::main(flavor = "current_thread")]
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program prints its results"
)]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let Arguments { target, releases, seed, count, batch, jobs } = match parse(&arguments) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("mirror: {why}\ntry --help");
            return ExitCode::from(2);
        }
    };
    let mut mismatches = 0;
    for release in releases {
        println!("{release}: {count} sequences, from seed {seed}");
        let report =
            run(&DifferentialRun { target, release: release.clone(), seed, count, batch, jobs })
                .await;
        println!("{release}: {}", summary(&report));
        mismatches += report.mismatches.len();
    }
    if mismatches == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn summary(RunReport { tally, mismatches, .. }: &RunReport) -> String {
    let Tally { sequences, responses, errors, events, .. } = tally;
    let count = mismatches.len();
    format!(
        "{sequences} sequences, {responses} responses ({errors} errors), {events} events, \
         {count} mismatches"
    )
}

/// Runs the sequences, and prints each mismatch when it is found. Progress is printed continuously
/// if the error output is a terminal, and every [`SEQUENCES_PER_LINE`] sequences otherwise.
#[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
#[expect(clippy::print_stdout, reason = "a command-line program prints its results")]
async fn run(run: &DifferentialRun) -> RunReport {
    let mut terminal = std::io::stderr();
    let is_terminal = terminal.is_terminal();
    let started = Instant::now();
    let (mut found, mut printed) = (0, 0);
    // Errors are ignored, so that a closed terminal does not end the run.
    let mut show = |line: &str| {
        if is_terminal {
            let _ = write!(terminal, "\r\x1b[K{line}");
            let _ = terminal.flush();
        }
    };
    show("starting servers");
    let report = run
        .run(|report| {
            let done = report.tally.sequences + report.mismatches.len() as u64;
            let elapsed = started.elapsed().as_secs();
            show("");
            for mismatch in &report.mismatches[found..] {
                println!("\n{mismatch}\n");
            }
            found = report.mismatches.len();
            if is_terminal {
                let left = elapsed * run.count.saturating_sub(done) / done.max(1);
                show(&format!("{done} of {}, {elapsed} s, about {left} s to go", run.count));
            } else if done >= printed + SEQUENCES_PER_LINE {
                printed = done;
                println!("{elapsed} s: {}", summary(report));
            }
        })
        .await;
    show("");
    report
}

fn parse(arguments: &[String]) -> Result<Arguments, String> {
    let all = Release::all()?;
    let mut parsed = Arguments {
        target: Target::Stores,
        releases: Vec::new(),
        // 32 bits are short enough to type, and low enough to count up from.
        seed: RandomState::new().hash_one(()) >> 32,
        count: 1_000,
        batch: 50,
        jobs: 4,
    };
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--streams" => parsed.target = Target::WatchStreams,
            "--etcd" => {
                let minor = value()?;
                let release = all.iter().find(|release| release.minor() == *minor);
                let found = all.iter().map(Release::minor).collect::<Vec<_>>().join(", ");
                let missing = || format!("etcd {minor} was not found; found: {found}");
                parsed.releases.push(release.ok_or_else(missing)?.clone());
            }
            "--seed" => parsed.seed = number(name, value()?)?,
            "--count" => parsed.count = number(name, value()?)?,
            "--batch" => parsed.batch = number(name, value()?)?,
            "--jobs" => parsed.jobs = number(name, value()?)?,
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    if parsed.releases.is_empty() {
        parsed.releases = all;
    }
    Ok(parsed)
}

fn number<T: FromStr<Err: Display>>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|why| format!("{name} {value}: {why}"))
}
