//! The house rules that no other tool checks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the repository.
fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ lies in the repository").to_owned()
}

/// The files under `folder` whose names end with `ending`, with their text.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                let text = std::fs::read_to_string(&path).expect("it is text");
                let name = path.strip_prefix(root()).expect("it is below the root");
                found.push((name.to_string_lossy().into_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} under {folder}");
    found
}

fn sources() -> Vec<(String, String)> {
    [files("crates", ".rs"), files("tests", ".rs")].concat()
}

fn complain(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_file_opens_with_its_idea() {
    let silent = sources().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    complain(
        &silent.map(|(name, _)| format!("{name}: does not open with `//!`")).collect::<Vec<_>>(),
    );
}

#[test]
fn files_and_lines_stay_readable() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        if lines > 600 {
            complaints.push(format!("{name}: {lines} lines, at most 600"));
        }
        // Text that must stay in one piece, a message or a link, may be longer.
        let long = |line: &&str| line.chars().count() > 100 && !line.contains('"');
        for line in text.lines().filter(long) {
            complaints.push(format!("{name}: over 100 columns: {}", line.trim()));
        }
    }
    complain(&complaints);
}

/// An unbiased `select!` takes another branch every run, and no seed repeats it.
#[test]
fn every_select_is_biased() {
    let mut complaints = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| !name.ends_with("tidy.rs")) {
        for (at, _) in text.match_indices("select! {") {
            let body = text[at..].lines().nth(1).unwrap_or_default().trim();
            if body != "biased;" {
                complaints.push(format!("{name}: a select! that starts with `{body}`"));
            }
        }
    }
    complain(&complaints);
}

#[test]
fn every_public_async_function_tells_its_cancel_safety() {
    let mut complaints = Vec::new();
    for (name, text) in files("crates", ".rs") {
        let mut doc = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(line) = line.strip_prefix("///") {
                doc.push_str(line);
            } else if line.starts_with("pub async fn ") {
                if !doc.contains("# Cancel safety") {
                    complaints.push(format!("{name}: {line}"));
                }
                doc.clear();
            } else if !line.starts_with("#[") {
                doc.clear();
            }
        }
    }
    complain(&complaints);
}

#[test]
fn nothing_is_left_to_be_done() {
    let marks = ["TODO", "FIXME", "XXX", "#[ignore"];
    let mut complaints = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| !name.ends_with("tidy.rs")) {
        let found = marks.iter().filter(|mark| text.contains(**mark));
        complaints.extend(found.map(|mark| format!("{name}: {mark}")));
    }
    complain(&complaints);
}

/// What stands between backticks in a page and looks like a path of ours has to exist.
#[test]
fn paths_in_the_pages_exist() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("there is a README");
    let pages = [files("docs", ".md"), vec![("README.md".to_owned(), readme)]].concat();
    let ours = ["crates/", "tests/", "docs/"];
    let mut complaints = Vec::new();
    for (name, text) in pages {
        let quoted = text.split('`').skip(1).step_by(2);
        for path in quoted.filter(|quoted| ours.iter().any(|start| quoted.starts_with(start))) {
            let path = path.split_whitespace().next().unwrap_or_default();
            if !root().join(path).exists() {
                complaints.push(format!("{name}: `{path}` does not exist"));
            }
        }
    }
    complain(&complaints);
}

/// The links of the pages that lead to files.
#[test]
fn links_in_the_pages_lead_somewhere() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("there is a README");
    let pages = [files("docs", ".md"), vec![("README.md".to_owned(), readme)]].concat();
    let mut complaints = Vec::new();
    for (name, text) in pages {
        let folder = root().join(&name).parent().expect("a page lies in a folder").to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !folder.join(file).exists() {
                complaints.push(format!("{name}: ({link}) leads nowhere"));
            }
        }
    }
    complain(&complaints);
}

