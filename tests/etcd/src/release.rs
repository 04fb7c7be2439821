//! The etcd releases that are installed on this machine.
//!
//! `COORD_ETCD_BIN` names folders, or programs called `etcd`, separated by colons; `etcdctl` must
//! be beside each. A named program must exist. Without the variable, the folders into which
//! `tests/run` installs are searched, then `PATH`. A machine without etcd is an error, never a
//! reason to skip a test.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The error when no etcd is found, with the remedy.
const NO_RELEASE: &str = "no etcd on this machine: run `tests/run`, which installs it into .tools/, or \
    name folders with `etcd` and `etcdctl` in COORD_ETCD_BIN (colons in between)";

/// An installed etcd release.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Release {
    /// Major, minor, patch.
    pub version: (u32, u32, u32),
    /// The path of the server.
    pub etcd: PathBuf,
}

impl Release {
    /// All releases, oldest first. Of several patches of one minor version, the first one found.
    ///
    /// # Errors
    /// No release was found, or a named program does not run. The message contains the remedy.
    pub fn all() -> Result<Vec<Self>, String> {
        let found = match env::var_os("COORD_ETCD_BIN") {
            Some(named) if !named.is_empty() => env::split_paths(&named)
                .map(|path| {
                    let etcd = if path.is_dir() { path.join("etcd") } else { path };
                    Self::of(&etcd).map_err(|why| {
                        format!("COORD_ETCD_BIN names {}, but {why}", etcd.display())
                    })
                })
                .collect::<Result<Vec<_>, _>>()?,
            _ => default_paths().iter().filter_map(|etcd| Self::of(etcd).ok()).collect(),
        };
        let mut releases = BTreeMap::new();
        for release in found {
            releases.entry((release.version.0, release.version.1)).or_insert(release);
        }
        if releases.is_empty() {
            Err(NO_RELEASE.to_owned())
        } else {
            Ok(releases.into_values().collect())
        }
    }

    /// The main function of a test program that tests every release: calls `run` with all of them,
    /// or prints why there are none.
    #[expect(clippy::print_stderr, reason = "a test program reports why it cannot run")]
    pub fn run_on_all(run: impl FnOnce(&[Self]) -> ExitCode) -> ExitCode {
        match Self::all() {
            Ok(releases) => run(&releases),
            Err(why) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        }
    }

    /// The newest release.
    ///
    /// # Panics
    /// If [`all`](Self::all) fails.
    #[must_use]
    pub fn newest() -> Self {
        let all = Self::all().unwrap_or_else(|why| panic!("{why}"));
        all.into_iter().next_back().expect("`all` returns at least one release")
    }

    /// The minor version, such as `3.5`.
    #[must_use]
    pub fn minor(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// Whether the release is at or after these patches of 3.4 and 3.5.
    pub(crate) fn has_since(&self, patch_of_3_4: u32, patch_of_3_5: u32) -> bool {
        match self.version {
            (3, 4, patch) => patch >= patch_of_3_4,
            (3, 5, patch) => patch >= patch_of_3_5,
            version => version >= (3, 6, 0),
        }
    }

    /// The command `etcdctl` of this release, without arguments.
    #[must_use]
    pub fn etcdctl(&self) -> Command {
        let mut command = without_etcd_variables(&self.etcd.with_file_name("etcdctl"));
        command.env("ETCDCTL_API", "3");
        command
    }

    /// The release of the program at a path.
    fn of(etcd: &Path) -> Result<Self, String> {
        let output = without_etcd_variables(etcd).arg("--version").output();
        let output = output.map_err(|error| format!("it cannot be started: {error}"))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let version = printed.lines().find_map(|line| line.strip_prefix("etcd Version: "));
        let version = version.and_then(parse).ok_or_else(|| {
            format!("`etcd --version` printed {:?}", printed.lines().next().unwrap_or_default())
        })?;
        Ok(Self { version, etcd: etcd.to_owned() })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = self.version;
        write!(f, "etcd {major}.{minor}.{patch}")
    }
}

/// A command without the environment variables that configure etcd's programs.
pub(crate) fn without_etcd_variables(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"ETCD"))
    {
        command.env_remove(name);
    }
    command
}

/// The paths at which servers are searched by default.
fn default_paths() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    let tools = root.expect("this package is in tests/etcd").join(".tools/etcd");
    let mut installed: Vec<PathBuf> = std::fs::read_dir(tools)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    installed.sort();
    let path = env::var_os("PATH").unwrap_or_default();
    installed.into_iter().chain(env::split_paths(&path)).map(|folder| folder.join("etcd")).collect()
}

fn parse(version: &str) -> Option<(u32, u32, u32)> {
    // A release candidate has a suffix after the third number.
    let version = version.trim().split(['-', '+']).next()?;
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_output_of_etcd_is_parsed() {
        assert_eq!(parse("3.5.30"), Some((3, 5, 30)));
        assert_eq!(parse("3.6.0-rc.1\n"), Some((3, 6, 0)));
        assert_eq!(parse("three"), None);
    }

    #[test]
    fn program_other_than_etcd_is_refused_with_its_output() {
        assert!(Release::of(Path::new("/nowhere/etcd")).unwrap_err().contains("cannot be started"));
        let echo = ["/bin/echo", "/usr/bin/echo"].into_iter().find(|path| Path::new(path).exists());
        let why = Release::of(Path::new(echo.unwrap())).unwrap_err();
        assert!(why.contains("--version"), "{why}");
    }
}
