//! Plume's text and porcupine's JSON, written and read.

use coord_core::recording::AttemptEnd;
use coord_testkit::history::History;
use coord_testkit::history::formats::{FormatError, plume, porcupine};
use coord_testkit::isolation::{Checker, Level, Status};

use super::{
    attempt, deleting, ending, history, lines, putting, reading, reading_absent, reading_range,
};

#[test]
fn plume_text_has_committed_observed_and_aborted_writes() {
    let unknown = |attempt| ending(attempt, AttemptEnd::Unknown);
    let recorded = history([
        ("a", 2, putting(reading_absent(attempt(1, 1), "7"), "7", "1")),
        ("b", 4, unknown(putting(attempt(2, 3), "7", "2"))),
        ("b", 6, unknown(putting(attempt(3, 5), "7", "3"))),
        (
            "a",
            8,
            ending(putting(reading(attempt(4, 7), "7", 9, "1"), "7", "4"), AttemptEnd::Aborted),
        ),
        ("a", 10, reading(attempt(5, 9), "7", 9, "2")),
    ]);
    let written = lines(|file| plume::write(&recorded, file).unwrap());
    // Transaction 3 has put a value that no transaction has read.
    assert_eq!(written, ["r(7,0,0,1)", "w(7,1,0,1)", "w(7,2,1,2)", "w(7,4,0,-1)", "r(7,2,0,5)"]);
}

#[test]
fn plume_numbers_keys_and_values_that_are_no_numbers() {
    let recorded = history([
        ("a", 2, putting(attempt(1, 1), "x", "one")),
        ("a", 4, putting(reading(attempt(2, 3), "x", 9, "one"), "y", "0")),
    ]);
    let written = lines(|file| plume::write(&recorded, file).unwrap());
    assert_eq!(written, ["w(1,1,0,1)", "r(1,1,0,2)", "w(2,2,0,2)"]);
}

#[test]
fn plume_names_the_event_that_it_cannot_express() {
    for attempt in [deleting(attempt(1, 1), "x"), reading_range(attempt(1, 1), "p/")] {
        let error = plume::write(&history([("a", 2, attempt)]), Vec::new()).unwrap_err();
        assert!(error.to_string().starts_with("Plume's format cannot express event 0: "));
    }
}

#[test]
fn porcupine_operations_have_inputs_and_outputs() {
    let unknown = |attempt| ending(attempt, AttemptEnd::Unknown);
    let recorded = history([
        // The idempotency key is left out.
        ("a", 2, putting(putting(attempt(1, 1), "coord/stm/7-1", "1"), "x", "1")),
        ("b", 4, unknown(putting(reading(attempt(2, 3), "x", 9, "1"), "x", "2"))),
        ("a", 6, ending(putting(attempt(3, 5), "x", "3"), AttemptEnd::Aborted)),
        ("a", 8, deleting(reading(attempt(4, 7), "x", 9, "1"), "x")),
        ("a", 10, reading_absent(attempt(5, 9), "x")),
        ("a", 12, attempt(6, 11)),
    ]);
    let written = lines(|file| porcupine::write(&recorded, file).unwrap()).concat();
    assert_eq!(
        written,
        [
            r#"[{"ClientId":0,"Input":{"Op":"write","Key":"x","Value":"1"},"Call":1,"Output":{},"Return":2},"#,
            r#"{"ClientId":1,"Input":{"Op":"read-write","Key":"x","Value":"2"},"Call":3,"Output":{},"Return":12},"#,
            r#"{"ClientId":0,"Input":{"Op":"read-write","Key":"x"},"Call":7,"Output":{"Found":true,"Value":"1"},"Return":8},"#,
            r#"{"ClientId":0,"Input":{"Op":"read","Key":"x"},"Call":9,"Output":{"Found":false},"Return":10}]"#,
        ]
        .concat()
    );
}

#[test]
fn porcupine_names_the_event_that_it_cannot_express() {
    let cases = [
        putting(putting(attempt(1, 1), "x", "1"), "y", "1"),
        putting(reading_absent(attempt(1, 1), "x"), "y", "1"),
        reading_absent(reading_absent(attempt(1, 1), "x"), "y"),
        reading_range(attempt(1, 1), "p/"),
    ];
    for attempt in cases {
        let error = porcupine::write(&history([("a", 2, attempt)]), Vec::new()).unwrap_err();
        assert!(error.to_string().starts_with("porcupine's format cannot express event 0: "));
    }
}

/// The events of a history without their times.
fn kinds(history: &History) -> Vec<String> {
    history.0.iter().map(|event| event.kind.to_string()).collect()
}

/// The kinds of the anomalies, and whether read committed is refuted.
fn check(history: &History) -> (Vec<String>, bool) {
    let mut checker = Checker::new();
    history.0.iter().for_each(|event| checker.push(event));
    let verdict = checker.finish();
    let kinds = verdict.anomalies().iter().map(|anomaly| anomaly.elle_name().to_owned()).collect();
    let status = verdict.status(Level::ReadCommitted);
    (kinds, matches!(status, Status::Not | Status::AlsoNot))
}

