//! coord's own format: everything except requests is read back as it was written.

use std::fmt::Debug;
use std::io::{self, BufReader, Read as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::{KeyRange, Put, Revision};
use coord_core::recording::{Attempt, AttemptEnd, KeyRead, KeyWrite, RangeRead};
use coord_core::stm::Isolation;
use coord_testkit::Call;
use coord_testkit::history::formats::{FormatError, json_lines};
use coord_testkit::history::{
    Contradiction, ContradictionKind, Event, EventKind, History, Inference, StoreChange,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::{attempt, lines};
use crate::support::cases;

/// Any bytes, often text.
fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        "[a-z/\\\\\"]{0,4}".prop_map(Bytes::from),
        ".{0,4}".prop_map(Bytes::from),
        vec(any::<u8>(), 0..6).prop_map(Bytes::from),
    ]
}

fn revision() -> impl Strategy<Value = Revision> {
    prop_oneof![0..20_i64, any::<i64>()].prop_map(Revision)
}

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![0..1_000_u64, any::<u64>()].prop_map(Duration::from_nanos)
}

/// Different keys, each with a value.
fn by_key<T: Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<(Bytes, T)>> {
    btree_map(bytes(), value, 0..4).prop_map(Vec::from_iter)
}

fn writes() -> impl Strategy<Value = Vec<KeyWrite>> {
    let write = |(key, value)| KeyWrite { key, value };
    let writes = by_key(proptest::option::of(bytes()));
    writes.prop_map(move |writes| writes.into_iter().map(write).collect())
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    let read = |(key, found)| KeyRead { key, found };
    let reads = by_key(proptest::option::of((revision(), bytes())));
    let reads = reads.prop_map(move |reads| reads.into_iter().map(read).collect());
    let range = (bytes(), bytes(), by_key(revision()));
    let range = range.prop_map(|(start, end, found)| RangeRead {
        range: KeyRange::from_wire(start, end),
        found,
    });
    let end = prop_oneof![
        revision().prop_map(|revision| AttemptEnd::Committed { revision }),
        Just(AttemptEnd::Conflict),
        Just(AttemptEnd::Aborted),
        Just(AttemptEnd::Failed),
        Just(AttemptEnd::Unknown),
    ];
    let numbers = (any::<u64>(), any::<u32>(), 0..Isolation::ALL.len(), duration());
    (numbers, reads, vec(range, 0..3), writes(), end).prop_map(
        |((transaction, number, level, began), reads, ranges, writes, end)| Attempt {
            transaction,
            number,
            isolation: Isolation::ALL[level],
            began,
            reads,
            ranges,
            writes,
            end,
        },
    )
}

fn any_inference() -> impl Strategy<Value = Inference> {
    let kinds = proptest::sample::select(vec![
        ContradictionKind::IncompatibleOrder,
        ContradictionKind::DuplicateElement,
        ContradictionKind::GarbageRead,
        ContradictionKind::AbortedRead,
        ContradictionKind::IntermediateRead,
        ContradictionKind::FutureRead,
        ContradictionKind::InternalRead,
        ContradictionKind::LostUpdate,
        ContradictionKind::WriteCycle,
        ContradictionKind::ReadCycle,
    ]);
    let keys = vec(vec(any::<u8>(), 0..4).prop_map(Bytes::from), 0..3);
    let contradiction = (kinds, vec(any::<u64>(), 0..3), keys)
        .prop_map(|(kind, transactions, keys)| Contradiction { kind, transactions, keys });
    (any::<usize>(), vec(contradiction, 0..3))
        .prop_map(|(versions, contradictions)| Inference { versions, contradictions })
}

