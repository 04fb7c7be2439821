//! The canary: runs some seeds of a sweep in another process, and compares the histories.
//!
//! A run that depends on anything but its choices, such as the order of a hash map or an address,
//! differs between processes. The other process is the same test program, started with the name of
//! the test and with an environment variable. It runs the other sweeps of the test as usual, and
//! ends when it has written the histories.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::thread;

/// The variable with the request: `FOLDER|POINTS|SEEDS|NAME`. The histories are written to the
/// folder; the points are about how many points of its schedule a run has; the seeds are separated
/// by commas; the name is that of the sweep.
const REQUEST: &str = "COORD_SIM_CANARY";

/// The request to a canary process.
#[derive(Debug)]
pub(super) struct Canary {
    pub(super) name: String,
    pub(super) seeds: Vec<u64>,
    pub(super) points: usize,
    folder: PathBuf,
}

impl Canary {
    /// Ends the process, after all histories are written: what the test does next is of no use.
    pub(super) fn finish(&self) -> ! {
        process::exit(0)
    }

    /// Writes the history of a seed.
    pub(super) fn write(&self, seed: u64, text: &str) {
        let path = self.folder.join(seed.to_string());
        fs::write(&path, text)
            .unwrap_or_else(|error| panic!("{} cannot be written: {error}", path.display()));
    }
}

/// The request, if this is a canary process.
pub(super) fn requested() -> Option<Canary> {
    let request = env::var(REQUEST).ok()?;
    let mut parts = request.splitn(4, '|');
    let mut part = || parts.next().unwrap_or_default().to_owned();
    let (folder, points, seeds, name) = (part(), part(), part(), part());
    Some(Canary {
        name,
        seeds: seeds.split(',').filter_map(|seed| seed.parse().ok()).collect(),
        points: points.parse().unwrap_or_default(),
        folder: folder.into(),
    })
}

/// The name of the running test: that of its thread, or the argument of a test program that runs
/// one test on the main thread. `None` outside a test program.
pub(super) fn test_name() -> Option<String> {
    let thread = thread::current().name().filter(|name| *name != "main").map(str::to_owned);
    let is_exact = env::args().any(|arg| arg == "--exact");
    let argument = || env::args().skip(1).find(|arg| !arg.starts_with('-')).filter(|_| is_exact);
    thread.or_else(argument)
}

/// Runs seeds in another process, and returns their histories. `None` if this is no test program,
/// such as a documentation test.
pub(super) fn run_elsewhere(
    name: &str,
    seeds: &[u64],
    points: u64,
) -> Option<BTreeMap<u64, String>> {
    let test = test_name()?;
    let folder = env::temp_dir().join(format!("coord-sim-{}-{name}", process::id()));
    fs::create_dir_all(&folder)
        .unwrap_or_else(|error| panic!("{} cannot be created: {error}", folder.display()));
    let listed = seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let program = env::current_exe().unwrap_or_else(|error| panic!("no test program: {error}"));
    // The exit status is ignored: only the written histories count.
    Command::new(&program)
        .args([&test, "--exact", "--include-ignored", "--nocapture"])
        .env(REQUEST, format!("{}|{points}|{listed}|{name}", folder.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", program.display()));
    let read = |seed: &u64| Some((*seed, fs::read_to_string(folder.join(seed.to_string())).ok()?));
    let histories: BTreeMap<_, _> = seeds.iter().filter_map(read).collect();
    // The folder is in the folder for temporary files: the system removes it if this fails.
    let _ = fs::remove_dir_all(&folder);
    assert!(
        histories.len() == seeds.len(),
        "the canary of the sweep `{name}` did not run in the test `{test}`: give the sweep a name \
         that is unique in its test, or call `without_canary`"
    );
    Some(histories)
}

/// The first line that differs, on both sides.
pub(super) fn first_difference(here: &str, there: &str) -> Option<String> {
    if here == there {
        return None;
    }
    let longest = here.lines().count().max(there.lines().count());
    let lines = |text: &str, i| text.lines().nth(i).unwrap_or("(end)").to_owned();
    (0..longest)
        .map(|i| (lines(here, i), lines(there, i)))
        .find(|(here, there)| here != there)
        .map(|(here, there)| format!("here\n  {here}\nthere\n  {there}"))
}
