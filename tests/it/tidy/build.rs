//! Rules for the manifests and the lock file.

use std::collections::BTreeSet;
use std::process::Command;

use super::{assert_none, read, root};

/// No dependency needs a newer compiler than the `rust-version` of the workspace.
#[test]
fn no_dependency_needs_a_newer_compiler_than_rust_version() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let version = |package: &serde_json::Value| {
        let version = package["rust_version"].as_str()?;
        let mut parts = version
            .split('.')
            .map(|part| part.parse::<u32>().expect("a version consists of numbers"));
        Some((parts.next()?, parts.next()?))
    };
    let packages = metadata["packages"].as_array().expect("the metadata list packages");
    let ours = packages.iter().find(|package| package["name"] == "coord-core");
    let ours =
        version(ours.expect("coord-core is a package")).expect("coord-core has a rust-version");
    let newer: BTreeSet<_> = packages
        .iter()
        .filter(|package| version(package).is_some_and(|theirs| theirs > ours))
        .map(|package| format!("{} needs {}", package["name"], package["rust_version"]))
        .collect();
    assert_none(&newer.into_iter().collect::<Vec<_>>());
}

/// Link-time optimization in the release profile doubled the processor time of `cargo install`.
#[test]
fn link_time_optimization_is_for_dist_only() {
    let manifest = read("Cargo.toml");
    let mut profile = "";
    let mut optimized = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            profile = line;
        } else if line.starts_with("lto") {
            optimized.push((profile, line));
        }
    }
    assert_eq!(optimized, [("[profile.dist]", "lto = \"fat\"")]);
}
