//! The text of a report.

use std::io::Write as _;

use coord_testkit::history::{EventKind, History};
use coord_testkit::isolation::{Level, Status};
use coord_testkit::report::Report;

use super::{HISTORIES, checked, path, verdict};

#[test]
fn text_of_each_anomaly_is_the_golden_file() {
    let mut mint = goldenfile::Mint::new(path("texts"));
    for name in HISTORIES {
        let (history, verdict) = checked(name);
        let text = Report::new(&history, &verdict).to_string();
        let mut file = mint.new_goldenfile(format!("{name}.txt")).expect("a file can be created");
        file.write_all(text.as_bytes()).expect("the file can be written");
    }
}

#[test]
fn lines_have_at_most_eighty_columns() {
    for name in HISTORIES {
        for key_length in [1, 10, 24, 25, 300] {
            let (mut history, _) = checked(name);
            lengthen_keys(&mut history, key_length);
            let verdict = verdict(&history);
            let text = Report::new(&history, &verdict).to_string();
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{name}, keys of {key_length}: {line}");
                assert_eq!(line, line.trim_end(), "{name}");
            }
        }
    }
}

/// Makes all keys longer, so that they differ only at their ends.
fn lengthen_keys(history: &mut History, length: usize) {
    let longer = |key: &mut bytes::Bytes| {
        *key = [&vec![b'k'; length][..], key].concat().into();
    };
    for event in &mut history.0 {
        match &mut event.kind {
            EventKind::Attempt(attempt) => {
                attempt.reads.iter_mut().for_each(|read| longer(&mut read.key));
                attempt.writes.iter_mut().for_each(|write| longer(&mut write.key));
                for range in &mut attempt.ranges {
                    range.range = coord_core::kv::KeyRange::all();
                    range.found.iter_mut().for_each(|(key, _)| longer(key));
                }
            }
            EventKind::Changed(change) => {
                change.writes.iter_mut().for_each(|write| longer(&mut write.key));
            }
            _ => {}
        }
    }
}

#[test]
fn first_line_depends_on_the_level() {
    let (history, verdict) = checked("write-skew");
    let report = Report::new(&history, &verdict);
    let first = |report: &Report<'_>| report.to_string().lines().next().map(str::to_owned);
    let declared = "HOLDS: the level of each transaction, which permits write skew (G2-item)";
    assert_eq!(first(&report).as_deref(), Some(declared));
    assert_eq!(report.status(), Status::Holds);
    let serializable = report.level(Level::Serializable);
    let violation = "VIOLATION of serializable: write skew (G2-item)";
    assert_eq!(first(&serializable).as_deref(), Some(violation));
    assert_eq!(serializable.status(), Status::AlsoNot);
}

#[test]
fn timeline_has_the_text_of_the_history() {
    let (history, _) = checked("write-skew");
    let report = Report::timeline(&history);
    assert_eq!(report.to_string(), history.to_string());
    assert_eq!(report.status(), Status::Unknown);
}
