//! The first programs of the pages, compiled and run as a reader does it: in an empty crate outside
//! this workspace, with the dependencies that stand beside the program.
//!
//! Doctests compile the same programs with the dependencies of this workspace, so they do not
//! notice a dependency or a feature that the page forgets.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The path by which the pages depend on a checkout beside the reader's crate.
const CHECKOUT: &str = "\"../coord/crates/";

/// A fenced block of a page.
#[derive(Debug)]
struct Block {
    language: String,
    text: String,
}

/// A program of a page.
#[derive(Debug)]
struct Program {
    dependencies: String,
    source: String,
    /// What the page states that the program prints.
    output: Option<String>,
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ lies in the repository").to_owned()
}

fn read(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in page.lines() {
        if let Some(language) = line.strip_prefix("```") {
            match open.take() {
                Some(block) => blocks.push(block),
                None => open = Some(Block { language: language.to_owned(), text: String::new() }),
            }
        } else if let Some(block) = &mut open {
            block.text.push_str(line);
            block.text.push('\n');
        }
    }
    blocks
}

/// The programs that stand right below their dependencies, with the output in the block that
/// follows.
fn programs(page: &str) -> Vec<Program> {
    let blocks = blocks(page);
    let is = |at: usize, language: &str| {
        blocks.get(at).filter(|block| block.language == language).map(|block| block.text.clone())
    };
    let program = |at: usize| {
        let output = is(at + 2, "console");
        Some(Program {
            dependencies: is(at, "toml")?,
            source: is(at + 1, "rust")?,
            output: output.and_then(|text| Some(text.strip_prefix("$ cargo run\n")?.to_owned())),
        })
    };
    (0..blocks.len()).filter_map(program).collect()
}

/// Builds and runs a program in a crate of its own, and returns what it prints.
///
/// No version is chosen here: the crate has this workspace's `Cargo.lock`, and cargo stays offline.
/// All snippets share a target folder, which outlives the test so that the next run reuses it.
fn output_of(name: &str, program: &Program) -> String {
    let (root, folder) = (root(), tempfile::tempdir().expect("a temporary folder can be made"));
    let here = format!("\"{}/crates/", root.display());
    let dependencies = program.dependencies.replace(CHECKOUT, &here);
    assert_ne!(dependencies, program.dependencies, "{name}: no dependency starts with {CHECKOUT}");
    // An empty `[workspace]` makes the crate a workspace of its own wherever the folder lies.
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n{dependencies}\n[workspace]\n"
    );
    let source = folder.path().join("src");
    std::fs::create_dir(&source).expect("the folder can be written to");
    std::fs::write(source.join("main.rs"), &program.source).expect("a file can be written");
    std::fs::write(folder.path().join("Cargo.toml"), manifest).expect("a file can be written");
    std::fs::copy(root.join("Cargo.lock"), folder.path().join("Cargo.lock"))
        .expect("there is a lock file");

    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let output = Command::new(cargo)
        .args(["run", "--quiet", "--offline", "--target-dir"])
        .arg(root.join("target/snippets"))
        .current_dir(folder.path())
        .output()
        .expect("cargo can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).expect("the program prints text")
}

/// Runs every program of a page that stands below its dependencies.
fn check(page: &str, name: &str) {
    let programs = programs(&read(page));
    assert!(!programs.is_empty(), "{page}: no program stands below its dependencies");
    for (number, program) in programs.iter().enumerate() {
        let printed = output_of(&format!("snippet-{name}-{number}"), program);
        let stated = program.output.as_ref();
        let stated = stated.unwrap_or_else(|| panic!("{page}: no `$ cargo run` follows a program"));
        assert_eq!(printed, *stated, "{page}: program {number} prints something else");
    }
}

#[test]
fn readme_program_runs_and_prints_what_the_page_states() {
    check("README.md", "readme");
}

#[test]
fn guide_program_runs_and_prints_what_the_page_states() {
    check("docs/guide/README.md", "guide");
}

#[test]
fn go_page_program_runs_and_prints_what_the_page_states() {
    check("docs/go.md", "go");
}

/// The crates that lines of the form `use name::…` need.
fn crates_used(source: &str) -> BTreeSet<String> {
    let named = |line: &str| {
        let path = line.trim_start_matches("# ").strip_prefix("use ")?;
        let name = path.split_once("::")?.0;
        Some(name.replace('_', "-"))
    };
    let ours = ["std", "crate", "self", "super"];
    source.lines().filter_map(named).filter(|name| !ours.contains(&name.as_str())).collect()
}

#[test]
fn page_lists_every_crate_that_its_examples_use() {
    let folder = std::fs::read_dir(root().join("docs/guide")).expect("there is the guide");
    let pages = folder.map(|entry| entry.expect("the guide can be read").file_name());
    let pages = pages.map(|name| format!("docs/guide/{}", name.to_string_lossy()));
    let mut complaints = Vec::new();
    let mut checked = 0;
    for page in pages.filter(|page| page.ends_with(".md")) {
        let blocks = blocks(&read(&page));
        let of = |language: &'static str| {
            blocks.iter().filter(move |block| block.language == language).map(|block| &*block.text)
        };
        let dependencies: String = of("toml").collect();
        for name in of("rust").flat_map(crates_used) {
            checked += 1;
            if !dependencies.lines().any(|line| line.starts_with(&format!("{name} = "))) {
                complaints.push(format!("{page}: {name} is used and not among the dependencies"));
            }
        }
    }
    assert!(checked > 50, "the examples use {checked} crates: are they still where this looks?");
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}
