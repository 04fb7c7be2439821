//! Plume's text and porcupine's JSON.

use coord_core::recording::AttemptEnd;
use coord_testkit::history::formats::{plume, porcupine};

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
