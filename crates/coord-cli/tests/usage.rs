//! Names, values and command lines that are easily mistaken, through the program itself. In memory.

mod support;

use std::io::Write as _;
use std::process::{Output, Stdio};

use support::{coord, program, text};

/// Runs `coord` with these arguments, on an empty store in memory.
fn in_memory(arguments: &[&str]) -> Output {
    let (subcommand, rest) = arguments.split_first().expect("a subcommand");
    coord(&[&[*subcommand, "--endpoints", "mem:"], rest].concat())
}

/// The exit status and what was printed on either stream.
fn ended(output: Output) -> (Option<i32>, String, String) {
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// `coord lock "$UNSET" -- …` took one lock for every script with that mistake.
#[test]
fn empty_name_is_a_usage_error() {
    for line in [
        &["lock", "", "--", "echo", "runs"][..],
        &["elect", "", "here", "--", "echo", "runs"],
        &["observe", "", "--once"],
        &["who", ""],
        &["break", "", "--yes"],
    ] {
        let (status, printed, complaint) = ended(in_memory(line));
        assert_eq!((status, printed.as_str()), (Some(2), ""), "{line:?}");
        assert!(complaint.contains("the name is empty"), "{line:?}: {complaint}");
    }
    let value = ended(in_memory(&["elect", "jobs", "", "--", "echo", "runs"]));
    assert_eq!(value, (Some(0), "runs\n".to_owned(), String::new()), "a value may be empty");
}

#[test]
fn name_starting_with_a_dash_is_read_after_dashes() {
    let key = |arguments: &[&str], variable: &str| {
        let script = format!("printf '%s' \"${variable}\"");
        let output = in_memory(&[arguments, &["--", "sh", "-c", &script]].concat());
        let (status, printed, complaint) = ended(output);
        assert_eq!((status, complaint.as_str()), (Some(0), ""), "{arguments:?}");
        printed
    };
    assert!(key(&["lock", "--", "-x"], "COORD_LOCK_KEY").starts_with("-x/"));
    assert!(key(&["elect", "--", "-x", "-y"], "COORD_ELECTION_KEY").starts_with("-x/"));
    assert!(key(&["elect", "x", "--", "-y"], "COORD_ELECTION_KEY").starts_with("x/"));
    let (status, _, complaint) = ended(in_memory(&["who", "--", "-x"]));
    assert!(status == Some(4) && complaint.contains("-x"), "{complaint}");
    let login = ["who", "jobs", "--user", "-app", "--password", "-secret"];
    assert_eq!(in_memory(&login).status.code(), Some(4));
}

#[test]
fn tip_for_a_name_with_a_dash_works() {
    for subcommand in ["lock", "elect", "who", "observe", "break"] {
        let (status, _, complaint) = ended(in_memory(&[subcommand, "-x"]));
        assert!(status == Some(2) && complaint.contains("use '-- -x'"), "{complaint}");
    }
    for name in ["-xyz", "--xyz=1", "--xyz"] {
        let (_, _, complaint) = ended(in_memory(&["lock", name, "--", "echo"]));
        assert!(complaint.contains(&format!("use '-- {name}'")), "{complaint}");
    }
    let (status, printed, _) = ended(in_memory(&["lock", "--", "-x", "--", "echo", "runs"]));
    assert_eq!((status, printed.as_str()), (Some(0), "runs\n"));
}

/// The tip was to run the flag as a command.
#[test]
fn unknown_flag_gets_no_wrong_tip() {
    for line in [&["lock", "jobs", "-x", "--", "echo"][..], &["elect", "a", "b", "-x"]] {
        let (status, _, complaint) = ended(in_memory(line));
        assert_eq!(status, Some(2), "{line:?}");
        assert!(complaint.contains("'-x' found") && !complaint.contains("tip"), "{complaint}");
    }
    let (_, _, complaint) = ended(in_memory(&["who", "jobs", "-x"]));
    assert!(!complaint.contains("use '-- -x'"), "{complaint}");
    let (_, _, complaint) = ended(in_memory(&["lock", "jobs", "--tll", "3s", "--", "echo"]));
    assert!(complaint.contains("similar argument exists: '--ttl'"), "{complaint}");
}

#[test]
fn command_without_dashes_gets_a_tip() {
    let (status, printed, complaint) = ended(in_memory(&["lock", "jobs", "echo", "hi"]));
    assert_eq!((status, printed.as_str()), (Some(2), ""));
    let tip = "write a command behind '--': coord lock --endpoints mem: jobs -- echo hi\n";
    assert!(complaint.contains(tip), "{complaint}");
    let (_, _, complaint) = ended(in_memory(&["elect", "jobs", "here", "echo", "hi"]));
    assert!(complaint.contains("jobs here -- echo hi\n"), "{complaint}");
}

/// The command is not taken for the name that was forgotten.
#[test]
fn missing_name_before_a_command_is_a_usage_error() {
    for (line, missing) in [
        (&["lock", "--", "echo", "runs"][..], "NAME is missing"),
        (&["lock", "--", "echo"], "NAME is missing"),
        (&["elect", "jobs", "--", "echo"], "VALUE is missing"),
        (&["elect", "--", "sh", "-c"], "NAME is missing"),
        (&["lock", "--", ""], "NAME is missing"),
    ] {
        let (status, printed, complaint) = ended(in_memory(line));
        assert_eq!((status, printed.as_str()), (Some(2), ""), "{line:?}");
        assert!(complaint.contains(missing), "{line:?}: {complaint}");
    }
}

/// They reordered what a terminal shows, or ended the line.
#[test]
fn invisible_characters_are_escaped_wherever_a_name_is_printed() {
    let name = "a\u{202e}b\u{2028}c\u{200b}\u{1b}[31m";
    let flag = format!("--{name}");
    let lines: [&[&str]; 11] = [
        &["who", name],
        &["who", name, "--json"],
        &["list", name],
        &["list", name, "--json"],
        &["break", name, "--yes"],
        &["lock", "jobs", "--", name],
        &["lock", "jobs", name],
        &["who", "jobs", "--user", name],
        &["who", "jobs", "--connect-timeout", name],
        &["who", "jobs", &flag],
        &["lock", "jobs", "--ttl", name],
    ];
    for line in lines {
        let (_, printed, complaint) = ended(in_memory(line));
        let shown = printed + &complaint;
        let raw = |character: char| name.contains(character) && !character.is_ascii_graphic();
        assert!(!shown.contains(raw), "{line:?}: {shown:?}");
        assert!(shown.contains("202e") || line.contains(&"--user"), "{line:?}: {shown:?}");
    }
}

#[test]
fn zero_ttl_is_refused_with_the_rule() {
    for ttl in ["0", "0s", "1500ms"] {
        let (status, _, complaint) = ended(in_memory(&["lock", "jobs", "--ttl", ttl]));
        let rule = "a time to live must be a whole number of seconds, at least 1";
        assert!(status == Some(2) && complaint.contains(rule), "{complaint}");
    }
}

/// `coord elect --help` listed `--try`, which it has not.
#[test]
fn help_names_only_flags_that_the_subcommand_has() {
    for subcommand in ["lock", "elect", "observe", "who", "list", "break", "serve"] {
        let help = text(coord(&[subcommand, "--help"]).stdout);
        let (options, rest) = help.split_once("Examples:").expect("it has examples");
        let described: Vec<_> =
            options.split_whitespace().filter(|word| word.starts_with("--")).collect();
        let is_flag = |word: &&str| word.starts_with("--") && word.len() > 2;
        // Of the commands in the examples, only what stands before `--` is for coord.
        for line in rest.lines() {
            let own = line.split(" -- ").next().unwrap_or_default();
            for word in own.split(|c: char| !c.is_ascii_lowercase() && c != '-').filter(is_flag) {
                assert!(described.contains(&word), "{subcommand} has no {word}: {line}");
            }
        }
    }
}

/// The file was read twice, and a pipe is empty the second time.
#[test]
fn password_file_that_is_a_pipe_is_read_once() {
    for subcommand in [&["lock", "jobs"][..], &["elect", "jobs", "here"]] {
        let mut command = program();
        command.args(subcommand).args(["--endpoints", "mem:", "--user", "app"]);
        command.args(["--password-file", "/dev/stdin", "--", "true"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program is built");
        let mut input = child.stdin.take().expect("it was piped");
        input.write_all(b"secret\n").expect("the program reads it");
        drop(input);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(ended(output), (Some(0), String::new(), String::new()), "{subcommand:?}");
    }
}

/// The scheme was found to be wrong only while connecting, with exit status 1 or 125.
#[test]
fn endpoint_with_an_unknown_scheme_is_a_usage_error() {
    for line in [&["who", "jobs"][..], &["lock", "jobs", "--", "true"], &["list"]] {
        let (subcommand, rest) = line.split_first().expect("a subcommand");
        let flag = [&[*subcommand, "--endpoints", "htps://a:1"], rest].concat();
        let (status, _, complaint) = ended(coord(&flag));
        assert_eq!(status, Some(2), "{flag:?}: {complaint}");
        assert!(complaint.contains("--endpoints") && complaint.contains("htps"), "{complaint}");
        let output = program().args(line).env("ETCDCTL_ENDPOINTS", "a:1,htps://a:1").output();
        let (status, _, complaint) = ended(output.expect("the program is built"));
        assert_eq!(status, Some(2), "{line:?}: {complaint}");
        let named = complaint.contains("ETCDCTL_ENDPOINTS: ") && complaint.contains("\"htps\"");
        assert!(named, "{complaint}");
    }
}

#[test]
fn password_over_clear_text_is_a_usage_error() {
    let login = ["--user", "app", "--password", "secret", "--cacert", "/dev/null"];
    let line = [&["who", "jobs", "--endpoints", "http://127.0.0.1:1"], &login[..]].concat();
    let (status, _, complaint) = ended(coord(&line));
    assert_eq!(status, Some(2), "{complaint}");
    let named = complaint.contains("--endpoints: ") && complaint.contains("clear text");
    assert!(named, "{complaint}");
}

#[test]
fn grace_that_is_too_long_is_refused_with_value_and_remedy() {
    let line = ["lock", "jobs", "--ttl", "10s", "--grace", "5s", "--", "true"];
    let (status, _, complaint) = ended(in_memory(&line));
    assert_eq!(status, Some(2), "{complaint}");
    let message = "coord lock: invalid --grace 5s: must be at most 2.5s, a quarter of --ttl 10s: \
        shorten --grace, or lengthen --ttl\n";
    assert_eq!(complaint, message);
}
