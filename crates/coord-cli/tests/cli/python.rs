//! Two Python clients of etcd, `aetcd` and `etcd3`, on each etcd and on `coord serve`.
//!
//! What they do is in the folder `python` beside this file, and what they have to see is too: the
//! same everywhere. `tests/run` installs them into `.tools/python`; `COORD_PYTHON` names another
//! Python that has them.

use std::env;
use std::path::{Path, PathBuf};

use tokio::process::Command;
use tokio::time::{Duration, timeout};

use crate::program::Program;

/// The modules of the folder.
pub(crate) const CLIENTS: [&str; 2] = ["aetcd_client", "etcd3_client"];

/// Longer than any of them takes, on a slow machine.
const ENOUGH: Duration = Duration::from_secs(60);

/// Runs one of them on the server at an address.
pub(crate) async fn passes(client: &str, address: &str) {
    let mut python = Command::new(interpreter());
    // Nothing is written beside the sources.
    python.args(["-B", "-m", "unittest", client]).env("SERVER", address);
    python.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/python"));
    let ended = timeout(ENOUGH, Program::started(python).end()).await;
    let (status, _, said) = ended.unwrap_or_else(|_| panic!("{client} does not end"));
    assert_eq!(status, Some(0), "{client}: {said}");
    // It would end well too if it had found no test.
    assert!(said.contains("Ran 10 tests"), "{client}: {said}");
}

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
