//! The real `etcdctl`, which cannot tell `coord serve` from the etcd that it came with.
//!
//! Each script of the folder `etcdctl` beside this file is run twice, once on a fresh etcd and once
//! on `coord serve`, and what it prints has to be the same to the last character, exit statuses
//! included. What differs from server to server is masked: where it listens, the number of its
//! member, and ids, which become `#1`, `#2` and so on in the order in which they are met, so that
//! one id stays one id, be it printed in hex or as a decimal.
//!
//! To add a command, add a line to a script.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use coord_etcd_tests::{Pool, Release};
use tokio::process::Command;
use tokio::time::{Duration, timeout};

use crate::program::{Program, Server};
use crate::serve::{etcdctl, serving};

crate::stories![unsupported_requests_are_refused_with_a_reason];

/// Longer than any script takes, on a slow machine.
const ENOUGH: Duration = Duration::from_secs(60);

/// The scripts, by their names.
pub(crate) fn scripts() -> impl Iterator<Item = String> {
    let found = fs::read_dir(folder()).expect("the folder lies beside this file");
    let mut names: Vec<_> = found
        .map(|file| file.expect("it can be read").path())
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .filter(|name| name != "prelude")
        .collect();
    names.sort();
    assert!(names.len() > 5, "{names:?}");
    names.into_iter()
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/etcdctl"))
}

/// Runs a script on both servers, and compares.
pub(crate) async fn same_on_both(script: &str, pool: &Pool, release: &Release) {
    let real = pool.fresh().await;
    let endpoint = real[0].endpoint().trim_start_matches("http://");
    let theirs = played(script, release, endpoint).await;
    let (_serve, endpoint) = serving(&[]).await;
    let ours = played(script, release, &endpoint).await;
    for (n, (theirs, ours)) in theirs.lines().zip(ours.lines()).enumerate() {
        assert_eq!(theirs, ours, "{script}, line {}: left {release}, right coord serve", n + 1);
    }
    assert_eq!(theirs, ours, "{script}: left {release}, right coord serve");
    assert!(theirs.matches("$ etcdctl").count() > 3, "{theirs}");
}

/// It takes a minute, whatever it is told; its bars are half a second for a put, and a tenth for
/// the deviation.
pub(crate) async fn check_perf_passes(release: &Release) {
    let (_serve, address) = serving(&[]).await;
    let mut check = Command::from(release.etcdctl());
    check.args(["--endpoints", &address, "check", "perf", "--load=s"]);
    let ended = timeout(2 * ENOUGH, Program::started(check).end_without_input()).await;
    let (status, printed) = ended.expect("it takes a minute");
    assert_eq!(status, Some(0), "{printed}");
    assert_eq!(printed.lines().next_back(), Some("PASS"), "{printed}");
}

/// What a script prints, masked.
async fn played(script: &str, release: &Release, endpoint: &str) -> String {
    let room = tempfile::tempdir().expect("a folder can be made");
    let mut path = vec![release.etcd.parent().expect("it lies in a folder").to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut shell = Command::new("sh");
    let both = |name: &str| format!(". {}/{name}.sh", folder().display());
    shell.args(["-c", &format!("exec 2>&1; {}; {}", both("prelude"), both(script))]);
    shell.env("PATH", std::env::join_paths(path).expect("they were split"));
    shell.env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", endpoint);
    shell.env("TMPDIR", room.path()).env("LC_ALL", "C");
    let ended = timeout(ENOUGH, Program::started(shell).end_without_input()).await;
    let (status, printed) = ended.unwrap_or_else(|_| panic!("{script} does not end on {endpoint}"));
    assert_eq!(status, Some(0), "{script} on {endpoint}: {printed}");
    masked(&printed.replace(endpoint, "ENDPOINT"))
}

/// Words of so many digits are ids.
const ID_DIGITS: usize = 12;

/// What stands before the number of a member.
const MEMBERS: [&str; 4] = ["member_id\":", "MemberID\" : ", "Leader\" : ", "members\":[{\"ID\":"];

fn masked(printed: &str) -> String {
    let mut shown = String::new();
    let mut ids = BTreeMap::new();
    for word in printed.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let digits = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let rest = &word[digits.len()..];
        let is_decimal = digits.bytes().all(|c| c.is_ascii_digit());
        if is_decimal && !digits.is_empty() && MEMBERS.iter().any(|label| shown.ends_with(label)) {
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

/// In decimal where all digits are, as JSON has it, unless it has as many as in hex.
fn id(digits: &str) -> Option<u64> {
    if digits.len() < ID_DIGITS {
        return None;
    }
    let decimal = digits.len() > 16 || !digits.starts_with('0');
    let decimal = digits.parse().ok().filter(|_| decimal && digits.len() != 16);
    decimal.or_else(|| u64::from_str_radix(digits, 16).ok())
}

async fn unsupported_requests_are_refused_with_a_reason(server: Server) {
    let (_serve, address) = serving(&[]).await;
    let room = tempfile::tempdir().expect("a folder can be made");
    let file = room.path().join("snapshot").display().to_string();
    for (command, why) in [
        (&["snapshot", "save", &file][..], "coord has no files to take a snapshot of"),
        (&["user", "list"], "coord has no users and no roles"),
        (&["role", "add", "reader"], "coord has no users and no roles"),
        (&["auth", "enable"], "coord has no users and no roles"),
        (&["member", "add", "another", "--peer-urls=http://127.0.0.1:1"], "one member"),
    ] {
        let (status, printed, complaint) = etcdctl(&server, &address, command).end().await;
        assert!(status.is_some_and(|status| status > 0), "{command:?}: {printed}");
        assert!(complaint.contains(why), "{command:?}: {complaint}");
    }
}
