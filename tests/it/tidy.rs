//! House rules for the sources and pages that no other tool checks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the repository.
fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ is in the repository").to_owned()
}

/// The paths and texts of the files under `folder` whose names end with `ending`.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                let text = std::fs::read_to_string(&path).expect("the file is text");
                let name = path.strip_prefix(root()).expect("the file is below the root");
                found.push((name.to_string_lossy().into_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} under {folder}");
    found
}

/// The paths and texts of all Rust sources.
fn sources() -> Vec<(String, String)> {
    [files("crates", ".rs"), files("tests", ".rs")].concat()
}

/// Asserts that there are no violations.
#[track_caller]
fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn every_file_starts_with_module_docs() {
    let undocumented = sources().into_iter().filter(|(_, text)| !text.starts_with("//! "));
    assert_none(
        &undocumented
            .map(|(name, _)| format!("{name}: does not start with `//!`"))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn files_and_lines_have_at_most_their_maximum_length() {
    let mut violations = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        if lines > 600 {
            violations.push(format!("{name}: {lines} lines, at most 600"));
        }
        // Messages and links, which cannot be wrapped, may be longer.
        let is_long = |line: &&str| line.chars().count() > 100 && !line.contains('"');
        for line in text.lines().filter(is_long) {
            violations.push(format!("{name}: over 100 columns: {}", line.trim()));
        }
    }
    assert_none(&violations);
}

/// An unbiased `select!` chooses a branch at random, and no seed makes it reproducible.
#[test]
fn every_select_is_biased() {
    let mut violations = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| !name.ends_with("tidy.rs")) {
        for (at, _) in text.match_indices("select! {") {
            let body = text[at..].lines().nth(1).unwrap_or_default().trim();
            if body != "biased;" {
                violations
                    .push(format!("{name}: a `select!` that starts with `{body}`, not `biased;`"));
            }
        }
    }
    assert_none(&violations);
}

#[test]
fn public_async_functions_document_their_cancel_safety() {
    let mut violations = Vec::new();
    for (name, text) in files("crates", ".rs") {
        let mut doc = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(line) = line.strip_prefix("///") {
                doc.push_str(line);
            } else if line.starts_with("pub async fn ") {
                if !doc.contains("# Cancel safety") {
                    violations.push(format!("{name}: {line}"));
                }
                doc.clear();
            } else if !line.starts_with("#[") {
                doc.clear();
            }
        }
    }
    assert_none(&violations);
}

#[test]
fn sources_have_no_todo_marks_or_ignored_tests() {
    let marks = ["TODO", "FIXME", "XXX", "#[ignore"];
    let mut violations = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| !name.ends_with("tidy.rs")) {
        let found = marks.iter().filter(|mark| text.contains(**mark));
        violations.extend(found.map(|mark| format!("{name}: {mark}")));
    }
    assert_none(&violations);
}

/// Every path in backticks in the pages exists.
#[test]
fn paths_in_the_pages_exist() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md can be read");
    let pages = [files("docs", ".md"), vec![("README.md".to_owned(), readme)]].concat();
    let folders = ["crates/", "tests/", "docs/"];
    let mut violations = Vec::new();
    for (name, text) in pages {
        let quoted = text.split('`').skip(1).step_by(2);
        for path in quoted.filter(|quoted| folders.iter().any(|start| quoted.starts_with(start))) {
            let path = path.split_whitespace().next().unwrap_or_default();
            if !root().join(path).exists() {
                violations.push(format!("{name}: `{path}` does not exist"));
            }
        }
    }
    assert_none(&violations);
}

/// Every link to a file in the pages has a target.
#[test]
fn links_in_the_pages_have_targets() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md can be read");
    let pages = [files("docs", ".md"), vec![("README.md".to_owned(), readme)]].concat();
    let mut violations = Vec::new();
    for (name, text) in pages {
        let folder = root().join(&name).parent().expect("a page is in a folder").to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !folder.join(file).exists() {
                violations.push(format!("{name}: the target of ({link}) does not exist"));
            }
        }
    }
    assert_none(&violations);
}

