//! Tests of the examples on a real etcd, run as a user runs them.

#[path = "../../go/examples.rs"]
mod go;

use std::path::Path;

use coord_etcd_tests::{Cluster, Release, Setup};
use tokio::process::Command;

/// Runs an example and returns its output. Panics with its error output if it fails.
async fn printed(cluster: &Cluster, example: &str, arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked", "--package", "coord-tests", "--example", example])
        .args(["--features", "etcd", "--"])
        .args(arguments)
        .args(["--endpoints", &cluster.endpoints().join(",")])
        .current_dir(root)
        .output()
        .await
        .expect("cargo runs");
    let message = String::from_utf8(output.stdout).expect("it prints text");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}\n{errors}");
    message
}

/// The example checks the balances itself.
#[tokio::test]
async fn ledger_on_etcd_has_the_balances_of_a_sequential_run() {
    let cluster = Setup::new(Release::newest()).start().await;
    let message = printed(&cluster, "ledger", &["tests/data/transfers.csv"]).await;
    assert!(message.contains("is killed at transfer 4950, holding the lock"), "{message}");
    assert!(
        message.contains("total 100000; every balance is that of a sequential run"),
        "{message}"
    );
}

#[tokio::test]
async fn examples_on_etcd_print_the_lines_of_gos_examples() {
    let cluster = Setup::new(Release::newest()).start().await;
    let examples = [
        ("election", go::ELECTION),
        ("mutex", go::MUTEX),
        ("transfer", go::TRANSFER),
        ("try_lock", go::TRY_LOCK),
    ];
    for (example, lines) in examples {
        assert_eq!(printed(&cluster, example, &[]).await, lines, "{example}");
    }
}
