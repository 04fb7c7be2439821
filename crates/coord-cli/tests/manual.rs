//! Help, manual pages, completions and usage errors, tested with the binary on a store in memory.

mod support;

use std::process::Command;

use support::{coord, text};

/// The subcommands that have a page in the guide.
const COMMANDS: [&str; 11] = [
    "lock", "elect", "observe", "who", "list", "members", "break", "queue", "check", "serve",
    "bench",
];

/// The standard output of a successful run.
fn stdout_of(arguments: &[&str]) -> String {
    let output = coord(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    text(output.stdout)
}

/// The long flags in a text, such as `--ttl`.
fn flags(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '-');
    let mut flags: Vec<_> = words.filter(|word| word.starts_with("--") && word.len() > 3).collect();
    flags.sort_unstable();
    flags.dedup();
    flags.into_iter().map(str::to_owned).collect()
}

#[test]
fn help_has_examples_and_exit_status_and_fits_a_terminal() {
    for command in COMMANDS {
        let help = stdout_of(&[command, "--help"]);
        assert!(help.contains("Examples:") && help.contains("Exit status:"), "{command}: {help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{command}: {line}");
        }
        assert!(!help.contains('\u{1b}'), "no colours without a terminal");
    }
    let help = stdout_of(&["--help"]);
    for command in COMMANDS {
        assert!(help.contains(&format!("  {command} ")), "{help}");
    }
}

/// The page of `coord queue` lists all flags of its subcommands.
#[test]
fn queue_subcommands_have_help_and_flags_in_the_guide() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide/coord-queue.md");
    let page = std::fs::read_to_string(path).expect("it has a page");
    for command in ["put", "take", "list"] {
        let help = stdout_of(&["queue", command, "--help"]);
        assert!(help.contains("Exit status:"), "{command}: {help}");
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{command}: {help}");
        let (options, _) = help.split_once("Examples:").expect("it has examples");
        let missing: Vec<_> = flags(options)
            .into_iter()
            .filter(|flag| !["--help", "--version"].contains(&flag.as_str()))
            .filter(|flag| !page.contains(flag.as_str()))
            .collect();
        assert!(missing.is_empty(), "{path} does not name {missing:?}");
    }
}

/// The page of a subcommand lists all flags and exit statuses of its help.
#[test]
fn guide_pages_name_every_flag_and_exit_status() {
    for command in COMMANDS {
        let path = format!("{}/../../docs/guide/coord-{command}.md", env!("CARGO_MANIFEST_DIR"));
        let page = std::fs::read_to_string(&path).expect("every subcommand has a page");
        let help = stdout_of(&[command, "--help"]);
        let (options, rest) = help.split_once("Examples:").expect("it has examples");
        for flag in flags(options) {
            let shared = ["--help", "--version"].contains(&flag.as_str());
            assert!(shared || page.contains(&flag), "{path} does not name {flag}");
        }
        let (_, statuses) = rest.split_once("Exit status:").expect("it lists exit statuses");
        for status in statuses.lines().filter_map(|line| line.split_whitespace().next()) {
            if status.parse::<u8>().is_ok() {
                assert!(page.contains(&format!("| {status} ")), "{path} does not list {status}");
            }
        }
    }
}