#[test]
fn plume_text_is_read_back() {
    let text = "r(7,0,0,1)\nw(7,1,0,1)\n\nw(7,2,1,2)\nw(7,4,0,-1)\nw(8,5,0,-1)\nr(7,2,0,5)\n";
    let history = plume::read(text).unwrap();
    assert_eq!(
        kinds(&history),
        [
            "tx attempt 1 of transaction 1 reads 7 absent; puts 7; committed at revision 0",
            "tx attempt 1 of transaction 2; puts 7; committed at revision 0",
            "tx attempt 1 of transaction 3; puts 7; puts 8; aborted",
            "tx attempt 1 of transaction 4 reads 7@0; committed at revision 0",
        ]
    );
    assert_eq!(check(&history), (Vec::new(), false));
    let written = lines(|file| plume::write(&history, file).unwrap());
    assert_eq!(written.len(), 6, "{written:?}");
}

#[test]
fn plume_and_porcupine_reads_of_aborted_writes_are_found() {
    let aborted = plume::read("w(1,1,0,-1)\nr(1,1,1,2)\n").unwrap();
    assert_eq!(check(&aborted), (vec!["G1a".to_owned()], true));
    let cycle = "w(1,1,0,1)\nr(2,2,0,1)\nw(2,2,1,2)\nr(1,1,1,2)\n";
    assert_eq!(check(&plume::read(cycle).unwrap()), (vec!["G1c".to_owned()], true));
    let garbage = r#"[{"ClientId":0,"Input":{"Op":"write","Key":"x","Value":"1"},"Call":1,"Output":{},"Return":2},
        {"ClientId":1,"Input":{"Op":"read","Key":"x"},"Call":3,"Output":{"Found":true,"Value":"2"},"Return":4}]"#;
    let (kinds, is_refuted) = check(&porcupine::read(garbage).unwrap());
    assert!(is_refuted && kinds.len() == 1, "{kinds:?}");
}

/// Two sessions that never waited for each other are not ordered by their places in the file.
#[test]
fn plume_sessions_are_concurrent() {
    let text = "w(1,1,0,1)\nr(1,0,1,2)\n";
    assert_eq!(check(&plume::read(text).unwrap()), (Vec::new(), false));
    let history = plume::read(text).unwrap();
    assert!(history.0.iter().all(|event| event.at.is_zero()), "{history}");
}

#[test]
fn porcupine_operations_are_read_back() {
    let unknown = |attempt| ending(attempt, AttemptEnd::Unknown);
    let recorded = history([
        ("a", 2, putting(attempt(1, 1), "x", "1")),
        ("b", 4, unknown(putting(reading(attempt(2, 3), "x", 9, "1"), "x", "2"))),
        ("a", 8, deleting(reading(attempt(3, 7), "x", 9, "1"), "x")),
        ("a", 10, reading_absent(attempt(4, 9), "x")),
    ]);
    let written = lines(|file| porcupine::write(&recorded, file).unwrap()).concat();
    let read = porcupine::read(&written).unwrap();
    assert_eq!(
        kinds(&read),
        [
            "tx attempt 1 of transaction 1; puts x; committed at revision 0",
            "tx attempt 1 of transaction 2; puts x; outcome unknown",
            "tx attempt 1 of transaction 3 reads x@0; deletes x; committed at revision 0",
            "tx attempt 1 of transaction 4 reads x absent; committed at revision 0",
        ]
    );
    assert_eq!(check(&read), (Vec::new(), false));
}

#[test]
fn malformed_text_of_other_formats_fails_with_its_line() {
    let lines = ["x(1,1,0,1)", "r(1,1,0)", "r(1,1,0,1,1)", "w(1,0,0,1)", "r(a,1,0,1)", "r", "é"];
    for line in lines {
        let error = plume::read(&format!("w(1,1,0,1)\n{line}\n")).unwrap_err();
        assert!(matches!(error, FormatError::Syntax { line: 2, .. }), "{line}: {error}");
    }
    let operation = |text: &str| format!("[{{\"ClientId\":0,{text}}}]");
    let operations = [
        r#""Input":{"Op":"cas","Key":"x"},"Call":1,"Output":{},"Return":2"#,
        r#""Input":{"Op":"read","Key":"x"},"Call":1,"Output":{"Found":true},"Return":2"#,
        r#""Input":{"Op":"write","Key":"x"},"Call":1,"Output":{"Found":true},"Return":2"#,
        r#""Input":{"Op":"read","Key":"\\q"},"Call":1,"Output":{},"Return":2"#,
        r#""Input":{"Op":"read","Key":"x"},"Call":3,"Output":{"Found":false},"Return":2"#,
        r#""Input":{"Op":"read","Key":"x"}"#,
    ];
    for text in operations.map(operation) {
        let error = porcupine::read(&text).unwrap_err();
        assert!(matches!(error, FormatError::Syntax { line: 1, .. }), "{text}: {error}");
    }
}
