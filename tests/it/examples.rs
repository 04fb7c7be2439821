//! The examples, run as a user runs them, with the lines that Go's examples print.

#[path = "../go/examples.rs"]
mod go;

use std::path::Path;
use std::process::Command;

/// What an example prints; panics with its complaint if it fails.
fn printed(example: &str) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked", "--package", "coord-tests", "--example", example])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text")
}

#[test]
fn example_election_campaign() {
    assert_eq!(printed("election"), go::ELECTION);
}

#[test]
fn example_mutex_lock() {
    assert_eq!(printed("mutex"), go::MUTEX);
}

#[test]
fn example_mutex_try_lock() {
    assert_eq!(printed("try_lock"), go::TRY_LOCK);
}

#[test]
fn example_stm_apply() {
    assert_eq!(printed("transfer"), go::TRANSFER);
}
