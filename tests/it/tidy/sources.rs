//! Rules for Rust sources.

use super::{assert_none, files, is_test, sources};

#[test]
fn every_file_starts_with_module_docs() {
    let undocumented = sources().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    assert_none(
        &undocumented
            .map(|(name, _)| format!("{name}: does not start with `//!`"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn files_and_lines_have_at_most_their_maximum_length() {
    let mut violations = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        if lines > 600 {
            violations.push(format!("{name}: {lines} lines, at most 600"));
        }
        // A line with a string, which may not be wrapped, may be longer.
        let is_long = |line: &&str| line.chars().count() > 100 && !line.contains('"');
        for line in text.lines().filter(is_long) {
            violations.push(format!("{name}: over 100 columns: {}", line.trim()));
        }
    }
    assert_none(&violations);
}

/// An unbiased `select!` chooses a branch at random, and stable tokio accepts no seed for it.
#[test]
fn every_select_is_biased() {
    let mut violations = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| !name.contains("/tidy/")) {
        for (at, _) in text.match_indices("select! {") {
            let body = text[at..].lines().nth(1).unwrap_or_default().trim();
            if body != "biased;" {
                violations
                    .push(format!("{name}: a `select!` that starts with `{body}`, not `biased;`"));
            }
        }
    }
    assert_none(&violations);
}

#[test]
fn public_async_functions_document_their_cancel_safety() {
    let mut violations = Vec::new();
    for (name, text) in files("crates", ".rs") {
        let mut doc = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(line) = line.strip_prefix("///") {
                doc.push_str(line);
            } else if line.starts_with("pub async fn ") {
                if !doc.contains("# Cancel safety") {
                    violations.push(format!("{name}: {line}"));
                }
                doc.clear();
            } else if !line.starts_with("#[") {
                doc.clear();
            }
        }
    }
    assert_none(&violations);
}

#[test]
fn sources_have_no_todo_marks_or_ignored_tests() {
    let marks = ["TODO", "FIXME", "XXX", "#[ignore"];
    let mut violations = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| !name.contains("/tidy/")) {
        let found = marks.iter().filter(|mark| text.contains(**mark));
        violations.extend(found.map(|mark| format!("{name}: {mark}")));
    }
    assert_none(&violations);
}

/// State in a static would be shared by all clients of a process, and would outlive each test. The
/// exception: panics of a simulated run are captured by thread, because a panic hook is global.
#[test]
fn no_static_holds_state() {
    let shared = ["Mutex", "RwLock", "Atomic", "OnceLock", "LazyLock", "Cell", "static mut"];
    let mut violations = Vec::new();
    for (name, text) in files("crates", ".rs").into_iter().filter(|(name, _)| !is_test(name)) {
        if name.ends_with("sim/panics.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for line in code.lines().map(str::trim) {
            let declares = ["static ", "pub static ", "pub(crate) static ", "thread_local!"];
            let is_static = declares.iter().any(|start| line.starts_with(start));
            if is_static
                && (line.contains("thread_local") || shared.iter().any(|t| line.contains(t)))
            {
                violations.push(format!("{name}: {line}"));
            }
        }
    }
    assert_none(&violations);
}
