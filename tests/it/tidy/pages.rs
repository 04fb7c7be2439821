//! Rules for the pages: what they name exists, and tables are complete.

use super::{assert_none, files, is_test, pages, quoted_under, read, root, sources};

/// Every path in backticks in the pages exists.
#[test]
fn paths_in_the_pages_exist() {
    let folders = ["crates/", "tests/", "docs/"];
    let mut violations = Vec::new();
    for (name, text) in pages() {
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
    let mut violations = Vec::new();
    for (name, text) in pages() {
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

/// Every regression test has a row in `docs/bugs.md`.
#[test]
fn regression_tests_have_a_row_in_the_table_of_bugs() {
    let rows = quoted_under(&read("docs/bugs.md"), &["test"]);
    let mut violations = Vec::new();
    let mut found = 0;
    for (name, text) in sources() {
        let mut is_regression = false;
        for line in text.lines().map(str::trim) {
            is_regression |= line.starts_with("///") && line.contains("Regression");
            let function = line.split_once("fn ").filter(|_| !line.starts_with("//"));
            let Some((_, function)) = function.filter(|_| is_regression) else { continue };
            is_regression = false;
            found += 1;
            let test = function.split('(').next().unwrap_or_default();
            if !rows.iter().any(|row| row == test) {
                violations.push(format!("docs/bugs.md: no row names {test} of {name}"));
            }
        }
    }
    assert!(found > 50, "only {found} regression tests: has the comment changed?");
    assert_none(&violations);
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
    let page = read("docs/architecture.md");
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
    let page = read("docs/go.md");
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