#[test]
fn completions_name_every_subcommand_in_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout_of(&["completions", shell]);
        for word in COMMANDS.into_iter().chain(["grace", "endpoints"]) {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn man_pages_exist_for_every_subcommand() {
    assert!(stdout_of(&["man"]).contains("coord\\-lock(1)"));
    for command in COMMANDS {
        let page = stdout_of(&["man", command]);
        assert!(page.contains(&format!(".TH coord-{command} 1")), "{page}");
        assert!(page.contains("Exit status:"), "{page}");
    }
    assert!(stdout_of(&["man", "bench", "raw-put"]).contains("workers"));
    for wrong in [&["man", "nothing"][..], &["man", "bench", "nothing"]] {
        assert_eq!(coord(wrong).status.code(), Some(2));
    }
}

/// clap_mangen omits the `--` and joins the lines of examples.
#[test]
fn man_pages_show_valid_command_lines() {
    let page = stdout_of(&["man", "lock"]);
    let synopsis = "\ncoord lock [OPTIONS] <NAME> [\\-\\- <CMD>...]\n";
    assert!(page.contains(synopsis), "{page}");
    assert!(page.contains(".SH EXTRA\n.nf\nExamples:\n") && page.ends_with(".fi\n"), "{page}");
    let title = format!(".TH coord-lock 1  \"coord {}\"", env!("CARGO_PKG_VERSION"));
    assert!(page.contains(&title), "{page}");
}

/// A pipe that `head -1` has closed, and a full disk.
#[test]
fn closed_or_full_output_causes_no_panic() {
    for arguments in [&["completions", "bash"][..], &["man"], &["man", "lock"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe can be created");
        drop(reader);
        let full =
            std::fs::OpenOptions::new().write(true).open("/dev/full").expect("the device exists");
        let mut program = Command::new(env!("CARGO_BIN_EXE_coord"));
        let output = program.args(arguments).stdout(writer).output().expect("it is built");
        assert_eq!((output.status.code(), text(output.stderr)), (Some(0), String::new()));
        let output = program.stdout(full).output().expect("it is built");
        let expected = format!("coord {}: standard output: No space left", arguments[0]);
        let stderr = text(output.stderr);
        assert!(output.status.code() == Some(1) && stderr.starts_with(&expected), "{stderr}");
    }
}

#[test]
fn empty_variables_count_as_not_set() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_coord"));
    for name in ["USER", "PASSWORD", "CACERT", "CERT", "KEY", "DIAL_TIMEOUT"] {
        program.env(format!("ETCDCTL_{name}"), "");
    }
    let output = program.args(["who", "jobs", "--endpoints", "mem:"]).output();
    let output = output.expect("the program is built");
    assert_eq!(output.status.code(), Some(4), "{}", text(output.stderr));
}

#[test]
fn invalid_command_line_is_refused_before_any_effect() {
    for line in [
        "lock",
        "lock a b",
        "lock a --ttl 0s",
        "lock a --ttl 1500ms",
        "lock a --ttl soon",
        "lock a --try --timeout 1s",
        "lock a --json -- true",
        "lock a --timeout soon",
        "lock a --grace 3s --ttl 10s --endpoints a:1 -- true",
        "lock a --endpoints a -- true",
        "lock a --endpoints a:1 --cert a.pem -- true",
        "elect a b --endpoints a:1 --user app",
        "elect a",
        "elect a b c",
        "elect a b --try",
        "observe",
        "observe a --ttl 3s",
        "observe a --endpoints a:65536",
        "who",
        "who a --endpoints mem:,a:1",
        "who a --endpoints a:1 --password secret",
        "serve --listen :2379",
        "serve --listen 127.0.0.1",
        "completions tcl",
    ] {
        let output = coord(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{line}");
    }
}

#[test]
fn subcommands_run_on_the_memory_store() {
    let mem = ["--endpoints", "mem:"];
    let run = |arguments: &[&str], script: &str| {
        let output = coord(&[arguments, &mem, &["--", "sh", "-c", script]].concat());
        (output.status.code(), text(output.stdout))
    };
    let script = "echo $COORD_LOCK_KEY; exit 6";
    let (status, key) = run(&["lock", "jobs"], script);
    assert!(status == Some(6) && key.starts_with("jobs/"), "{status:?}, {key}");
    let (status, _) = run(&["lock", "jobs", "--try", "--timeout", "1s"], script);
    assert_eq!(status, Some(2));
    let (status, token) = run(&["elect", "jobs", "here"], "echo $COORD_FENCING_TOKEN");
    assert!(status == Some(0) && token.trim().parse::<i64>().is_ok(), "{status:?}, {token}");
    let once = coord(&[&["observe", "jobs", "--once"], &mem[..]].concat());
    assert_eq!((once.status.code(), text(once.stdout)), (Some(4), "-\n".to_owned()));
    let who = coord(&[&["who", "jobs"], &mem[..]].concat());
    assert_eq!((who.status.code(), text(who.stdout)), (Some(4), String::new()));
}
