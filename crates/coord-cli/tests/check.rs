//! `coord check` on files of histories, tested with the binary.

mod support;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use support::{coord, program, text};

/// The file of a history. `tests/report` of coord-testkit has their reports.
fn history(name: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../coord-testkit/tests/report/histories");
    format!("{root}/{name}.jsonl")
}

/// The exit status, standard output and standard error of `coord check`.
fn check(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = coord(&[&["check"], arguments].concat());
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A file in a new folder.
fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder can be created");
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("a file can be written");
    let path = path.to_str().expect("the path is text").to_owned();
    (folder, path)
}

#[test]
fn exit_status_depends_on_the_level() {
    let file = history("write-skew");
    let (status, stdout, stderr) = check(&[&file]);
    assert_eq!((status, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.starts_with("HOLDS: the level of each transaction, which permits"), "{stdout}");
    for (level, expected) in [
        ("read-committed", 0),
        ("snapshot-isolation", 0),
        ("coord-read-committed", 0),
        ("repeatable-read", 1),
        ("strict-serializable", 1),
        ("coord-serializable-snapshot", 1),
    ] {
        let (status, stdout, stderr) = check(&[&file, "--level", level]);
        assert_eq!((status, stderr.as_str()), (Some(expected), ""), "{level}: {stdout}");
    }
}

#[test]
fn refuted_history_prints_the_golden_report() {
    let (status, stdout, _) = check(&[&history("lost-write"), "--unique-values"]);
    assert_eq!(status, Some(1));
    let golden = history("lost-write").replace("histories", "texts").replace(".jsonl", ".txt");
    assert_eq!(stdout, std::fs::read_to_string(golden).expect("the file exists"));
}

#[test]
fn unique_values_show_an_aborted_read() {
    let file = history("aborted-read");
    assert_eq!(check(&[&file]).0, Some(0));
    let (status, stdout, _) = check(&[&file, "--unique-values"]);
    assert_eq!(status, Some(1));
    assert!(stdout.contains("aborted read (G1a) refutes read committed"), "{stdout}");
}

#[test]
fn history_without_transactions_is_unknown() {
    let (_folder, file) = file("empty.jsonl", b"{\"format\":\"coord-history\",\"version\":1}\n");
    let (status, stdout, stderr) = check(&[&file]);
    assert_eq!((status, stderr.as_str()), (Some(2), ""));
    assert!(stdout.starts_with("UNKNOWN: whether the level of each transaction holds"), "{stdout}");
}

#[test]
fn standard_input_and_json_give_the_same_verdict() {
    let mut command = program();
    command.args(["check", "-", "--json", "--level", "serializable"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program is built");
    let content = std::fs::read(history("write-skew")).expect("the file exists");
    let mut input = child.stdin.take().expect("it was piped");
    input.write_all(&content).expect("the program reads it");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(report["status"], "refuted");
    assert_eq!(report["level"], "serializable");
    assert_eq!(report["levels"][2]["level"], "repeatable-read");
    assert_eq!(report["levels"][2]["status"], "not");
    let anomaly = &report["anomalies"][0];
    assert_eq!((&anomaly["name"], &anomaly["kind"]), (&"write skew".into(), &"G2-item".into()));
    let edges = anomaly["edges"].as_array().expect("a cycle has edges");
    assert_eq!(edges.len(), 2);
    assert!(edges.iter().any(|edge| edge["key"] == "on_call/ada" && edge["after"] == 4));
    assert_eq!(report["coverage"]["resolved_reads"], 4);
}

#[test]
fn page_and_graph_are_written() {
    let folder = tempfile::tempdir().expect("a folder can be created");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let (html, dot) = (path("page.html"), path("cycle.dot"));
    let (status, _, stderr) = check(&[&history("long-fork"), "--html", &html, "--dot", &dot]);
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    let page = std::fs::read_to_string(html).expect("the page was written");
    assert!(page.starts_with("<!doctype html>") && page.contains("long fork"));
    let graph = std::fs::read_to_string(dot).expect("the graph was written");
    assert!(graph.starts_with("digraph isolation {") && graph.contains("\"0 T4\" -> \"0 T1\""));
}

#[test]
fn elle_history_is_detected() {
    let content = b"{:type :invoke, :f :txn, :value [[:w :x 2]], :process 0, :index 0}
        {:type :ok, :f :txn, :value [[:w :x 2]], :process 0, :index 1}";
    let (_folder, file) = file("history.edn", content);
    let (status, stdout, stderr) = check(&[&file]);
    assert!(status < Some(3) && stdout.contains("checked 1 transaction"), "{stdout}{stderr}");
    let (status, _, stderr) = check(&[&file, "--format", "coord"]);
    assert!(status == Some(3) && stderr.contains("line 1: no header of a history"), "{stderr}");
}

#[test]
fn errors_name_the_file_the_line_and_a_remedy() {
    let header = "{\"format\":\"coord-history\",\"version\":1}\n";
    let content = format!("{header}{{\"at\":1,\"note\":\"fine\"}}\n{{\"at\":1,\"nope\":2}}\n");
    let (_folder, wrong) = file("wrong.jsonl", content.as_bytes());
    let (status, stdout, stderr) = check(&[&wrong]);
    assert_eq!((status, stdout.as_str()), (Some(3), ""));
    let named = stderr.starts_with(&format!("coord check: {wrong}: line 3: unknown field `nope`"));
    assert!(named && stderr.contains("or name its format with --format"), "{stderr}");

    let missing = "/nowhere/history.jsonl";
    let (status, _, stderr) = check(&[missing]);
    assert!(status == Some(3) && stderr.contains(missing), "{stderr}");
    let (status, _, stderr) = check(&[&history("valid"), "--html", "/nowhere/page.html"]);
    let named = stderr.contains("/nowhere/page.html: cannot be written");
    assert!(status == Some(3) && named, "{stderr}");
    let (_folder, bytes) = file("history.edn", b"{:type :ok \xff}");
    let (status, _, stderr) = check(&[&bytes]);
    assert!(status == Some(3) && stderr.contains("not UTF-8 from byte 11 on"), "{stderr}");
}

/// 2 is a result of this subcommand, so a wrong command line has another status.
#[test]
fn usage_error_has_status_3() {
    for line in [&[][..], &["a", "b"], &["a", "--level", "snapshot"], &["a", "--format", "csv"]] {
        let (status, stdout, stderr) = check(line);
        assert_eq!((status, stdout.as_str()), (Some(3), ""), "{line:?}");
        assert!(!stderr.is_empty(), "{line:?}");
    }
    let (_, _, stderr) = check(&["a", "--level", "snapshot"]);
    assert!(stderr.contains("snapshot-isolation, serializable"), "{stderr}");
    assert_eq!(check(&["--help"]).0, Some(0));
}

#[test]
fn every_file_of_a_history_can_be_checked() {
    let folder = PathBuf::from(history("valid"));
    let folder = folder.parent().expect("a file is in a folder");
    let mut checked = 0;
    for entry in folder.read_dir().expect("the folder exists") {
        let path = entry.expect("the folder can be read").path();
        let (status, _, stderr) = check(&[path.to_str().expect("the path is text")]);
        assert!(status < Some(2), "{}: {stderr}", path.display());
        checked += 1;
    }
    assert!(checked >= 9, "only {checked} files");
}

#[test]
fn formats_of_other_checkers_are_detected() {
    let aborted_read = "w(1,1,0,-1)\nr(1,1,1,2)\n";
    let stale_read = r#"[{"ClientId":0,"Input":{"Op":"read","Key":"x"},"Call":1,
        "Output":{"Found":true,"Value":"1"},"Return":2}]"#;
    for (format, content) in [("plume", aborted_read), ("porcupine", stale_read)] {
        let (_folder, file) = file("history", content.as_bytes());
        for arguments in [vec![&*file], vec![&*file, "--format", format]] {
            let (status, stdout, stderr) = check(&arguments);
            assert_eq!((status, stderr.as_str()), (Some(1), ""), "{format}: {stdout}");
        }
        let (status, _, stderr) = check(&[&file, "--transaction-order", &file]);
        assert_eq!(status, Some(3));
        assert!(stderr.contains("--transaction-order is for Elle's format"), "{stderr}");
    }
}

#[test]
fn transaction_order_decides_between_versions() {
    let text = "{:type :ok, :process 0, :index 0, :value [[:w x 1]]}
        {:type :ok, :process 1, :index 1, :value [[:w x 2]]}
        {:type :ok, :process 1, :index 2, :value [[:r x 1] [:w x 3]]}";
    let (_folder, history) = file("history.edn", text.as_bytes());
    let (_folder, order) = file("order.json", br#"{"0": 1, "1": 2, "2": 3}"#);
    assert_eq!(check(&[&history, "--level", "serializable"]).0, Some(2));
    let with_order =
        |order: &str| check(&[&history, "--level", "serializable", "--transaction-order", order]);
    let (status, stdout, stderr) = with_order(&order);
    assert_eq!((status, stderr.as_str()), (Some(1), ""), "{stdout}");
    let (status, _, stderr) = with_order(&history);
    assert_eq!(status, Some(3));
    assert!(stderr.contains("history.edn: no transaction order: "), "{stderr}");
}
