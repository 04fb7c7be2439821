//! Hunts for differences between what is ours and real etcd servers, for as long as you like.

use std::fmt::Display;
use std::hash::{BuildHasher, RandomState};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::str::FromStr;

use coord_etcd_tests::Release;
use coord_etcd_tests::hunt::{Bag, Hunt, Quarry};
use coord_testkit::mirror::Tally;
use tokio::time::Instant;

const HELP: &str = "\
Holds MemBackend against real etcd servers on random sequences of operations, and
reports every difference in an answer, an error or a watch, made as small as it gets.

usage: mirror [--streams] [--etcd VERSION] [--seed N] [--count N] [--batch N] [--jobs N]

  --streams       hold the watch streams of `coord serve` against theirs instead,
                  message by message, on random scripts
  --etcd VERSION  the servers to use, such as 3.5; may be given again. All that are
                  found unless given: in COORD_ETCD_BIN (folders, colons in between),
                  in .tools/etcd, on PATH
  --seed N        the seed of the first sequence; the next has the next. Random
                  unless given, and told
  --count N       how many sequences, on each server; 1000 unless given
  --batch N       how many sequences share a server; 50 unless given
  --jobs N        how many servers run at once; 4 unless given

examples, each after `cargo run --release -p coord-etcd-tests --example mirror --`:

  --count 20000                              a long run on every version
  --etcd 3.5 --seed 7 --count 20000          the same one on one version, again
  --streams --count 5000                     a long run of the other kind
  --etcd 3.5 --seed 1234 --count 1           one sequence, as a report says

exit code: 0 no difference · 1 differences · 2 the command line is wrong, or there is
no such server
";

/// How many sequences are worth a line where no terminal shows the progress.
const LINE_EVERY: u64 = 500;

/// What the command line asks for.
struct Wanted {
    quarry: Quarry,
    releases: Vec<Release>,
    seed: u64,
    count: u64,
    batch: u64,
    jobs: usize,
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a program")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let Wanted { quarry, releases, seed, count, batch, jobs } = match parse(&arguments) {
        Ok(wanted) => wanted,
        Err(why) => {
            eprintln!("mirror: {why}\ntry --help");
            return ExitCode::from(2);
        }
    };
    let mut differences = 0;
    for release in releases {
        println!("{release}: {count} sequences from seed {seed} on");
        let bag = run(&Hunt { quarry, release: release.clone(), seed, count, batch, jobs }).await;
        println!("{release}: {}", summary(&bag));
        differences += bag.finds.len();
    }
    if differences == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn summary(Bag { tally, finds, .. }: &Bag) -> String {
    let Tally { sequences, answers, refusals, events, .. } = tally;
    let differences = finds.len();
    format!(
        "{sequences} sequences, {answers} answers ({refusals} refusals), {events} events, \
         {differences} differences"
    )
}

/// Runs a hunt, and tells of each difference as soon as it is found. How far it has come is told
/// all the time on a terminal, and elsewhere now and then.
#[expect(clippy::future_not_send, reason = "proptest's trees stay on one thread")]
#[expect(clippy::print_stdout, reason = "this is a program")]
async fn run(hunt: &Hunt) -> Bag {
    let mut terminal = std::io::stderr();
    let shown = terminal.is_terminal();
    let began = Instant::now();
    let (mut found, mut told) = (0, 0);
    // That nobody reads it is no reason to stop.
    let mut say = |line: &str| {
        if shown {
            let _ = write!(terminal, "\r\x1b[K{line}");
            let _ = terminal.flush();
        }
    };
    say("starting servers");
    let bag = hunt
        .run(|bag| {
            let done = bag.tally.sequences + bag.finds.len() as u64;
            let elapsed = began.elapsed().as_secs();
            say("");
            for find in &bag.finds[found..] {
                println!("\n{find}\n");
            }
            found = bag.finds.len();
            if shown {
                let left = elapsed * hunt.count.saturating_sub(done) / done.max(1);
                say(&format!("{done} of {}, {elapsed} s, about {left} s to go", hunt.count));
            } else if done >= told + LINE_EVERY {
                told = done;
                println!("{elapsed} s: {}", summary(bag));
            }
        })
        .await;
    say("");
    bag
}

fn parse(arguments: &[String]) -> Result<Wanted, String> {
    let all = Release::all()?;
    let mut wanted = Wanted {
        quarry: Quarry::Stores,
        releases: Vec::new(),
        // Room to count up, and short enough to be typed.
        seed: RandomState::new().hash_one(()) >> 32,
        count: 1_000,
        batch: 50,
        jobs: 4,
    };
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--streams" => wanted.quarry = Quarry::Streams,
            "--etcd" => {
                let minor = value()?;
                let release = all.iter().find(|release| release.minor() == *minor);
                let there = all.iter().map(Release::minor).collect::<Vec<_>>().join(", ");
                let missing = || format!("there is no etcd {minor} here, only {there}");
                wanted.releases.push(release.ok_or_else(missing)?.clone());
            }
            "--seed" => wanted.seed = number(name, value()?)?,
            "--count" => wanted.count = number(name, value()?)?,
            "--batch" => wanted.batch = number(name, value()?)?,
            "--jobs" => wanted.jobs = number(name, value()?)?,
            other => return Err(format!("what is {other}?")),
        }
    }
    if wanted.releases.is_empty() {
        wanted.releases = all;
    }
    Ok(wanted)
}

fn number<T: FromStr<Err: Display>>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|why| format!("{name} {value}: {why}"))
}
