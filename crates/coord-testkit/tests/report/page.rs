//! The page of a report: its structure, its size, and that no text of a history becomes markup.

use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::Revision;
use coord_core::recording::{Attempt, AttemptEnd, KeyRead, KeyWrite};
use coord_core::stm::Isolation;
use coord_testkit::history::{Event, EventKind, History};
use coord_testkit::isolation::{self, Level};
use coord_testkit::report::Report;

use super::{HISTORIES, checked};

/// The largest page, as `Report::html` documents it.
const BYTES_MAX: usize = 300_000;

/// A text that ends a script, a style, a drawing and an attribute, and begins a comment.
const HOSTILE: &str =
    "</script></style></svg>\"'><img src=x onerror=alert(1)><!--\u{202e}{{ 7 * 7 }}&amp;";

/// Asserts that the elements of a page are nested, with the attributes quoted. Returns the names of
/// all elements.
fn elements(page: &str) -> Vec<String> {
    const VOID: [&str; 4] = ["meta", "input", "br", "!doctype"];
    let mut names = Vec::new();
    let mut open: Vec<String> = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let tag = &rest[at + 1..];
        let mut is_quoted = false;
        let end = tag.find(|c| {
            is_quoted ^= c == '"';
            c == '>' && !is_quoted
        });
        let end = end.expect("a tag has an end, and its attributes too");
        let tag = &tag[..end];
        rest = &rest[at + 1 + end + 1..];
        let name: String = tag
            .chars()
            .take_while(|c| !c.is_whitespace())
            .collect::<String>()
            .trim_end_matches('/')
            .to_owned();
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "elements are nested");
        } else if !tag.ends_with('/') && !VOID.contains(&name.as_str()) {
            open.push(name.clone());
            if name == "script" || name == "style" {
                // Their content ends at the first end tag, whatever it is.
                let end = rest.find(&format!("</{name}>")).expect("the element has an end");
                rest = &rest[end..];
            }
        }
        if !name.starts_with('/') {
            names.push(name);
        }
    }
    assert_eq!(open, [""; 0], "all elements are closed");
    names
}

/// Asserts what holds for every page. Returns the data of its script.
fn assert_is_a_page(page: &str) -> serde_json::Value {
    assert!(page.len() <= BYTES_MAX, "{} bytes", page.len());
    let names = elements(page);
    let count = |name: &str| names.iter().filter(|other| *other == name).count();
    assert_eq!((count("script"), count("style"), count("svg"), count("img")), (2, 1, 1, 0));
    for outside in ["http://", "https://", "url(h", "@import", "<link"] {
        assert!(!page.contains(outside), "the page refers to another file: {outside}");
    }
    let data = page.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next());
    serde_json::from_str(data.expect("the page has data")).expect("the data are JSON")
}

/// A committed attempt.
fn event(transaction: u64, process: &str, began: u64, ended: u64, revision: i64) -> Event {
    let attempt = Attempt {
        transaction,
        number: 1,
        isolation: Isolation::ReadCommitted,
        began: Duration::from_millis(began),
        reads: Vec::new(),
        ranges: Vec::new(),
        writes: Vec::new(),
        end: AttemptEnd::Committed { revision: Revision(revision) },
    };
    let kind = EventKind::Attempt(Box::new(attempt));
    Event { at: Duration::from_millis(ended), process: Some(process.into()), kind }
}

/// Adds reads, each at a mod revision, and puts.
fn with(mut event: Event, reads: &[(&Bytes, i64)], puts: &[&Bytes], value: &Bytes) -> Event {
    if let EventKind::Attempt(attempt) = &mut event.kind {
        attempt.reads = reads
            .iter()
            .map(|(key, revision)| KeyRead {
                key: (*key).clone(),
                found: Some((Revision(*revision), value.clone())),
            })
            .collect();
        attempt.writes = puts
            .iter()
            .map(|key| KeyWrite { key: (*key).clone(), value: Some(value.clone()) })
            .collect();
    }
    event
}

/// Write skew of two transactions on two keys among many other transactions.
fn write_skew_among(others: u64, keys: [&Bytes; 2], value: &Bytes, process: &str) -> History {
    let [x, y] = keys;
    let mut events = Vec::new();
    for other in 0..others {
        let key = Bytes::from(format!("other/{other}/{}", "k".repeat(200)));
        let revision = 10 + i64::try_from(other).expect("a small number");
        let name = format!("{process}-{}", other % 40);
        let other = event(100 + other, &name, 10 * other, 10 * other + 5, revision);
        events.push(with(other, &[], &[&key], value));
    }
    let last = 10 + i64::try_from(others).expect("a small number");
    let ended = 10 * others;
    for (number, put) in [(1, x), (2, y)] {
        let revision = last + i64::try_from(number).expect("a small number");
        let skewed = event(number, process, ended, ended + 9, revision);
        events.push(with(skewed, &[(x, 1), (y, 2)], &[put], value));
    }
    History(events)
}

