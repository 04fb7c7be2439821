//! Tests of the first programs of the pages: each compiles and runs in an empty crate outside this
//! workspace, with the dependencies that the page states.
//!
//! Doctests compile the same programs with the dependencies of this workspace, so they do not
//! detect that the page lacks a dependency or a feature.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The start of a path dependency on a checkout beside the reader's crate.
const CHECKOUT_PATH: &str = "\"../coord/crates/";

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
    /// The output of the program according to the page.
    output: Option<String>,
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ is in the repository").to_owned()
}

fn read(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// The fenced blocks of a page.
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

/// The programs that directly follow their dependencies, each with its output if that follows.
fn programs(page: &str) -> Vec<Program> {
    let blocks = blocks(page);
    let block = |at: usize, language: &str| {
        blocks.get(at).filter(|block| block.language == language).map(|block| block.text.clone())
    };
    let program = |at: usize| {
        let output = block(at + 2, "console");
        Some(Program {
            dependencies: block(at, "toml")?,
            source: block(at + 1, "rust")?,
            output: output.and_then(|text| Some(text.strip_prefix("$ cargo run\n")?.to_owned())),
        })
    };
    (0..blocks.len()).filter_map(program).collect()
}

/// Builds and runs a program in its own crate, and returns its output.
///
/// The crate uses the `Cargo.lock` of this workspace, and cargo is offline. All programs share a
/// target folder, which is kept for the next run.
fn output_of(name: &str, program: &Program) -> String {
    let (root, folder) = (root(), tempfile::tempdir().expect("a temporary folder can be created"));
    let local_path = format!("\"{}/crates/", root.display());
    let dependencies = program.dependencies.replace(CHECKOUT_PATH, &local_path);
    assert_ne!(
        dependencies, program.dependencies,
        "{name}: no dependency starts with {CHECKOUT_PATH}"
    );
    // An empty `[workspace]` makes the crate its own workspace, wherever the folder is.
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n{dependencies}\n[workspace]\n"
    );
    let source = folder.path().join("src");
    std::fs::create_dir(&source).expect("the folder can be written to");
    std::fs::write(source.join("main.rs"), &program.source).expect("a file can be written");
    std::fs::write(folder.path().join("Cargo.toml"), manifest).expect("a file can be written");
    std::fs::copy(root.join("Cargo.lock"), folder.path().join("Cargo.lock"))
        .expect("the lock file can be copied");

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

/// Runs every program of a page that follows its dependencies, and compares the output.
fn check(page: &str, name: &str) {
    let programs = programs(&read(page));
    assert!(!programs.is_empty(), "{page}: no program follows its dependencies");
    for (number, program) in programs.iter().enumerate() {
        let printed = output_of(&format!("snippet-{name}-{number}"), program);
        let stated = program.output.as_ref();
        let stated = stated.unwrap_or_else(|| panic!("{page}: no `$ cargo run` follows a program"));
        assert_eq!(printed, *stated, "{page}: program {number} prints another output");
    }
}

#[test]
fn readme_program_prints_the_stated_output() {
    check("README.md", "readme");
}

#[test]
fn guide_program_prints_the_stated_output() {
    check("docs/guide/README.md", "guide");
}

#[test]
fn go_page_program_prints_the_stated_output() {
    check("docs/go.md", "go");
}

/// The crates that the lines of the form `use name::…` name.
fn crates_used(source: &str) -> BTreeSet<String> {
    let named = |line: &str| {
        let path = line.trim_start_matches("# ").strip_prefix("use ")?;
        let name = path.split_once("::")?.0;
        Some(name.replace('_', "-"))
    };
    let built_in = ["std", "crate", "self", "super"];
    source.lines().filter_map(named).filter(|name| !built_in.contains(&name.as_str())).collect()
}

#[test]
fn page_lists_every_crate_that_its_examples_use() {
    let folder = std::fs::read_dir(root().join("docs/guide")).expect("docs/guide can be read");
    let pages = folder.map(|entry| entry.expect("docs/guide can be read").file_name());
    let pages = pages.map(|name| format!("docs/guide/{}", name.to_string_lossy()));
    let mut violations = Vec::new();
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
                violations.push(format!("{page}: {name} is used and not among the dependencies"));
            }
        }
    }
    assert!(
        checked > 50,
        "only {checked} uses of crates were found: has the format of the pages changed?"
    );
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}