/// State in a static is shared by all clients of a process, and outlives each test.
#[test]
fn no_static_holds_state() {
    let shared = ["Mutex", "RwLock", "Atomic", "OnceLock", "LazyLock", "Cell", "static mut"];
    let mut complaints = Vec::new();
    for (name, text) in files("crates", ".rs").into_iter().filter(|(name, _)| !is_test(name)) {
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for line in code.lines().map(str::trim) {
            let declares = ["static ", "pub static ", "pub(crate) static ", "thread_local!"];
            let is_static = declares.iter().any(|start| line.starts_with(start));
            if is_static
                && (line.contains("thread_local") || shared.iter().any(|t| line.contains(t)))
            {
                complaints.push(format!("{name}: {line}"));
            }
        }
    }
    complain(&complaints);
}

/// Whether a file of a crate is compiled for tests only.
fn is_test(name: &str) -> bool {
    name.contains("/tests") || name.contains("/benches/")
}

/// The modules of a folder of sources, as paths relative to it.
fn modules(folder: &str) -> Vec<String> {
    let sources = files(folder, ".rs").into_iter().map(|(name, _)| name);
    let relative = sources.filter_map(|name| {
        let path = name.strip_prefix(folder)?.trim_start_matches('/').to_owned();
        (!is_test(&name) && !path.ends_with("lib.rs") && !path.ends_with("main.rs")).then_some(path)
    });
    relative.collect()
}

/// The map in `docs/architecture.md` names every module of every crate.
#[test]
fn architecture_page_names_every_module() {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).expect("the page");
    let mut complaints = Vec::new();
    for name in ["core", "mem", "etcd", "testkit", "server", "cli"] {
        let heading = format!("coord-{name}");
        let section = page.split("\n## ").flat_map(|section| section.split("\n### "));
        let mut sections = section
            .filter(|section| section.lines().next().is_some_and(|title| title.contains(&heading)));
        let Some(section) = sections.next() else {
            complaints.push(format!("docs/architecture.md: no section for {heading}"));
            continue;
        };
        for module in modules(&format!("crates/{heading}/src")) {
            if !section.contains(&format!("`{module}`")) {
                complaints.push(format!("docs/architecture.md: {heading}: `{module}` is missing"));
            }
        }
    }
    complain(&complaints);
}

/// The map in `lib.rs` of core names every module at the root.
#[test]
fn crate_map_of_core_names_every_module() {
    let lib = root().join("crates/coord-core/src/lib.rs");
    let lib = std::fs::read_to_string(lib).expect("there is the file");
    let (map, code) = lib.split_once("\n\n").expect("documentation comes before code");
    let declared = code.lines().filter_map(|line| {
        let line = line.trim_start_matches("pub ").strip_prefix("mod ")?;
        Some(line.trim_end_matches(';'))
    });
    let missing = declared.filter(|module| !map.contains(&format!("`{module}`")));
    complain(
        &missing.map(|module| format!("lib.rs: {module} is not on the map")).collect::<Vec<_>>(),
    );
}

/// `rust-version` is true: no dependency needs a newer compiler.
#[test]
fn no_dependency_needs_a_newer_compiler_than_we_say() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let version = |package: &serde_json::Value| {
        let version = package["rust_version"].as_str()?;
        let mut parts = version.split('.').map(|part| part.parse::<u32>().expect("a number"));
        Some((parts.next()?, parts.next()?))
    };
    let packages = metadata["packages"].as_array().expect("packages");
    let ours = packages.iter().find(|package| package["name"] == "coord-core");
    let ours = version(ours.expect("coord-core is a package")).expect("it states a rust-version");
    let newer: BTreeSet<_> = packages
        .iter()
        .filter(|package| version(package).is_some_and(|theirs| theirs > ours))
        .map(|package| format!("{} needs {}", package["name"], package["rust_version"]))
        .collect();
    complain(&newer.into_iter().collect::<Vec<_>>());
}

/// With it in the release profile, `cargo install` took twice the processor time.
#[test]
fn link_time_optimization_is_for_dist_only() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("there is a manifest");
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