#[test]
fn page_of_each_anomaly_is_complete() {
    for name in HISTORIES {
        let (history, verdict) = checked(name);
        let report = Report::new(&history, &verdict).level(Level::StrictSerializable);
        let page = report.html();
        let data = assert_is_a_page(&page);
        let columns = data["columns"].as_array().expect("a list");
        assert!(!columns.is_empty(), "{name}");
        let steps = verdict.anomalies().first().map_or(0, |anomaly| anomaly.steps.len());
        for edge in 1..=steps {
            assert!(
                page.contains(&format!("class=\"edge edge-{edge}\""))
                    || page.contains(&format!("class=\"edge order edge-{edge}\"")),
                "{name}: edge {edge}"
            );
        }
        let first = data["first"].as_u64().expect("a number");
        assert!(usize::try_from(first).expect("a small number") < columns.len(), "{name}");
    }
}

#[test]
fn state_of_the_store_is_that_of_the_revision() {
    let (history, verdict) = checked("write-skew");
    let data = assert_is_a_page(&Report::new(&history, &verdict).html());
    assert_eq!(data["keys"], serde_json::json!(["on_call/ada", "on_call/bob"]));
    let changes: Vec<_> = data["columns"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|column| (column["hash"].as_str().expect("text"), &column["changes"]))
        .collect();
    let expected = [
        ("rev=2", serde_json::json!([[0, 2, "yes"]])),
        ("rev=3", serde_json::json!([[1, 3, "yes"]])),
        ("rev=4", serde_json::json!([[0, 4, "no"]])),
        ("rev=5", serde_json::json!([[1, 5, "no"]])),
    ];
    assert_eq!(changes, expected.each_ref().map(|(hash, changes)| (*hash, changes)));
}

#[test]
fn text_of_a_history_never_becomes_markup() {
    let (x, y) = (Bytes::from(format!("x{HOSTILE}")), Bytes::from(format!("y{HOSTILE}")));
    let mut history = write_skew_among(3, [&x, &y], &HOSTILE.into(), HOSTILE);
    let at = Duration::from_millis(3);
    let fault = EventKind::Fault(HOSTILE.to_owned());
    history.0.push(Event { at, process: Some(HOSTILE.into()), kind: fault });
    history.0.push(Event { at, process: None, kind: EventKind::Note(HOSTILE.to_owned()) });
    let verdict = isolation::check(&history);
    assert!(!verdict.anomalies().is_empty(), "{verdict}");
    for page in [Report::new(&history, &verdict).html(), Report::timeline(&history).html()] {
        assert_is_a_page(&page);
        assert!(!page.contains("<img") && !page.contains("\u{202e}"));
        assert!(page.contains("onerror=alert(1)&#62;"));
    }
}

#[test]
fn page_has_a_limited_size_whatever_the_history() {
    let long = Bytes::from("</b>\"\u{1}".repeat(2000));
    let keys = [b"x/", b"y/"].map(|start| Bytes::from([&start[..], &long].concat()));
    for (others, value) in [(0, Bytes::from("1")), (5000, Bytes::from("1")), (500, long)] {
        let mut history =
            write_skew_among(others, [&keys[0], &keys[1]], &value, &"p\"".repeat(500));
        for fault in 0..3000 {
            let at = Duration::from_millis(fault);
            let kind = EventKind::Fault("<lost>".repeat(100));
            history.0.push(Event { at, process: None, kind });
        }
        let verdict = isolation::check(&history);
        let page = Report::new(&history, &verdict).html();
        assert_is_a_page(&page);
        assert!(page.contains(">T1<") && page.contains(">T2<"), "both participants are drawn");
        assert!(page.contains("edge-1") && page.contains("edge-2"), "the cycle is drawn");
        let left_out = others > 0;
        assert_eq!(page.contains("attempts of other transactions"), left_out, "{others}");
        assert_is_a_page(&Report::timeline(&history).html());
    }
}

#[test]
fn transaction_with_many_reads_is_drawn_in_part() {
    let value = Bytes::from("v");
    let keys: Vec<Bytes> = (0..5000).map(|key| Bytes::from(format!("key/{key}"))).collect();
    let reads: Vec<(&Bytes, i64)> = keys.iter().map(|key| (key, 1)).collect();
    let puts: Vec<&Bytes> = keys.iter().collect();
    let events = [1, 2].map(|number| {
        let revision = 1 + i64::try_from(number).expect("a small number");
        with(event(number, "a", 0, 9, revision), &reads, &puts, &value)
    });
    let history = History(events.into());
    let verdict = isolation::check(&history);
    let page = Report::new(&history, &verdict).html();
    assert_is_a_page(&page);
    assert!(page.contains("more reads"));
}

#[test]
fn timeline_has_a_column_for_each_event() {
    let (history, _) = checked("stale-read-only");
    let page = Report::timeline(&history).html();
    let data = assert_is_a_page(&page);
    assert_eq!(data["columns"].as_array().map(Vec::len), Some(history.0.len()));
    assert_is_a_page(&Report::timeline(&History::default()).html());
}
