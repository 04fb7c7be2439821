//! Reports of histories that are files: text, graph and page.
//!
//! `histories/NAME.jsonl` is a history, `texts/NAME.txt` the text of its report.
//! `UPDATE_GOLDENFILES=1 cargo test -p coord-testkit --test report` writes the texts.

#[cfg(feature = "html")]
mod browser;
mod dot;
#[cfg(feature = "html")]
mod page;
mod text;

use std::path::{Path, PathBuf};

use coord_testkit::history::History;
use coord_testkit::history::formats::json_lines;
use coord_testkit::isolation::{Checker, Values, Verdict};

/// The histories, each named after its anomaly, and a valid one.
const HISTORIES: [&str; 9] = [
    "aborted-read",
    "long-fork",
    "lost-update",
    "lost-write",
    "phantom",
    "read-skew",
    "stale-read-only",
    "valid",
    "write-skew",
];

/// A file or folder beside this file.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report").join(name)
}

/// A history and its verdict. Its values are unique.
fn checked(name: &str) -> (History, Verdict) {
    let file = std::fs::read(path(&format!("histories/{name}.jsonl"))).expect("the file exists");
    let history = json_lines::read(&file[..]).expect("the file is a history");
    let verdict = verdict(&history);
    (history, verdict)
}

fn verdict(history: &History) -> Verdict {
    let mut checker = Checker::new().values(Values::Unique);
    history.0.iter().for_each(|event| checker.push(event));
    checker.finish()
}
