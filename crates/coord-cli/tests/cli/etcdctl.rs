//! Differential tests of `coord serve` and etcd with `etcdctl` as the client.
//!
//! Each script of the directory `etcdctl` beside this file runs twice, on a fresh etcd and on
//! `coord serve`. Both outputs must be identical, exit statuses included. Values that differ
//! between servers are masked: the endpoint, the member id, and other ids. Other ids become `#1`,
//! `#2` and so on in the order of their first occurrence. An id has one number, whether it is
//! printed in hex or in decimal.
//!
//! To test another command, add a line to a script.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use coord_etcd_tests::{Pool, Release};
use tokio::process::Command;
use tokio::time::{Duration, timeout};

use crate::program::{Program, Server};
use crate::serve::{etcdctl, start_serve};

crate::tests![unsupported_requests_are_refused_with_a_reason];

/// Time limit of one script, longer than any script takes on a slow machine.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(60);

/// The names of the scripts.
pub(crate) fn scripts() -> impl Iterator<Item = String> {
    let found = fs::read_dir(script_directory()).expect("the directory exists");
    let mut names: Vec<_> = found
        .map(|file| file.expect("it can be read").path())
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .filter(|name| name != "prelude")
        .collect();
    names.sort();
    assert!(names.len() > 5, "{names:?}");
    names.into_iter()
}

/// The directory of the scripts.
fn script_directory() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/etcdctl"))
}

/// Runs a script on both servers and compares the outputs.
pub(crate) async fn compare_outputs(script: &str, pool: &Pool, release: &Release) {
    let real = pool.start_new().await;
    let endpoint = real[0].endpoint().trim_start_matches("http://");
    let etcd = run_script(script, release, endpoint).await;
    let (_serve, endpoint) = start_serve(&[]).await;
    let coord = run_script(script, release, &endpoint).await;
    for (n, (etcd, coord)) in etcd.lines().zip(coord.lines()).enumerate() {
        assert_eq!(etcd, coord, "{script}, line {}: left {release}, right coord serve", n + 1);
    }
    assert_eq!(etcd, coord, "{script}: left {release}, right coord serve");
    assert!(etcd.matches("$ etcdctl").count() > 3, "{etcd}");
}

/// `etcdctl check perf` always takes a minute. It passes if the puts reach nine tenths of the
/// intended rate, each takes at most half a second, and the standard deviation is at most a tenth
/// of a second. If not, the status is not 0. The order of the lines varies: a task of its own
/// prints the progress.
pub(crate) async fn check_perf_passes(release: &Release) {
    let (_serve, address) = start_serve(&[]).await;
    let mut check = Command::from(release.etcdctl());
    check.args(["--endpoints", &address, "check", "perf", "--load=s"]);
    let ended = timeout(2 * SCRIPT_TIMEOUT, Program::start(check).end_without_input()).await;
    let (status, stdout) = ended.expect("it takes a minute");
    assert_eq!(status, Some(0), "{stdout}");
    assert_eq!(stdout.matches("PASS: ").count(), 3, "{stdout}");
}

/// Runs a script. Returns its masked output.
async fn run_script(script: &str, release: &Release, endpoint: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory can be created");
    let mut path = vec![release.etcd.parent().expect("a path of a file").to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut shell = Command::new("sh");
    let source = |name: &str| format!(". {}/{name}.sh", script_directory().display());
    shell.args(["-c", &format!("exec 2>&1; {}; {}", source("prelude"), source(script))]);
    shell.env("PATH", std::env::join_paths(path).expect("it was split from PATH"));
    shell.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", endpoint);
    shell.env("TMPDIR", directory.path()).env("LC_ALL", "C");
    let ended = timeout(SCRIPT_TIMEOUT, Program::start(shell).end_without_input()).await;
    let (status, stdout) = ended.unwrap_or_else(|_| panic!("{script} does not end on {endpoint}"));
    assert_eq!(status, Some(0), "{script} on {endpoint}: {stdout}");
    mask(&stdout.replace(endpoint, "ENDPOINT"))
}

/// The minimum length of an id in digits.
const MIN_ID_DIGITS: usize = 12;

/// Labels in front of a decimal member id.
const MEMBER_LABELS: [&str; 4] =
    ["member_id\":", "MemberID\" : ", "Leader\" : ", "members\":[{\"ID\":"];

/// Masks ids.
fn mask(stdout: &str) -> String {
    let mut shown = String::new();
    let mut ids = BTreeMap::new();
    for word in stdout.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let digits = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let rest = &word[digits.len()..];
        let is_decimal = digits.bytes().all(|c| c.is_ascii_digit());
        if is_decimal
            && !digits.is_empty()
            && MEMBER_LABELS.iter().any(|label| shown.ends_with(label))
        {
            shown += "MEMBER";
        } else if let Some(id) = id(digits) {
            let number = ids.len() + 1;
            shown += &format!("#{}", ids.entry(id).or_insert(number));
        } else {
            shown += digits;
        }
        shown += rest;
    }
    shown
}

/// Parses an id: in decimal if all digits are decimal, as in JSON, unless it has the length of an
/// id in hex, or is shorter and begins with 0.
fn id(digits: &str) -> Option<u64> {
    if digits.len() < MIN_ID_DIGITS {
        return None;
    }
    let decimal = digits.len() > 16 || !digits.starts_with('0');
    let decimal = digits.parse().ok().filter(|_| decimal && digits.len() != 16);
    decimal.or_else(|| u64::from_str_radix(digits, 16).ok())
}

async fn unsupported_requests_are_refused_with_a_reason(server: Server) {
    let (_serve, address) = start_serve(&[]).await;
    let directory = tempfile::tempdir().expect("a directory can be created");
    let file = directory.path().join("snapshot").display().to_string();
    for (command, why) in [
        (&["snapshot", "save", &file][..], "coord has no files to take a snapshot of"),
        (&["user", "list"], "coord has no users and no roles"),
        (&["role", "add", "reader"], "coord has no users and no roles"),
        (&["auth", "enable"], "coord has no users and no roles"),
        (&["member", "add", "another", "--peer-urls=http://127.0.0.1:1"], "one member"),
    ] {
        let (status, stdout, stderr) = etcdctl(&server, &address, command).end().await;
        assert!(status.is_some_and(|status| status > 0), "{command:?}: {stdout}");
        assert!(stderr.contains(why), "{command:?}: {stderr}");
    }
}
