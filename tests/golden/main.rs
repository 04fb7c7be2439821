//! The runner of the golden scripts, which are scenarios in plain text with recorded transcripts.
//!
//! A script is a text file `tests/scripts/<area>/<scenario>`. It starts with a comment that states
//! the scenario and the reason for its result. Then come steps: commands and, below `---`, the
//! lines that they printed, which the runner generates.
//!
//! ```text
//! # The lock is granted in the order of requests.
//! c1: lock m
//! c2: lock m
//! ---
//! c1: locked m, token 2
//! c2: waits (lock m)
//!
//! c1: unlock m
//! ---
//! c1: unlocked m
//! c2: locked m, token 3
//! ```
//!
//! `c1:` is a client: a process with its own session on a shared `MemBackend`. Its first command
//! opens the session, with a TTL of 10 s. [`command`] lists the commands. A command that has to
//! wait continues in the background. After each command, the runner runs all tasks until they are
//! idle, and prints the events in order. A line that is printed 100 ms or more after the start
//! of its step, during an `advance`, starts with the time since the start of the script.
//!
//! `!` before a command marks it as expected to fail. `[requests]` after a command prints the
//! requests that each client sent during it.
//!
//! `cargo test -p coord-tests --test scripts mutex/` runs the scripts of an area. With
//! `UPDATE_GOLDENFILES=1`, the runner writes the transcripts instead of comparing them: review the
//! changes then.

mod client;
mod client_commands;
mod command;
mod held;
mod log;
mod network;
mod script;
mod transaction;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use log::LINE_START;
use script::Script;

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut scripts = files(&folder);
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {}", folder.display());
    let trials = scripts.into_iter().map(|path| {
        let name =
            path.strip_prefix(&folder).expect("the path is in the folder").display().to_string();
        Trial::test(name, move || check(&path))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// All files in a folder and its subfolders.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder can be read");
    let paths = entries.map(|entry| entry.expect("the folder can be read").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Runs a script and compares its transcript with the file, or rewrites the file.
fn check(path: &Path) -> Result<(), Failed> {
    let script = std::fs::read_to_string(path)?;
    if !script.starts_with("# ") {
        return Err("a script must start with a comment, `# `, that states its scenario".into());
    }
    let output = goldenscript::generate(&mut Script::new()?, &script);
    let output = output.map_err(|error| without_prefixes(&error.to_string()))?;
    let (folder, name) = (path.parent().ok_or("no folder")?, path.file_name().ok_or("no name")?);
    // The mint compares or writes the file when it is dropped.
    let mut mint = goldenfile::Mint::new(folder);
    mint.new_goldenfile(name)?.write_all(without_prefixes(&output).as_bytes())?;
    Ok(())
}

/// Removes the client name that goldenscript prefixes to each printed line.
///
/// Each line already names its client, which may differ from the client of the command.
fn without_prefixes(output: &str) -> String {
    let line = |line: &str| line.rsplit(LINE_START).next().unwrap_or_default().to_owned() + "\n";
    output.lines().map(line).collect()
}