/// What stands between backticks in the columns of a page's tables that have one of these headers.
fn quoted_under(page: &str, headers: &[&str]) -> Vec<String> {
    let mut quoted = Vec::new();
    let mut wanted = Vec::new();
    let mut in_table = false;
    for line in page.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if line.starts_with('|') && !in_table {
            wanted = cells.iter().map(|cell| headers.contains(cell)).collect();
        }
        in_table = line.starts_with('|');
        let cells = cells.iter().zip(&wanted).filter(|(_, wanted)| in_table && **wanted);
        quoted.extend(cells.flat_map(|(cell, _)| cell.split('`').skip(1).step_by(2)));
    }
    quoted.into_iter().map(str::to_owned).collect()
}

/// A page that says what proves something must name a test that is there.
#[test]
fn tests_named_in_the_pages_exist() {
    let tests: String = sources().into_iter().map(|(_, text)| text).collect();
    let mut complaints = Vec::new();
    let mut named = 0;
    for (name, page) in files("docs", ".md") {
        for test in quoted_under(&page, &["proved by", "ours", "test"]) {
            // A path is looked for by another rule; what has a capital is no test.
            if test.contains('/') || test.contains(char::is_uppercase) {
                continue;
            }
            named += 1;
            if !tests.contains(&format!("fn {test}(")) {
                complaints.push(format!("{name}: there is no test `{test}`"));
            }
        }
    }
    assert!(named > 50, "the tables name {named} tests: are they still where this looks?");
    complain(&complaints);
}

/// The table of the levels stands in the guide, where examples go with it, and in the docs.
#[test]
fn levels_are_told_alike_in_the_guide_and_in_the_docs() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("there is the page");
    let (guide, docs) =
        (read("docs/guide/isolation.md"), read("crates/coord-core/src/stm/isolation.rs"));
    let row = |line: &str| line.starts_with('|').then(|| line.to_owned());
    let guide: Vec<_> = guide.lines().filter_map(row).collect();
    let docs: Vec<_> = docs.lines().filter_map(|line| row(line.strip_prefix("/// ")?)).collect();
    assert!(guide.len() > 5, "a table of {} lines", guide.len());
    assert_eq!(guide, docs);
}

/// Every name of Go's package has its row, and what took its place is there.
#[test]
fn names_of_gos_package_have_gone_somewhere() {
    const NAMES: &str = "NewSession WithTTL WithLease WithContext Session.Client Session.Lease \
        Session.Done Session.Ctx Session.Orphan Session.Close NewMutex Mutex.Lock Mutex.TryLock \
        Mutex.Unlock Mutex.IsOwner Mutex.Key Mutex.Header NewLocker ErrLocked ErrSessionExpired \
        ErrLockReleased NewElection ResumeElection Election.Campaign Election.Proclaim \
        Election.Resign Election.Leader Election.Observe Election.Key Election.Rev \
        Election.Header ErrElectionNotLeader ErrElectionNoLeader STM NewSTM NewSTMSerializable \
        NewSTMRepeatable NewSTMReadCommitted WithIsolation WithAbortContext WithPrefetch Isolation \
        SerializableSnapshot Serializable RepeatableReads ReadCommitted STM.Get STM.Put STM.Rev \
        STM.Del";
    let page = std::fs::read_to_string(root().join("docs/go.md")).expect("there is the page");
    let theirs = quoted_under(&page, &["Go"]);
    let lost = NAMES.split_whitespace().filter(|name| !theirs.iter().any(|row| row == name));
    let mut complaints: Vec<_> =
        lost.map(|name| format!("docs/go.md: no row for {name}")).collect();

    let core: String =
        files("crates/coord-core", ".rs").into_iter().map(|(_, text)| text).collect();
    for ours in quoted_under(&page, &["coord"]) {
        let name = ours.rsplit("::").next().unwrap_or_default();
        let written = [
            format!("fn {name}("),
            format!("fn {name}<"),
            format!("    {name},"),
            format!("    {name}("),
            format!("pub struct {name} {{"),
            format!("pub enum {name} {{"),
        ];
        if ours != "None" && !written.iter().any(|name| core.contains(name)) {
            complaints.push(format!("docs/go.md: `{ours}` is not in core"));
        }
    }
    complain(&complaints);
}
