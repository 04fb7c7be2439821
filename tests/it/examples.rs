//! Tests of the example programs: they print the output of Go's examples.

#[path = "../go/examples.rs"]
mod go;

use std::path::Path;
use std::process::Command;

/// Runs an example as a user does and returns its output. Panics with its error output if it fails.
fn run_example(example: &str) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked", "--package", "coord-tests", "--example", example])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("the example prints text")
}

#[test]
fn example_election_campaign() {
    assert_eq!(run_example("election"), go::ELECTION);
}

#[test]
fn example_mutex_lock() {
    assert_eq!(run_example("mutex"), go::MUTEX);
}

#[test]
fn example_mutex_try_lock() {
    assert_eq!(run_example("try_lock"), go::TRY_LOCK);
}

#[test]
fn example_stm_apply() {
    assert_eq!(run_example("transfer"), go::TRANSFER);
}
