//! The main job, on a real etcd.

use std::path::Path;

use coord_etcd_tests::{Release, Setup};
use tokio::process::Command;

/// The example as a user runs it, with the same balances as in memory: it checks them itself.
#[tokio::test]
async fn ledger_has_the_balances_of_a_sequential_run_on_etcd() {
    let cluster = Setup::new(Release::newest()).start().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked", "--package", "coord-tests", "--example", "ledger"])
        .args(["--features", "etcd", "--", "tests/data/transfers.csv", "--endpoints"])
        .arg(cluster.endpoints().join(","))
        .current_dir(root)
        .output()
        .await
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaint}");
    assert!(said.contains("is killed at transfer 4950, holding the lock"), "{said}");
    assert!(said.contains("total 100000; every balance is that of a sequential run"), "{said}");
}