/// State in a static would be shared by all clients of a process, and would outlive each test.
#[test]
fn no_static_holds_state() {
    let shared = ["Mutex", "RwLock", "Atomic", "OnceLock", "LazyLock", "Cell", "static mut"];
    let mut violations = Vec::new();
    for (name, text) in files("crates", ".rs").into_iter().filter(|(name, _)| !is_test(name)) {
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for line in code.lines().map(str::trim) {
            let declares = ["static ", "pub static ", "pub(crate) static ", "thread_local!"];
            let is_static = declares.iter().any(|start| line.starts_with(start));
            if is_static
                && (line.contains("thread_local") || shared.iter().any(|t| line.contains(t)))
            {
                violations.push(format!("{name}: {line}"));
            }
        }
    }
    assert_none(&violations);
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

/// The tables of `docs/architecture.md` list every module of every crate.
#[test]
fn architecture_page_lists_every_module() {
    let page =
        std::fs::read_to_string(root().join("docs/architecture.md")).expect("the page can be read");
    let mut violations = Vec::new();
    for name in ["core", "mem", "etcd", "testkit", "server", "cli"] {
        let heading = format!("coord-{name}");
        let section = page.split("\n## ").flat_map(|section| section.split("\n### "));
        let mut sections = section
            .filter(|section| section.lines().next().is_some_and(|title| title.contains(&heading)));
        let Some(section) = sections.next() else {
            violations.push(format!("docs/architecture.md: no section for {heading}"));
            continue;
        };
        for module in modules(&format!("crates/{heading}/src")) {
            if !section.contains(&format!("`{module}`")) {
                violations.push(format!("docs/architecture.md: {heading}: `{module}` is missing"));
            }
        }
    }
    assert_none(&violations);
}

/// The crate documentation of coord-core lists every module at its root.
#[test]
fn crate_docs_of_core_list_every_module() {
    let lib = root().join("crates/coord-core/src/lib.rs");
    let lib = std::fs::read_to_string(lib).expect("the file can be read");
    let (docs, code) =
        lib.split_once("\n\n").expect("an empty line separates documentation and code");
    let declared = code.lines().filter_map(|line| {
        let line = line.trim_start_matches("pub ").strip_prefix("mod ")?;
        Some(line.trim_end_matches(';'))
    });
    let missing = declared.filter(|module| !docs.contains(&format!("`{module}`")));
    assert_none(
        &missing
            .map(|module| {
                format!("crates/coord-core/src/lib.rs: the crate documentation lacks `{module}`")
            })
            .collect::<Vec<_>>(),
    );
}

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
    let manifest =
        std::fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml can be read");
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

/// The texts in backticks in the columns with one of these headers, in all tables of a page.
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

/// Every test that a page names as a proof exists.
#[test]
fn tests_named_in_the_pages_exist() {
    let tests: String = sources().into_iter().map(|(_, text)| text).collect();
    let mut violations = Vec::new();
    let mut named = 0;
    for (name, page) in files("docs", ".md") {
        for test in quoted_under(&page, &["proved by", "ours", "test"]) {
            // Another rule checks paths. A name with a capital is not a test.
            if test.contains('/') || test.contains(char::is_uppercase) {
                continue;
            }
            named += 1;
            if !tests.contains(&format!("fn {test}(")) {
                violations.push(format!("{name}: no test is named `{test}`"));
            }
        }
    }
    assert!(named > 50, "the tables name only {named} tests: have their headers changed?");
    assert_none(&violations);
}

/// Every type and function that the glossary names exists in the crates.
#[test]
fn glossary_names_existing_items() {
    let page = std::fs::read_to_string(root().join("docs/glossary.md")).expect("the page exists");
    let code: String = files("crates", ".rs").into_iter().map(|(_, text)| text).collect();
    let mut violations = Vec::new();
    let names = quoted_under(&page, &["in the code"]);
    assert!(names.len() > 30, "the glossary names only {} items", names.len());
    for name in names {
        let definitions = [
            format!("struct {name}"),
            format!("enum {name}"),
            format!("trait {name}"),
            format!("type {name}"),
            format!("fn {name}"),
            // A variant of an enum.
            format!("    {name},"),
            format!("    {name} {{"),
            format!("    {name}("),
        ];
        if !definitions.iter().any(|definition| code.contains(definition)) {
            violations.push(format!("docs/glossary.md: `{name}` does not exist"));
        }
    }
    assert_none(&violations);
}

/// The guide and the API documentation have the same table of isolation levels.
#[test]
fn isolation_table_is_equal_in_the_guide_and_the_api_docs() {
    let read =
        |path: &str| std::fs::read_to_string(root().join(path)).expect("the page can be read");
    let (guide, docs) =
        (read("docs/guide/isolation.md"), read("crates/coord-core/src/stm/isolation.rs"));
    let row = |line: &str| line.starts_with('|').then(|| line.to_owned());
    let guide: Vec<_> = guide.lines().filter_map(row).collect();
    let docs: Vec<_> = docs.lines().filter_map(|line| row(line.strip_prefix("/// ")?)).collect();
    assert!(guide.len() > 5, "the table of the guide has only {} lines", guide.len());
    assert_eq!(guide, docs);
}

/// Every name of Go's package has a row in `docs/go.md`, and its counterpart exists in coord-core.
#[test]
fn go_page_maps_every_name_of_gos_package() {
    const NAMES: &str = "NewSession WithTTL WithLease WithContext Session.Client Session.Lease \
        Session.Done Session.Ctx Session.Orphan Session.Close NewMutex Mutex.Lock Mutex.TryLock \
        Mutex.Unlock Mutex.IsOwner Mutex.Key Mutex.Header NewLocker ErrLocked ErrSessionExpired \
        ErrLockReleased NewElection ResumeElection Election.Campaign Election.Proclaim \
        Election.Resign Election.Leader Election.Observe Election.Key Election.Rev \
        Election.Header ErrElectionNotLeader ErrElectionNoLeader STM NewSTM NewSTMSerializable \
        NewSTMRepeatable NewSTMReadCommitted WithIsolation WithAbortContext WithPrefetch Isolation \
        SerializableSnapshot Serializable RepeatableReads ReadCommitted STM.Get STM.Put STM.Rev \
        STM.Del";
    let page = std::fs::read_to_string(root().join("docs/go.md")).expect("the page can be read");
    let go_names = quoted_under(&page, &["Go"]);
    let missing = NAMES.split_whitespace().filter(|name| !go_names.iter().any(|row| row == name));
    let mut violations: Vec<_> =
        missing.map(|name| format!("docs/go.md: no row for {name}")).collect();

    let core: String =
        files("crates/coord-core", ".rs").into_iter().map(|(_, text)| text).collect();
    for counterpart in quoted_under(&page, &["coord"]) {
        let name = counterpart.rsplit("::").next().unwrap_or_default();
        let definitions = [
            format!("fn {name}("),
            format!("fn {name}<"),
            format!("    {name},"),
            format!("    {name}("),
            format!("pub struct {name} {{"),
            format!("pub enum {name} {{"),
        ];
        if counterpart != "None" && !definitions.iter().any(|text| core.contains(text)) {
            violations.push(format!("docs/go.md: `{counterpart}` is not in coord-core"));
        }
    }
    assert_none(&violations);
}
