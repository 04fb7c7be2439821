//! The graph of a report, read by a parser of the part of the language that it uses.

use std::collections::BTreeSet;

use coord_testkit::history::EventKind;
use coord_testkit::report::Report;

use super::{HISTORIES, checked, verdict};

/// The words, strings and signs of a graph.
fn tokens(dot: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = dot.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => string_length(rest),
            '{' | '}' | '[' | ']' | '=' | ';' => 1,
            '-' => 2,
            _ => {
                let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let length = rest.find(|c| !is_word(c)).expect("a graph ends with a brace");
                assert!(length > 0, "unexpected {first:?}");
                length
            }
        };
        tokens.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    tokens
}

/// The length of a string with its quotes.
fn string_length(text: &str) -> usize {
    let mut is_escaped = true;
    for (at, character) in text.char_indices() {
        assert_ne!(character, '\n', "a string ends on its line");
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    panic!("a string has no end: {text}");
}

/// Parses a graph. Returns its nodes, and the ends of its edges.
fn parse(dot: &str) -> (BTreeSet<String>, Vec<(String, String)>) {
    let tokens = tokens(dot);
    let (mut nodes, mut edges) = (BTreeSet::new(), Vec::new());
    let mut depth = 0;
    let mut statement: Vec<&str> = Vec::new();
    for token in &tokens {
        match token.as_str() {
            "{" => {
                let is_head = matches!(statement[..], ["digraph", _] | ["subgraph", _]);
                assert!(is_head, "{statement:?}");
                depth += 1;
                statement.clear();
            }
            "}" => {
                assert!(statement.is_empty(), "no semicolon after {statement:?}");
                depth -= 1;
            }
            ";" => {
                match statement[..] {
                    ["node", "[", "shape", "=", "box", "]"] | ["label", "=", _] => {}
                    [node, "[", "label", "=", _, "]"] => drop(nodes.insert(node.to_owned())),
                    [from, "->", to, "[", "label", "=", _, "]"] => {
                        edges.push((from.to_owned(), to.to_owned()));
                    }
                    _ => panic!("unexpected {statement:?}"),
                }
                statement.clear();
            }
            token => statement.push(token),
        }
    }
    assert_eq!(depth, 0, "the braces are paired");
    (nodes, edges)
}

#[test]
fn graph_of_each_anomaly_parses() {
    for name in HISTORIES {
        let (history, verdict) = checked(name);
        let dot = Report::new(&history, &verdict).dot();
        let (nodes, edges) = parse(&dot);
        let steps: usize = verdict.anomalies().iter().map(|anomaly| anomaly.steps.len()).sum();
        assert_eq!(edges.len(), steps, "{name}: {dot}");
        for (from, to) in &edges {
            assert!(nodes.contains(from) && nodes.contains(to), "{name}: {dot}");
        }
        assert_eq!(nodes.is_empty(), verdict.anomalies().is_empty(), "{name}: {dot}");
    }
}

#[test]
fn edges_of_the_graph_have_the_words_of_the_text() {
    let (history, verdict) = checked("write-skew");
    let report = Report::new(&history, &verdict);
    let words = "T2 read on_call/ada @2, T1 overwrote it @4";
    assert!(report.to_string().contains(words), "{report}");
    assert!(report.dot().contains(&format!("[label=\"rw\\n{words}\"]")), "{}", report.dot());
}

#[test]
fn process_with_quotes_is_escaped_in_the_graph() {
    let (mut history, _) = checked("write-skew");
    for event in &mut history.0 {
        if matches!(event.kind, EventKind::Attempt(_)) {
            event.process = Some("a\"];\\ \"evil".into());
        }
    }
    let verdict = verdict(&history);
    let dot = Report::new(&history, &verdict).dot();
    let (nodes, edges) = parse(&dot);
    assert_eq!((nodes.len(), edges.len()), (2, 2), "{dot}");
}

#[test]
fn process_name_in_the_graph_is_short_and_escaped() {
    let (mut history, _) = checked("write-skew");
    for event in &mut history.0 {
        event.process = Some(format!("\u{1b}[31m{}", "p".repeat(100_000)).into());
    }
    let verdict = verdict(&history);
    let dot = Report::new(&history, &verdict).dot();
    assert!(dot.len() < 2_000 && !dot.contains('\u{1b}'), "{}", dot.len());
}
