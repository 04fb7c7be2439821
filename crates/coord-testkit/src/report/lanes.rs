//! The lanes of an anomaly in text: one line per participant over an axis of revisions.
//!
//! ```text
//! rev  1        2      3
//! T1   r(x,y)───w(x)
//! T2   r(x,y)──────────w(y)
//! ```
//!
//! A read is in the column of the version that it has returned, `absent` if there was no key; a
//! write (`w`) or a deletion (`d`) in the column of its commit. `c` is the commit of a read-only
//! transaction. Only the keys of the anomaly are drawn. What does not fit into 80 columns is
//! written as one paragraph per revision instead.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bytes::Bytes;
use coord_core::kv::Revision;

use super::participants::{ParticipantRecord, WriteEffect};
use super::words::{short, wrap};
use crate::isolation::{Anomaly, EdgeKind, Participant};

/// How many columns the text of a report has.
const COLUMNS_MAX: usize = 80;
/// The longest key that is drawn by its name. If any key is longer, all keys get letters.
const NAME_MAX: usize = 10;

/// The marks of a lane: what is in each column, by revision. Column 0 is for absent keys.
type Marks = BTreeMap<i64, Vec<String>>;

/// The lanes of an anomaly, in lines that start with two spaces.
pub(super) fn lanes(anomaly: &Anomaly, records: &[ParticipantRecord<'_>]) -> String {
    let names = names(anomaly);
    let marks: Vec<Marks> = records.iter().map(|record| marks(anomaly, record, &names)).collect();
    let drawn = drawing(records, &marks);
    let fits = drawn.lines().all(|line| line.chars().count() <= COLUMNS_MAX);
    let mut text = if fits { drawn } else { paragraphs(records, &marks) };
    let renamed = names.iter().filter(|(key, name)| **name != short(key));
    for (key, name) in renamed {
        let _ = writeln!(text, "  {name} = {}", short(key));
    }
    text
}

/// What each key of the anomaly is called in the lanes.
fn names(anomaly: &Anomaly) -> BTreeMap<&Bytes, String> {
    let keys = anomaly.steps.iter().filter_map(|step| step.key.as_ref()).chain(&anomaly.key);
    let keys: BTreeSet<&Bytes> = keys.collect();
    let are_short = keys.iter().all(|key| short(key).len() <= NAME_MAX);
    let letters = (b'a'..=b'z').map(|letter| char::from(letter).to_string());
    let numbers = (1..).map(|number| format!("k{number}"));
    let letters = letters.chain(numbers);
    let name = |(key, letter): (&'_ Bytes, String)| if are_short { short(key) } else { letter };
    keys.iter().zip(letters).map(|(key, letter)| (*key, name((key, letter)))).collect()
}

fn marks(
    anomaly: &Anomaly,
    record: &ParticipantRecord<'_>,
    names: &BTreeMap<&Bytes, String>,
) -> Marks {
    let mut reads: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
    let mut add_read = |revision: Option<Revision>, key: &Bytes| {
        let column = reads.entry(revision.map_or(0, |revision| revision.0)).or_default();
        let name = names.get(key).map_or("", String::as_str);
        if !name.is_empty() && !column.contains(&name) {
            column.push(name);
        }
    };
    for read in record.attempt.iter().flat_map(|attempt| &attempt.reads) {
        add_read(read.found.as_ref().map(|(revision, _)| *revision), &read.key);
    }
    for step in &anomaly.steps {
        let is_reader = match step.kind {
            EdgeKind::PredicateReadWrite => step.from == record.participant,
            EdgeKind::PredicateWriteRead => step.to == record.participant,
            _ => false,
        };
        if let (true, Some(key)) = (is_reader, &step.key) {
            add_read(None, key);
        }
    }
    let mut marks = Marks::new();
    for (revision, keys) in reads.into_iter().filter(|(_, keys)| !keys.is_empty()) {
        marks.entry(revision).or_default().push(format!("r({})", keys.join(",")));
    }
    let Some(commit) = record.commit else { return marks };
    let written = |is_delete: bool| {
        let writes = record.writes.iter();
        let writes = writes.filter(|write| (write.effect == WriteEffect::Delete) == is_delete);
        let keys = writes.filter_map(|write| names.get(write.key).map(String::as_str));
        keys.collect::<Vec<_>>().join(",")
    };
    for (letter, keys) in [("w", written(false)), ("d", written(true))] {
        if !keys.is_empty() {
            marks.entry(commit.0).or_default().push(format!("{letter}({keys})"));
        }
    }
    if record.writes.is_empty() {
        marks.entry(commit.0).or_default().push("c".to_owned());
    }
    marks
}

/// The title of a column.
fn column_title(revision: i64) -> String {
    if revision == 0 { "absent".to_owned() } else { revision.to_string() }
}

fn drawing(records: &[ParticipantRecord<'_>], marks: &[Marks]) -> String {
    let columns: BTreeSet<i64> = marks.iter().flat_map(|marks| marks.keys().copied()).collect();
    let label = |participant: Participant| participant.to_string();
    let labels = records.iter().map(|record| label(record.participant).len());
    let indent = labels.max().unwrap_or(0).max("rev".len()) + 4;
    let mut starts = BTreeMap::new();
    let mut next = indent;
    for &column in &columns {
        starts.insert(column, next);
        let cells = marks.iter().filter_map(|marks| marks.get(&column));
        let width = cells.map(|cell| cell.concat().len()).max().unwrap_or(0);
        next += width.max(column_title(column).len()) + 3;
    }
    let mut text = String::new();
    let titles = starts.iter().map(|(&column, &start)| (start, column_title(column)));
    write_line(&mut text, "rev", titles, ' ');
    for (record, marks) in records.iter().zip(marks) {
        let cells = marks.iter().map(|(column, cell)| (starts[column], cell.concat()));
        write_line(&mut text, &label(record.participant), cells, '─');
    }
    text
}

/// Writes a line: a label, then texts at their columns, with `fill` between the texts.
fn write_line(
    text: &mut String,
    label: &str,
    cells: impl Iterator<Item = (usize, String)>,
    fill: char,
) {
    let mut line = format!("  {label}");
    let mut width = line.len();
    let mut filling = ' ';
    for (start, cell) in cells {
        line.extend(std::iter::repeat_n(filling, start - width));
        width = start + cell.len();
        line.push_str(&cell);
        filling = fill;
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// The marks of all lanes, by revision.
fn paragraphs(records: &[ParticipantRecord<'_>], marks: &[Marks]) -> String {
    let columns: BTreeSet<i64> = marks.iter().flat_map(|marks| marks.keys().copied()).collect();
    let mut text = String::new();
    for column in columns {
        let title = match column {
            0 => "  absent ".to_owned(),
            revision => format!("  rev {revision} "),
        };
        let at = records.iter().zip(marks).filter_map(|(record, marks)| {
            Some(format!("{} {}", record.participant, marks.get(&column)?.concat()))
        });
        text.push_str(&wrap(&title, 8, &at.collect::<Vec<_>>().join("; ")));
    }
    text
}
