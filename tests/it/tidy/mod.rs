//! House rules for the sources and pages that no other tool checks.

mod build;
mod pages;
mod sources;
mod vocabulary;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The root of the repository.
fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ is in the repository").to_owned()
}

/// The text of a file of the repository.
fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).expect("the file can be read")
}

/// The paths and texts of the files under `folder` whose names end with `ending`.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                let text = std::fs::read_to_string(&path).expect("the file is text");
                let name = path.strip_prefix(root()).expect("the file is below the root");
                found.push((name.to_string_lossy().into_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} under {folder}");
    found
}

/// The paths and texts of all Rust sources.
fn sources() -> Vec<(String, String)> {
    [files("crates", ".rs"), files("tests", ".rs")].concat()
}

/// The paths and texts of all pages.
fn pages() -> Vec<(String, String)> {
    [files("docs", ".md"), vec![("README.md".to_owned(), read("README.md"))]].concat()
}

/// Whether a file of a crate is compiled for tests or benchmarks only.
fn is_test(name: &str) -> bool {
    name.contains("/tests") || name.contains("/benches/")
}

/// The texts in backticks in the columns with one of these headers, in all tables of a page.
fn quoted_under(page: &str, headers: &[&str]) -> Vec<String> {
    let mut quoted = Vec::new();
    let mut wanted = Vec::new();
    let mut in_table = false;
    for line in page.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if line.starts_with('|') && !in_table {
            wanted = cells.iter().map(|cell| headers.contains(cell)).collect();
        }
        in_table = line.starts_with('|');
        let cells = cells.iter().zip(&wanted).filter(|(_, wanted)| in_table && **wanted);
        quoted.extend(cells.flat_map(|(cell, _)| cell.split('`').skip(1).step_by(2)));
    }
    quoted.into_iter().map(str::to_owned).collect()
}

/// The public async functions under a folder, as `Type::function`. Those that a macro defines
/// belong to each type in whose `impl` the macro is called.
pub(crate) fn public_async_functions(folder: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let (mut of_macros, mut calls) = (Vec::new(), Vec::new());
    for (_, text) in files(folder, ".rs") {
        let (mut type_name, mut macro_name) = ("", None);
        for line in text.lines() {
            if let Some(header) = line.strip_prefix("impl") {
                (type_name, macro_name) = (implementing_type(header), None);
            } else if let Some(rest) = line.strip_prefix("macro_rules! ") {
                macro_name = rest.split(' ').next().map(str::to_owned);
            } else if let Some(function) = line.trim().strip_prefix("pub async fn ") {
                let name = function.split(['(', '<']).next().unwrap_or_default();
                match &macro_name {
                    Some(of) => of_macros.push((of.clone(), name.to_owned())),
                    None => {
                        found.insert(format!("{type_name}::{name}"));
                    }
                }
            } else if let Some((called, _)) = line.trim().split_once("!(") {
                calls.push((called.to_owned(), type_name.to_owned()));
            }
        }
    }
    for (called, type_name) in calls {
        let functions = of_macros.iter().filter(|(of, _)| *of == called);
        found.extend(functions.map(|(_, name)| format!("{type_name}::{name}")));
    }
    found
}

/// The type of `impl<T> Trait for Type<T> {`, given the text after `impl`.
fn implementing_type(header: &str) -> &str {
    let header = header.split_once(" for ").map_or(header, |(_, implementing)| implementing);
    let header = match header.strip_prefix('<') {
        Some(generic) => generic.split_once("> ").map_or(generic, |(_, rest)| rest),
        None => header,
    };
    header.trim().split(['<', ' ', '{']).next().unwrap_or_default()
}

/// Asserts that there are no violations.
#[track_caller]
fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}
