//! The examples, run as a user runs them, on a real etcd.

#[path = "../../go/examples.rs"]
mod go;

use std::path::Path;

use coord_etcd_tests::{Cluster, Release, Setup};
use tokio::process::Command;

/// What an example prints; panics with its complaint if it fails.
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
    let said = String::from_utf8(output.stdout).expect("it prints text");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaint}");
    said
}

/// With the same balances as in memory: it checks them itself.
#[tokio::test]
async fn ledger_has_the_balances_of_a_sequential_run_on_etcd() {
    let cluster = Setup::new(Release::newest()).start().await;
    let said = printed(&cluster, "ledger", &["tests/data/transfers.csv"]).await;
    assert!(said.contains("is killed at transfer 4950, holding the lock"), "{said}");
    assert!(said.contains("total 100000; every balance is that of a sequential run"), "{said}");
}

#[tokio::test]
async fn examples_of_gos_stories_print_its_lines_on_etcd() {
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
