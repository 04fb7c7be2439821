//! Tests of the example programs: their output, and that of Go's examples.

#[path = "../go/examples.rs"]
mod go;

use std::path::Path;
use std::process::Command;

/// Runs an example as a user does and returns its output. Panics with its error output if it fails.
fn run_example(example: &str) -> String {
    run_example_on(example, &[])
}

fn run_example_on(example: &str, files: &[&Path]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked", "--package", "coord-tests", "--example", example])
        .arg("--")
        .args(files)
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

/// The schedule is on virtual time, so the output is the same in every run.
#[test]
fn example_scheduler_executes_every_job() {
    let expected = " 0.0 s  scheduler-1 leads
 0.0 s  worker-1 executes backup
 0.0 s  worker-2 executes invoices
 1.5 s  worker-2 executes report
 2.5 s  worker-1 executes newsletter
 4.0 s  scheduler-2 leads
done: backup by worker-1, invoices by worker-2, newsletter by worker-1, report by worker-2
total: 14 units
";
    assert_eq!(run_example("scheduler"), expected);
}

/// At most two hosts restart at a time, and no host while the configuration changes.
#[test]
fn example_rollout_serves_each_version_together() {
    let expected = " 0.0 s  host-1    restarts with version 1 and 2 GB
 0.0 s  host-2    restarts with version 1 and 2 GB
 2.0 s  host-3    restarts with version 1 and 2 GB
 2.5 s  host-4    restarts with version 1 and 2 GB
 5.0 s  host-4    serves version 1
 5.0 s  operator  all hosts have restarted with version 1
 5.0 s  host-1    serves version 1
 5.0 s  host-2    serves version 1
 5.0 s  host-3    serves version 1
 5.0 s  host-3    restarts with version 2 and 2 GB
 5.0 s  host-4    restarts with version 2 and 2 GB
 6.0 s  operator  changes the memory, as soon as no host restarts with it
 7.0 s  host-3    fails: the health check is red
 7.5 s  operator  has changed the memory to 3 GB
 7.5 s  host-2    restarts with version 2 and 3 GB
 7.5 s  host-1    restarts with version 2 and 3 GB
 9.5 s  host-3    restarts with version 2 and 3 GB
11.5 s  host-3    serves version 2
11.5 s  operator  all hosts have restarted with version 2
11.5 s  host-4    serves version 2
11.5 s  host-1    serves version 2
11.5 s  host-2    serves version 2
9 restarts
";
    assert_eq!(run_example("rollout"), expected);
}

/// One host at a time bills the orders of a city, and each order once, also when hosts join, crash
/// and stop.
#[test]
fn example_orders_bills_each_order_once() {
    let expected = " 0.0 s  operator  host-1 joins
 0.0 s  operator  host-2 joins
 0.0 s  host-1    serves oslo
 0.0 s  host-1    serves rome
 0.0 s  host-2    serves paris
 0.0 s  host-2    serves vienna
 0.5 s  host-1    mails the bill of order 1, attempt 1
 0.5 s  host-2    mails the bill of order 5, attempt 1
 1.0 s  host-1    mails the bill of order 9, attempt 1
 1.0 s  host-1    cannot bill, attempt 1: cocoa has no price
 1.0 s  host-1    cannot bill, attempt 2: cocoa has no price
 1.0 s  host-2    mails the bill of order 13, attempt 1
 1.2 s  operator  host-3 joins
 1.5 s  host-1    mails the bill of order 2, attempt 1
 1.5 s  host-1    hands oslo over
 1.5 s  host-2    mails the bill of order 6, attempt 1
 1.5 s  host-3    serves oslo
 1.7 s  host-3    mails the bill of order 3, attempt 1
 2.0 s  host-1    mails the bill of order 11, attempt 1
 2.0 s  host-1    hands rome over
 2.0 s  host-2    mails the bill of order 14, attempt 1
 2.0 s  host-3    serves rome
 2.2 s  host-3    mails the bill of order 4, attempt 1
 2.4 s  host-2    crashes
 2.4 s  operator  sets the price of cocoa for rome
 2.7 s  host-3    mails the bill of order 12, attempt 1
 3.2 s  host-3    mails the bill of order 10, attempt 1
 6.7 s  operator  host-2 leaves
 6.7 s  host-1    serves paris
 6.7 s  host-1    mails the bill of order 7, attempt 2
 6.7 s  host-3    serves vienna
 6.7 s  host-3    mails the bill of order 15, attempt 2
 7.2 s  host-1    mails the bill of order 8, attempt 1
 7.2 s  host-3    mails the bill of order 16, attempt 1
 7.4 s  host-1    hands paris over
 7.4 s  operator  host-1 leaves
 7.4 s  host-3    serves paris
 7.4 s  host-3    hands paris over
 7.4 s  host-3    hands oslo over
 7.4 s  host-3    hands rome over
 7.4 s  host-3    hands vienna over
 7.4 s  operator  host-3 leaves
16 bills, total 181
";
    assert_eq!(run_example("orders"), expected);
}

/// Regression: the example panicked on a file of fewer transfers than a worker applies per hold.
#[test]
fn ledger_of_few_transfers_has_the_right_balances() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "id,from,to,amount\n1,00,01,300\n2,01,02,1300\n3,00,02,701\n")
        .unwrap();
    let printed = run_example_on("ledger", &[file.path()]);
    assert!(printed.contains("   700     0  2300"), "{printed}");
    assert!(printed.contains("every balance is that of a sequential run"), "{printed}");
}
