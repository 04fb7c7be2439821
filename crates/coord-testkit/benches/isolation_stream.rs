//! Speed and memory of the isolation checker on histories that are not kept: in memory with a
//! window, and from a file in JSON Lines without one.
//!
//! It prints transactions per second, and the peak memory of the process, so each measurement is a
//! run of its own:
//!
//! ```text
//! cargo bench -p coord-testkit --bench isolation_stream -- window 10000000
//! cargo bench -p coord-testkit --bench isolation_stream -- file 1000000
//! ```
#![expect(clippy::print_stdout, reason = "the result of a bench")]
#![expect(clippy::disallowed_types, reason = "a bench measures real time")]

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coord_core::kv::Revision;
use coord_core::stm::Isolation;
use coord_testkit::history::formats::json_lines;
use coord_testkit::history::{Attempt, AttemptEnd, Event, EventKind, History, KeyRead, KeyWrite};
use coord_testkit::isolation::{Checker, Level, Status, Verdict};

/// The keys of the store.
const KEYS: usize = 1000;

/// The concurrent clients.
const CLIENTS: u64 = 10;

/// The window of the check.
const WINDOW: usize = 8192;

/// Transactions that read two keys and write one, each at the next revision.
struct Generator {
    rng: fastrand::Rng,
    keys: Vec<Bytes>,
    clients: Vec<Arc<str>>,
    current: Vec<i64>,
    number: u64,
}

impl Generator {
    fn new() -> Self {
        Self {
            rng: fastrand::Rng::with_seed(1),
            keys: (0..KEYS).map(|key| format!("key/{key:04}").into()).collect(),
            clients: (0..CLIENTS).map(|client| format!("c{client}").into()).collect(),
            current: vec![0; KEYS],
            number: 0,
        }
    }

    fn read(&mut self) -> KeyRead {
        let key = self.rng.usize(..KEYS);
        let revision = self.current[key];
        let found = (revision > 0).then(|| (Revision(revision), revision.to_string().into()));
        KeyRead { key: self.keys[key].clone(), found }
    }

    fn next(&mut self) -> Event {
        self.number += 1;
        let (number, reads) = (self.number, vec![self.read(), self.read()]);
        let written = self.rng.usize(..KEYS);
        let revision = i64::try_from(number).expect("a small number");
        self.current[written] = revision;
        let value = Some(number.to_string().into());
        let attempt = Attempt {
            transaction: number,
            number: 1,
            isolation: Isolation::default(),
            began: Duration::from_micros(number * 10),
            reads,
            ranges: Vec::new(),
            writes: vec![KeyWrite { key: self.keys[written].clone(), value }],
            end: AttemptEnd::Committed { revision: Revision(revision) },
        };
        Event {
            at: Duration::from_micros(number * 10 + 10 * CLIENTS - 5),
            process: Some(Arc::clone(&self.clients[(number % CLIENTS) as usize])),
            kind: EventKind::Attempt(Box::new(attempt)),
        }
    }
}

fn window(count: u64) -> Verdict {
    let mut generator = Generator::new();
    let mut checker = Checker::new().window(WINDOW);
    (0..count).for_each(|_| checker.push(&generator.next()));
    checker.finish()
}

fn file(path: &std::path::Path) -> Verdict {
    let input = BufReader::with_capacity(1 << 16, File::open(path).expect("the file exists"));
    let mut checker = Checker::new();
    for event in json_lines::events(input).expect("a history") {
        checker.push(&event.expect("a valid line"));
    }
    checker.finish()
}

fn write_file(path: &std::path::Path, count: u64) {
    let mut out = BufWriter::new(File::create(path).expect("a file can be written"));
    let mut generator = Generator::new();
    for i in 0..count {
        let mut lines = Vec::new();
        json_lines::write(&History(vec![generator.next()]), &mut lines).expect("it is written");
        let header = lines.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        out.write_all(if i == 0 { &lines } else { &lines[header..] }).expect("it is written");
    }
    out.flush().expect("it is written");
}

/// The peak memory of this process in MiB, if the system reports it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1024)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let kind = arguments.first().map_or("window", String::as_str);
    let count = arguments.get(1).and_then(|count| count.parse().ok()).unwrap_or(100_000);
    let path = std::env::temp_dir().join(format!("coord-isolation-{}.jsonl", std::process::id()));
    if kind == "file" {
        write_file(&path, count);
    }
    let before = peak_memory();
    let started = Instant::now();
    let verdict = if kind == "file" { file(&path) } else { window(count) };
    let seconds = started.elapsed().as_secs_f64();
    drop(std::fs::remove_file(&path));
    assert_eq!(verdict.status(Level::StrictSerializable), Status::Holds, "{verdict}");
    println!(
        "{kind}: {count} transactions in {seconds:.2} s, {:.0} per second; peak memory {} MiB, \
         {} MiB before",
        count as f64 / seconds,
        peak_memory().unwrap_or_default(),
        before.unwrap_or_default(),
    );
}
