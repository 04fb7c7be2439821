//! Tests of each etcd release and of `coord serve` with two Python clients, `aetcd` and `etcd3`.
//!
//! The directory `python` beside this file has the test cases, which are the same for all servers.
//! `tests/run` installs the clients into `.tools/python`. `COORD_PYTHON` names another Python
//! interpreter that has them.

use std::env;
use std::path::{Path, PathBuf};

use tokio::process::Command;
use tokio::time::{Duration, timeout};

use crate::program::Program;

/// The Python modules with the test cases.
pub(crate) const CLIENTS: [&str; 2] = ["aetcd_client", "etcd3_client"];

/// Time limit of one module, longer than any takes on a slow machine.
const MODULE_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs one module on the server at an address, and asserts that it passes.
pub(crate) async fn assert_passes(client: &str, address: &str) {
    let mut python = Command::new(interpreter());
    // `-B`: no bytecode files beside the sources.
    python.args(["-B", "-m", "unittest", client]).env("SERVER", address);
    python.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/python"));
    let ended = timeout(MODULE_TIMEOUT, Program::start(python).end()).await;
    let (status, _, stderr) = ended.unwrap_or_else(|_| panic!("{client} does not end"));
    assert_eq!(status, Some(0), "{client}: {stderr}");
    // Before Python 3.12, the status is 0 too if no test was found.
    assert!(stderr.contains("Ran 10 tests"), "{client}: {stderr}");
}

/// The Python interpreter that has the clients.
fn interpreter() -> PathBuf {
    if let Some(named) = env::var_os("COORD_PYTHON") {
        return named.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let python = root.expect("this package lies in crates/").join(".tools/python/bin/python");
    assert!(
        python.exists(),
        "no Python with clients of etcd on this machine: run `tests/run`, which installs it into \
         .tools/, or name one in COORD_PYTHON"
    );
    python
}
