//! Tests of the example programs on a real etcd, run as a user runs them.

#[path = "../../go/examples.rs"]
mod go;

use std::path::Path;

use coord_etcd_tests::{Cluster, ClusterBuilder, Release};
use tokio::process::Command;

/// Runs an example and returns its output. Panics with its error output if it fails.
async fn run_example(cluster: &Cluster, example: &str, arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked", "--package", "coord-tests", "--example", example])
        .args(["--features", "etcd", "--"])
        .args(arguments)
        .args(["--endpoints", &cluster.endpoints().join(",")])
        .current_dir(root)
        .output()
        .await
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{errors}");
    printed
}

/// The example itself compares the balances with those of a sequential run.
#[tokio::test]
async fn ledger_on_etcd_has_the_balances_of_a_sequential_run() {
    let cluster = ClusterBuilder::new(Release::newest()).start().await;
    let printed = run_example(&cluster, "ledger", &["tests/data/transfers.csv"]).await;
    assert!(printed.contains("is killed at transfer 4950, holding the lock"), "{printed}");
    assert!(
        printed.contains("total 100000; every balance is that of a sequential run"),
        "{printed}"
    );
}

#[tokio::test]
async fn examples_on_etcd_print_the_output_of_gos_examples() {
    let cluster = ClusterBuilder::new(Release::newest()).start().await;
    let examples = [
        ("election", go::ELECTION),
        ("mutex", go::MUTEX),
        ("transfer", go::TRANSFER),
        ("try_lock", go::TRY_LOCK),
    ];
    for (example, expected) in examples {
        assert_eq!(run_example(&cluster, example, &[]).await, expected, "{example}");
    }
}
