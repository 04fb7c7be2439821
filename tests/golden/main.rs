//! Golden scripts: stories to be read, with what came of them.
//!
//! A script is a text file under `tests/scripts/`, `<area>/<scenario>`. It opens with a comment
//! that tells the story and why its end is to be expected. Then come steps: commands, and below
//! `---` what they led to, which nobody wrote by hand.
//!
//! ```text
//! # Whoever comes first is served first.
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
//! `c1:` is a client: a process with a session of its own on the store that all share, a
//! `MemBackend`. Its first command opens the session, with 10 s to live. What the commands are is
//! told in [`command`]. A command that has to wait goes on in the background. After each command
//! everything happens that takes no more than a moment, and is printed in the order in which it
//! did. What happens in the course of an `advance` has the time before it, since the script began.
//!
//! `!` before a command says that it fails. `[requests]` behind one prints what each client sent
//! during it.
//!
//! `cargo test -p coord-tests --test scripts mutex/` runs the scripts of an area. With
//! `UPDATE_GOLDENFILES=1` the scripts are written instead of checked: then read what changed.

mod client;
mod command;
mod held;
mod log;
mod network;
mod transaction;
mod work;
mod world;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use log::MARK;
use world::Script;

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut scripts = files(&folder);
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {}", folder.display());
    let trials = scripts.into_iter().map(|path| {
        let name = path.strip_prefix(&folder).expect("it is in there").display().to_string();
        Trial::test(name, move || check(&path))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// The files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder can be read");
    let paths = entries.map(|entry| entry.expect("the folder can be read").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Runs a script, and compares it with itself.
fn check(path: &Path) -> Result<(), Failed> {
    let script = std::fs::read_to_string(path)?;
    if !script.starts_with("# ") {
        return Err("a script opens with its story".into());
    }
    let output = goldenscript::generate(&mut Script::new()?, &script);
    let output = output.map_err(|error| unmarked(&error.to_string()))?;
    let (folder, name) = (path.parent().ok_or("no folder")?, path.file_name().ok_or("no name")?);
    // It compares when it is dropped, or writes if it was told to.
    let mut mint = goldenfile::Mint::new(folder);
    mint.new_goldenfile(name)?.write_all(unmarked(&output).as_bytes())?;
    Ok(())
}

/// Takes away what goldenscript has put before the lines of an answer: the client whose command it
/// was. Our lines tell themselves whom they are about, which may be another.
fn unmarked(output: &str) -> String {
    let line = |line: &str| line.rsplit(MARK).next().unwrap_or_default().to_owned() + "\n";
    output.lines().map(line).collect()
}