/// Any event except a request, which becomes a note.
fn any_event() -> impl Strategy<Value = Event> {
    let text = || ".{0,8}";
    let result = prop_oneof![revision().prop_map(Ok), text().prop_map(Err)];
    let kind = prop_oneof![
        4 => any_attempt().prop_map(|attempt| EventKind::Attempt(Box::new(attempt))),
        2 => (revision(), writes())
            .prop_map(|(revision, writes)| EventKind::Changed(StoreChange { revision, writes })),
        1 => text().prop_map(EventKind::Fault),
        1 => text().prop_map(EventKind::Note),
        1 => (any::<u64>(), result)
            .prop_map(|(request, result)| EventKind::Applied { request, result }),
        1 => (any::<u64>(), proptest::option::of(text()))
            .prop_map(|(request, error)| EventKind::Received { request, error }),
        1 => (revision(), any::<usize>())
            .prop_map(|(revision, events)| EventKind::Watched { revision, events }),
        1 => any_inference().prop_map(EventKind::Inferred),
        1 => (revision(), revision())
            .prop_map(|(newest, found)| EventKind::Restored { newest, found }),
    ];
    let process = proptest::option::of(text().prop_map(Arc::from));
    (duration(), process, kind).prop_map(|(mut at, process, mut kind)| {
        if let EventKind::Attempt(attempt) = &mut kind
            && attempt.began > at
        {
            // An attempt that ends before it began is refused.
            std::mem::swap(&mut attempt.began, &mut at);
        }
        Event { at, process, kind }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn any_history_is_read_back(events in vec(any_event(), 0..8)) {
        let history = History(events);
        let mut file = Vec::new();
        json_lines::write(&history, &mut file).unwrap();
        prop_assert_eq!(json_lines::read(&file[..]).unwrap(), history);
    }
}

#[test]
fn request_is_written_as_a_note() {
    let kind = EventKind::Sent { request: 3, call: Call::Put(Put::new("a", "1")) };
    let event = Event { at: Duration::from_nanos(5), process: Some("p".into()), kind };
    let written = lines(|file| json_lines::write(&History(vec![event]), file).unwrap());
    assert_eq!(written[1], "{\"at\":5,\"process\":\"p\",\"note\":\"-> #3 put \\\"a\\\"\"}");
}

#[test]
fn file_of_another_format_is_refused() {
    let header = "{\"format\":\"coord-history\",\"version\":1}\n";
    let with = |line: &str| format!("{header}{{\"at\":1,\"note\":\"ok\"}}\n{line}\n");
    let attempt = |fields: &str| {
        with(&format!(
            "{{\"at\":1,\"attempt\":{{\"transaction\":1,\"number\":1,\"began\":0,{fields}}}}}"
        ))
    };
    let cases = [
        (String::new(), "line 1: no header of a history: "),
        ("{\"at\":1}\n".to_owned(), "line 1: no header of a history: "),
        (
            "{\"format\":\"x\",\"version\":1}\n".to_owned(),
            "line 1: invalid format \"x\": must be coord-history",
        ),
        (header.replace('1', "2"), "version 2 of the format is not supported: "),
        (with("{"), "line 3: "),
        (with("{\"at\":1}"), "line 3: a line needs exactly one event"),
        (with("{\"at\":1,\"note\":\"a\",\"fault\":\"b\"}"), "line 3: a line needs exactly one"),
        (with("{\"at\":1,\"nota\":\"a\"}"), "line 3: unknown field `nota`"),
        (
            with(
                "{\"at\":1,\"attempt\":{\"transaction\":1,\"number\":1,\"began\":2,\
                 \"isolation\":\"serializable\",\"end\":\"failed\"}}",
            ),
            "line 3: the attempt ends at 1ns, before it began at 2ns",
        ),
        (with("{\"at\":1,\"applied\":{\"request\":1}}"), "line 3: `applied` needs a revision"),
        (
            attempt("\"isolation\":\"si\",\"end\":\"failed\""),
            "line 3: unknown isolation level \"si\"",
        ),
        (attempt("\"isolation\":\"serializable\",\"end\":\"committed\""), "line 3: invalid end "),
        (
            attempt(
                "\"isolation\":\"serializable\",\"end\":\"failed\",\"reads\":[{\"key\":\"\\\\\"}]",
            ),
            "line 3: the escape in \"\\\\\" is invalid",
        ),
        (
            attempt(
                "\"isolation\":\"serializable\",\"end\":\"failed\",\
                 \"reads\":[{\"key\":\"x\",\"revision\":1}]",
            ),
            "line 3: the read of \"x\" needs a revision and a value",
        ),
    ];
    for (file, message) in cases {
        let error = json_lines::read(file.as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with(message), "{error} is not {message}");
    }
}

/// A stream that never ends a line must not fill the memory.
#[test]
fn line_without_an_end_is_refused() {
    let endless = || BufReader::new(io::repeat(b'a'));
    let too_long = "the line is too long: at most 67108864 bytes are read";
    let error = json_lines::read(endless()).unwrap_err();
    assert_eq!(error.to_string(), format!("line 1: {too_long}"));
    let header = "{\"format\":\"coord-history\",\"version\":1}\n";
    let error = json_lines::read(header.as_bytes().chain(endless())).unwrap_err();
    assert_eq!(error.to_string(), format!("line 2: {too_long}"));
}

/// Regression: of two reads or writes of one key the checker looked at one only.
#[test]
fn event_that_names_a_key_twice_is_refused() {
    let attempt = |fields: &str| {
        r#"{"attempt":{"transaction":1,"number":1,"isolation":"serializable","began":0,
           "end":"failed",FIELDS}}"#
            .replace('\n', "")
            .replace("FIELDS", fields)
    };
    let range =
        r#""start":"a","end":"b","found":[{"key":"a","revision":1},{"key":"a","revision":2}]"#;
    let cases = [
        (
            attempt(r#""reads":[{"key":"x"},{"key":"x"}]"#),
            r#"reads must name each key once: "x" twice"#,
        ),
        (
            attempt(r#""writes":[{"key":"y"},{"key":"x"},{"key":"y"}]"#),
            r#"writes must name each key once: "y" twice"#,
        ),
        (
            attempt(&format!(r#""ranges":[{{{range}}}]"#)),
            r#"a range must name each key once: "a" twice"#,
        ),
        (
            r#"{"change":{"revision":2,"writes":[{"key":"x"},{"key":"x"}]}}"#.to_owned(),
            r#"a change must name each key once: "x" twice"#,
        ),
    ];
    for (event, message) in cases {
        let line = event.replacen('{', "{\"at\":1,", 1);
        let file = format!("{{\"format\":\"coord-history\",\"version\":1}}\n{line}\n");
        let error = json_lines::read(file.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), format!("line 2: {message}"));
    }
}

#[test]
fn events_are_read_until_the_first_invalid_line() {
    let file = "{\"format\":\"coord-history\",\"version\":1}\n{\"at\":1,\"note\":\"a\"}\n{\n";
    let mut events = json_lines::events(file.as_bytes()).unwrap();
    assert_eq!(events.next().unwrap().unwrap().kind, EventKind::Note("a".to_owned()));
    assert!(matches!(events.next(), Some(Err(FormatError::Syntax { line: 3, .. }))));
    assert!(events.next().is_none());
}

/// Editors and scripts end files with a blank line.
#[test]
fn blank_lines_are_skipped() {
    let file =
        "{\"format\":\"coord-history\",\"version\":1}\n\n{\"at\":1,\"note\":\"a\"}\n \r\n\n{";
    let mut events = json_lines::events(file.as_bytes()).unwrap();
    assert_eq!(events.next().unwrap().unwrap().kind, EventKind::Note("a".to_owned()));
    assert!(matches!(events.next(), Some(Err(FormatError::Syntax { line: 6, .. }))));
    assert!(events.next().is_none());
}

#[test]
fn attempt_is_written_as_documented() {
    let attempt = super::reading_absent(super::reading(attempt(1, 2), "x", 3, "90"), "y");
    let attempt = super::deleting(super::putting(attempt, "x", "80"), "z\\");
    let written =
        lines(|file| json_lines::write(&super::history([("a", 5, attempt)]), file).unwrap());
    assert_eq!(
        written,
        [
            "{\"format\":\"coord-history\",\"version\":1}",
            "{\"at\":5,\"process\":\"a\",\"attempt\":{\"transaction\":1,\"number\":1,\
             \"isolation\":\"serializable-snapshot\",\"began\":2,\
             \"reads\":[{\"key\":\"x\",\"revision\":3,\"value\":\"90\"},{\"key\":\"y\"}],\
             \"writes\":[{\"key\":\"x\",\"value\":\"80\"},{\"key\":\"z\\\\\\\\\"}],\
             \"end\":\"committed\",\"revision\":9}}"
        ]
    );
}
