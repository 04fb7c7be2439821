//! Saved failures: one list of deviations per line, in a file per sweep. Lines that start with `#`
//! are comments.

use std::fs;
use std::path::Path;

use crate::sim::choice::Deviations;

/// The saved lists of a sweep.
///
/// # Panics
/// If the file cannot be read, or a line is not a list.
pub(super) fn read(folder: Option<&Path>, sweep: &str) -> Vec<Deviations> {
    let Some(path) = folder.map(|folder| folder.join(format!("{sweep}.sim"))) else {
        return Vec::new();
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => panic!("{} cannot be read: {error}", path.display()),
    };
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let parse =
        |line: &str| line.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    lines.map(parse).collect()
}

/// Adds a list to the file of a sweep, unless the file has it.
///
/// # Panics
/// If the file cannot be written.
pub(super) fn add(folder: Option<&Path>, sweep: &str, list: &Deviations) {
    let Some(folder) = folder else { return };
    let path = folder.join(format!("{sweep}.sim"));
    let write = || {
        fs::create_dir_all(folder)?;
        let before = fs::read_to_string(&path).unwrap_or_default();
        if before.lines().any(|line| line == list.to_string()) {
            return Ok(());
        }
        fs::write(&path, format!("{before}{list}\n"))
    };
    write().unwrap_or_else(|error| panic!("{} cannot be written: {error}", path.display()));
}
