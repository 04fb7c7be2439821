//! `coord bench`: its report, its output at a terminal and its usage errors, tested with the
//! binary.

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs `coord bench` with this command line.
fn bench(line: &str) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_coord"));
    program.arg("bench").args(line.split_whitespace()).output().expect("the program is built")
}

/// The report of a run on a store in memory.
fn report(line: &str) -> Value {
    let output = bench(&format!("{line} --endpoint mem:"));
    assert_eq!(status_and_stderr(&output), (Some(0), String::new()), "{line}");
    let stdout = String::from_utf8(output.stdout).expect("it is text");
    let last = stdout.lines().last().expect("a line was printed");
    serde_json::from_str(last).expect("the last line is JSON")
}

/// The exit status and standard error.
fn status_and_stderr(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The names of the workloads, from the error for an unknown one.
fn workloads() -> Vec<String> {
    let (_, stderr) = status_and_stderr(&bench("nothing"));
    let (_, list) = stderr.split_once("use one of ").expect("they are listed");
    list.split_whitespace().map(str::to_owned).collect()
}

/// The names of the latency series.
fn series(report: &Value) -> Vec<&str> {
    let latencies = report["latency_us"].as_object().expect("it is an object");
    latencies.keys().map(String::as_str).collect()
}

#[test]
fn every_workload_reports_the_compared_fields() {
    for workload in workloads() {
        if workload == "election-observe" {
            continue; // It runs with one worker: tested below.
        }
        let report = report(&format!(
            "{workload} --workers 3 --conns 2 --count 60 --warmup 0s --warmup-count 9 \
             --run 4 --tag tmpfs"
        ));
        assert_eq!((&report["impl"], &report["workload"]), (&"coord".into(), &workload.into()));
        assert_eq!((&report["workers"], &report["conns"]), (&3.into(), &2.into()));
        assert_eq!((&report["run"], &report["tag"]), (&4.into(), &"tmpfs".into()));
        assert_eq!(report["ops"], 60, "the count is exact, without the warm-up");
        for field in ["ops_per_s", "elapsed_s", "client_cpu_us_per_op"] {
            assert!(report[field].as_f64().expect("a number") > 0.0, "{field} of {report}");
        }
        let fairness = &report["fairness"];
        let (min, max) = (fairness["min"].as_u64(), fairness["max"].as_u64());
        assert!(min.expect("a count") <= 20 && max.expect("a count") >= 20, "{report}");
        let jain = fairness["jain"].as_f64().expect("a number");
        assert!((0.33..=1.0).contains(&jain), "{report}");
        assert!(report.get("server").is_none(), "a store in memory has no metrics");
        for summary in report["latency_us"].as_object().expect("an object").values() {
            let time = |name: &str| summary[name].as_f64().expect("a number");
            assert!(time("p50") > 0.0 && time("mean") > 0.0, "{report}");
            assert!(time("p50") <= time("p90") && time("p90") <= time("p99"), "{report}");
            assert!(time("p99") <= time("p999") && time("p999") <= time("max"), "{report}");
        }
    }
}

#[test]
fn latencies_have_the_names_of_the_go_program() {
    let names = |workload: &str| report(&format!("{workload} --workers 2 --count 20"));
    assert_eq!(series(&names("raw-put")), ["put"]);
    assert_eq!(series(&names("raw-get")), ["get"]);
    assert_eq!(series(&names("raw-get-stale")), ["get-stale"]);
    assert_eq!(series(&names("raw-txn")), ["txn"]);
    assert_eq!(series(&names("session-cycle")), ["close", "cycle", "open"]);
    assert_eq!(series(&names("mutex-uncontended")), ["cycle", "lock", "unlock"]);
    assert_eq!(series(&names("election-cycle")), ["campaign", "cycle", "resign"]);
    let observed = report("election-observe --count 20");
    assert_eq!(series(&observed), ["observed", "proclaim"]);
    assert_eq!((&observed["ops"], &observed["workers"]), (&20.into(), &1.into()));
    // Held long enough for the other worker to wait, so that there is a hand-off time.
    let contended = report("mutex-contended --workers 2 --count 20 --hold 5ms");
    assert_eq!(series(&contended), ["cycle", "handoff", "lock", "unlock"]);
    let handed = report("election-handoff --workers 2 --count 20 --hold 5ms");
    assert_eq!(series(&handed), ["campaign", "cycle", "handoff", "resign"]);
    assert_eq!(series(&names("rwlock-read")), ["cycle", "read", "unlock"]);
    assert_eq!(series(&names("rwlock-write")), ["cycle", "unlock", "write"]);
    // So many operations that some of them write.
    let mixed = report("rwlock-mixed --workers 2 --count 300");
    assert_eq!(series(&mixed), ["cycle", "read", "unlock", "write"]);
    assert_eq!(series(&names("semaphore")), ["acquire", "cycle", "release"]);
    assert_eq!(series(&names("barrier")), ["cycle", "hold", "passed"]);
    assert_eq!(series(&names("double-barrier")), ["cycle", "enter", "leave"]);
}

#[test]
fn election_observe_refuses_a_second_worker() {
    let (status, stderr) =
        status_and_stderr(&bench("election-observe --workers 2 --endpoint mem:"));
    assert_eq!(status, Some(2));
    assert_eq!(stderr, "coord bench: election-observe runs with one worker: use --workers 1\n");
}

#[test]
fn contended_lock_is_fair_among_workers() {
    let report = report("mutex-contended --workers 4 --count 80 --hold 5ms");
    assert_eq!(report["exclusion_violations"], 0);
    assert_eq!(report["hold_us"], 5000);
    // The queue is fair once all workers have enqueued. Until then the first can acquire again.
    assert!(report["max_consecutive_by_one_worker"].as_u64().expect("a count") < 5, "{report}");
    assert!(report["fairness"]["jain"].as_f64().expect("a number") > 0.9, "{report}");
    let unlock = report["latency_us"]["unlock"]["p50"].as_f64().expect("a number");
    let cycle = report["latency_us"]["cycle"]["p50"].as_f64().expect("a number");
    assert!(cycle >= 4.0 * 5000.0, "all four hold it between two acquisitions of one: {report}");
    assert!(unlock < cycle, "the unlock does not include the hold: {report}");
}

#[test]
fn semaphore_with_one_permit_hands_it_off() {
    let line = "semaphore-contended --workers 4 --count 40 --hold 5ms";
    let one = report(line);
    assert_eq!(series(&one), ["acquire", "cycle", "handoff", "release"]);
    assert_eq!(one["exclusion_violations"], 0);
    let two = report(&format!("{line} --limit 2"));
    assert_eq!(series(&two), ["acquire", "cycle", "release"], "a release has no one successor");
    assert_eq!(two["exclusion_violations"], 0);
    let p50 = |report: &Value| report["latency_us"]["cycle"]["p50"].as_f64().expect("a number");
    assert!(p50(&two) < p50(&one), "two hold it at a time: {one} {two}");
}

#[test]
fn recipe_workloads_report_their_flags() {
    let mixed = report("rwlock-mixed --workers 3 --count 300 --hold 100us --seed 7");
    assert_eq!((&mixed["reads_percent"], &mixed["hold_us"]), (&90.into(), &100.into()));
    assert_eq!(mixed["exclusion_violations"], 0);
    let reads = mixed["latency_us"]["read"]["n"].as_u64().expect("a count");
    assert!((240..300).contains(&reads), "{mixed}");

    let barrier = report("barrier --waiters 3 --count 10 --hold 5ms");
    assert_eq!((&barrier["waiters"], &barrier["hold_us"]), (&3.into(), &5000.into()));
    let passed = barrier["latency_us"]["passed"]["p50"].as_f64().expect("a number");
    assert!(passed < 5000.0, "it does not include the hold time: {barrier}");

    let rounds = report("double-barrier --parties 3 --count 10");
    assert_eq!(rounds["parties"], 3);
    assert_eq!(rounds["latency_us"]["enter"]["n"], 30, "one sample for each party of a round");
}

#[test]
fn stm_workloads_lose_no_update_and_report_their_flags() {
    let line = "--workers 4 --count 200 --isolation repeatable-reads --prefetch=true";
    let moved = report(&format!("stm-transfer --accounts 3 --seed 7 {line}"));
    assert_eq!((&moved["accounts"], &moved["sum_kept"]), (&3.into(), &true.into()));
    let counted = report(&format!("stm-counter {line}"));
    assert_eq!(counted["lost_updates"], 0);
    for report in [moved, counted] {
        assert_eq!(series(&report), ["txn"]);
        assert_eq!(report["isolation"], "repeatable-reads");
        assert_eq!(report["prefetch"], true);
        assert!(report["retries_per_commit"].as_f64().expect("a number") >= 0.0, "{report}");
    }
}

#[test]
fn invalid_accounts_or_isolation_are_refused() {
    let (status, stderr) = status_and_stderr(&bench("stm-transfer --accounts 1 --endpoint mem:"));
    assert_eq!(status, Some(2));
    assert!(stderr.contains("a transfer needs at least 2 accounts"), "{stderr}");
    let (status, stderr) =
        status_and_stderr(&bench("stm-counter --isolation strict --endpoint mem:"));
    assert_eq!(status, Some(2));
    assert!(stderr.contains("use one of serializable-snapshot serializable"), "{stderr}");
}

#[test]
fn run_without_count_ends_after_its_duration() {
    let report = report("raw-put --warmup 10ms --duration 200ms");
    let elapsed = report["elapsed_s"].as_f64().expect("a number");
    assert!((0.2..10.0).contains(&elapsed), "{report}");
}

#[test]
fn flags_of_a_workload_are_reported() {
    let report = report("raw-put --keys 7 --val-size 100 --count 20");
    assert_eq!((&report["keys_per_worker"], &report["val_size"]), (&7.into(), &100.into()));
}

#[test]
fn unknown_workload_is_refused_with_the_known_names() {
    let (status, stderr) = status_and_stderr(&bench("raw-putt --workers 2"));
    assert_eq!(status, Some(2));
    assert_eq!(
        stderr,
        "coord bench: unknown workload \"raw-putt\": use one of raw-put raw-get \
         raw-get-stale raw-txn session-cycle mutex-uncontended mutex-contended election-cycle \
         election-handoff election-observe stm-transfer stm-counter rwlock-read rwlock-write \
         rwlock-mixed semaphore semaphore-contended barrier double-barrier\n"
    );
}

#[test]
fn flag_of_another_workload_is_refused() {
    for line in ["raw-put --hold 5ms", "session-cycle --keys 7", "mutex-contended --seed 1"] {
        let (status, stderr) =
            status_and_stderr(&bench(&format!("{line} --endpoint mem: --count 1")));
        assert_eq!(status, Some(2), "{line}");
        assert!(stderr.contains("unexpected argument"), "{line}: {stderr}");
    }
}

#[test]
fn invalid_value_is_refused_and_named() {
    for flag in ["--workers 0", "--duration 2", "--count many", "--conns -1"] {
        let (status, stderr) =
            status_and_stderr(&bench(&format!("raw-put --endpoint mem: {flag}")));
        assert_eq!(status, Some(2), "{flag}");
        let (name, _) = flag.split_once(' ').expect("a flag and its value");
        assert!(stderr.contains(name) || stderr.contains("'-1'"), "{flag}: {stderr}");
    }
}

#[test]
fn bench_without_workload_prints_help() {
    let (status, help) = status_and_stderr(&bench(""));
    assert_eq!(status, Some(2));
    assert!(help.contains("Workloads:") && help.contains("Exit status:"), "{help}");
}

#[test]
fn unreachable_endpoint_fails_the_run_and_is_named() {
    // A port without a listener.
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    drop(listener);
    let output = bench(&format!("raw-put --count 1 --endpoint {address}"));
    let (status, stderr) = status_and_stderr(&output);
    assert_eq!(status, Some(1));
    assert!(stderr.starts_with(&format!("coord bench: connect to {address}: ")), "{stderr}");
    assert!(output.stdout.is_empty(), "there is nothing to report");
}

#[test]
fn run_beyond_its_timeout_is_aborted() {
    let line = "mutex-uncontended --endpoint mem: --hold 1h --timeout 200ms";
    let output = bench(line);
    let expected = "coord bench: timed out after 200ms: see --timeout\n";
    assert_eq!(status_and_stderr(&output), (Some(3), expected.to_owned()));
    assert!(output.stdout.is_empty(), "there is nothing to report");
}

#[test]
fn run_without_completed_operations_fails() {
    let output = bench("raw-get --endpoint mem: --duration 0s");
    let (status, stderr) = status_and_stderr(&output);
    assert_eq!(status, Some(1));
    assert_eq!(stderr, "coord bench: no operation completed: give a longer --duration\n");
}

/// `script` creates the terminal.
#[test]
fn progress_bar_is_cleared_before_the_table() {
    let at_a_terminal = |line: &str, terminal: &str| {
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-f", "-c", line, "/dev/null"]).stdin(Stdio::null());
        script.env("COORD", env!("CARGO_BIN_EXE_coord")).env("SHELL", "/bin/sh");
        let output = script.env("TERM", terminal).output().expect("`script` is installed");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).expect("it is text")
    };
    let line = "\"$COORD\" bench raw-put --endpoint mem: --warmup 300ms --duration 600ms";
    let shown = at_a_terminal(line, "xterm");
    let (bars, table) = shown.split_once("raw-put on memory").expect("a table follows");
    assert!(bars.contains("  warm-up [") && bars.contains("measuring ["), "{bars:?}");
    // The second update of the measured phase shows more progress than the first.
    let percents: Vec<u32> = bars.split("measuring [").skip(1).filter_map(percent).collect();
    assert!(percents.len() >= 2 && percents.is_sorted() && percents[0] < percents[1], "{bars:?}");
    assert!(bars.ends_with("\r\u{1b}[2K"), "the bar is erased: {bars:?}");
    assert!(table.contains("operations in") && !table.contains('\u{1b}'), "{table:?}");

    let without_stderr = at_a_terminal(&format!("{line} 2> /dev/null"), "xterm");
    assert!(without_stderr.starts_with("raw-put on memory"), "{without_stderr:?}");
    let dumb = at_a_terminal(line, "dumb");
    assert!(dumb.starts_with("raw-put on memory"), "a dumb terminal cannot erase: {dumb:?}");
}

/// The percentage in one update of the bar.
fn percent(update: &str) -> Option<u32> {
    update.split_once('%')?.0.split_once(']')?.1.trim().parse().ok()
}

/// In the help, a heading applies to all flags that follow it.
#[test]
fn workload_help_lists_its_flags_under_options() {
    let help = bench("raw-put --help");
    let help = String::from_utf8(help.stdout).expect("it is text");
    let (options, store) = help.split_once("Store:").expect("the section on the store");
    assert!(options.contains("--workers") && options.contains("--val-size"), "{help}");
    assert!(store.contains("--endpoints") && !store.contains("--workers"), "{help}");
}
