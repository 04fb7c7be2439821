//! Names, values and usage errors on the command line, tested with the binary on a store in memory.

mod support;

use std::io::Write as _;
use std::process::{Output, Stdio};

use support::{coord, program, text};

/// Runs `coord` with these arguments, on an empty store in memory.
fn in_memory(arguments: &[&str]) -> Output {
    let (subcommand, rest) = arguments.split_first().expect("a subcommand");
    coord(&[&[*subcommand, "--endpoints", "mem:"], rest].concat())
}

/// The exit status, standard output and standard error.
fn result_of(output: Output) -> (Option<i32>, String, String) {
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Regression: `coord lock "$UNSET" -- …` was one lock for every script with that mistake.
#[test]
fn empty_name_is_a_usage_error() {
    for line in [
        &["lock", "", "--", "echo", "runs"][..],
        &["elect", "", "here", "--", "echo", "runs"],
        &["observe", "", "--once"],
        &["who", ""],
        &["break", "", "--yes"],
    ] {
        let (status, stdout, stderr) = result_of(in_memory(line));
        assert_eq!((status, stdout.as_str()), (Some(2), ""), "{line:?}");
        assert!(stderr.contains("the name is empty"), "{line:?}: {stderr}");
    }
    let value = result_of(in_memory(&["elect", "jobs", "", "--", "echo", "runs"]));
    assert_eq!(value, (Some(0), "runs\n".to_owned(), String::new()), "a value may be empty");
}

#[test]
fn name_starting_with_a_dash_is_read_after_dashes() {
    let key = |arguments: &[&str], variable: &str| {
        let script = format!("printf '%s' \"${variable}\"");
        let output = in_memory(&[arguments, &["--", "sh", "-c", &script]].concat());
        let (status, stdout, stderr) = result_of(output);
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{arguments:?}");
        stdout
    };
    assert!(key(&["lock", "--", "-x"], "COORD_LOCK_KEY").starts_with("-x/"));
    assert!(key(&["elect", "--", "-x", "-y"], "COORD_ELECTION_KEY").starts_with("-x/"));
    assert!(key(&["elect", "x", "--", "-y"], "COORD_ELECTION_KEY").starts_with("x/"));
    let (status, _, stderr) = result_of(in_memory(&["who", "--", "-x"]));
    assert!(status == Some(4) && stderr.contains("-x"), "{stderr}");
    let login = ["who", "jobs", "--user", "-app", "--password", "-secret"];
    assert_eq!(in_memory(&login).status.code(), Some(4));
}

#[test]
fn tip_for_a_name_with_a_dash_works() {
    for subcommand in ["lock", "elect", "who", "observe", "break"] {
        let (status, _, stderr) = result_of(in_memory(&[subcommand, "-x"]));
        assert!(status == Some(2) && stderr.contains("use '-- -x'"), "{stderr}");
    }
    for name in ["-xyz", "--xyz=1", "--xyz"] {
        let (_, _, stderr) = result_of(in_memory(&["lock", name, "--", "echo"]));
        assert!(stderr.contains(&format!("use '-- {name}'")), "{stderr}");
    }
    let (status, stdout, _) = result_of(in_memory(&["lock", "--", "-x", "--", "echo", "runs"]));
    assert_eq!((status, stdout.as_str()), (Some(0), "runs\n"));
}

/// Regression: the tip suggested to run the flag as a command.
#[test]
fn unknown_flag_gets_no_wrong_tip() {
    for line in [&["lock", "jobs", "-x", "--", "echo"][..], &["elect", "a", "b", "-x"]] {
        let (status, _, stderr) = result_of(in_memory(line));
        assert_eq!(status, Some(2), "{line:?}");
        assert!(stderr.contains("'-x' found") && !stderr.contains("tip"), "{stderr}");
    }
    let (_, _, stderr) = result_of(in_memory(&["who", "jobs", "-x"]));
    assert!(!stderr.contains("use '-- -x'"), "{stderr}");
    let (_, _, stderr) = result_of(in_memory(&["lock", "jobs", "--tll", "3s", "--", "echo"]));
    assert!(stderr.contains("similar argument exists: '--ttl'"), "{stderr}");
}

#[test]
fn command_without_dashes_gets_a_tip() {
    let (status, stdout, stderr) = result_of(in_memory(&["lock", "jobs", "echo", "hi"]));
    assert_eq!((status, stdout.as_str()), (Some(2), ""));
    let tip = "write a command after '--': coord lock --endpoints mem: jobs -- echo hi\n";
    assert!(stderr.contains(tip), "{stderr}");
    let (_, _, stderr) = result_of(in_memory(&["elect", "jobs", "here", "echo", "hi"]));
    assert!(stderr.contains("jobs here -- echo hi\n"), "{stderr}");
}

/// The command is not parsed as the missing name.
#[test]
fn missing_name_before_a_command_is_a_usage_error() {
    for (line, missing) in [
        (&["lock", "--", "echo", "runs"][..], "NAME is missing"),
        (&["lock", "--", "echo"], "NAME is missing"),
        (&["elect", "jobs", "--", "echo"], "VALUE is missing"),
        (&["elect", "--", "sh", "-c"], "NAME is missing"),
        (&["lock", "--", ""], "NAME is missing"),
    ] {
        let (status, stdout, stderr) = result_of(in_memory(line));
        assert_eq!((status, stdout.as_str()), (Some(2), ""), "{line:?}");
        assert!(stderr.contains(missing), "{line:?}: {stderr}");
    }
}

/// Regression: such characters reordered the line at a terminal, or ended it.
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
        let (_, stdout, stderr) = result_of(in_memory(line));
        let shown = stdout + &stderr;
        let raw = |character: char| name.contains(character) && !character.is_ascii_graphic();
        assert!(!shown.contains(raw), "{line:?}: {shown:?}");
        assert!(shown.contains("202e") || line.contains(&"--user"), "{line:?}: {shown:?}");
    }
}

#[test]
fn zero_ttl_is_refused_with_the_rule() {
    for ttl in ["0", "0s", "1500ms"] {
        let (status, _, stderr) = result_of(in_memory(&["lock", "jobs", "--ttl", ttl]));
        let rule = "a TTL must be a whole number of seconds, at least 1";
        assert!(status == Some(2) && stderr.contains(rule), "{stderr}");
    }
}

/// Regression: `coord elect --help` named `--try`, a flag of `coord lock`.
#[test]
fn help_names_only_flags_that_the_subcommand_has() {
    for subcommand in
        ["lock", "elect", "observe", "who", "list", "members", "break", "check", "serve"]
    {
        let help = text(coord(&[subcommand, "--help"]).stdout);
        let (options, rest) = help.split_once("Examples:").expect("it has examples");
        let described: Vec<_> =
            options.split_whitespace().filter(|word| word.starts_with("--")).collect();
        let is_flag = |word: &&str| word.starts_with("--") && word.len() > 2;
        // In an example, flags after `--` belong to the command.
        for line in rest.lines() {
            let own = line.split(" -- ").next().unwrap_or_default();
            for word in own.split(|c: char| !c.is_ascii_lowercase() && c != '-').filter(is_flag) {
                assert!(described.contains(&word), "{subcommand} has no {word}: {line}");
            }
        }
    }
}

/// Regression: the file was read twice, and a pipe is empty the second time.
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
        assert_eq!(result_of(output), (Some(0), String::new(), String::new()), "{subcommand:?}");
    }
}

/// Regression: an unknown scheme was detected while connecting, with exit status 1 or 125.
#[test]
fn endpoint_with_an_unknown_scheme_is_a_usage_error() {
    for line in [&["who", "jobs"][..], &["lock", "jobs", "--", "true"], &["list"]] {
        let (subcommand, rest) = line.split_first().expect("a subcommand");
        let flag = [&[*subcommand, "--endpoints", "htps://a:1"], rest].concat();
        let (status, _, stderr) = result_of(coord(&flag));
        assert_eq!(status, Some(2), "{flag:?}: {stderr}");
        assert!(stderr.contains("--endpoints") && stderr.contains("htps"), "{stderr}");
        let output = program().args(line).env("ETCDCTL_ENDPOINTS", "a:1,htps://a:1").output();
        let (status, _, stderr) = result_of(output.expect("the program is built"));
        assert_eq!(status, Some(2), "{line:?}: {stderr}");
        let named = stderr.contains("ETCDCTL_ENDPOINTS: ") && stderr.contains("\"htps\"");
        assert!(named, "{stderr}");
    }
}

#[test]
fn password_over_clear_text_is_a_usage_error() {
    let login = ["--user", "app", "--password", "secret", "--cacert", "/dev/null"];
    let line = [&["who", "jobs", "--endpoints", "http://127.0.0.1:1"], &login[..]].concat();
    let (status, _, stderr) = result_of(coord(&line));
    assert_eq!(status, Some(2), "{stderr}");
    let named = stderr.contains("--endpoints: ") && stderr.contains("clear text");
    assert!(named, "{stderr}");
}

#[test]
fn grace_that_is_too_long_is_refused_with_value_and_remedy() {
    let line = ["lock", "jobs", "--ttl", "10s", "--grace", "5s", "--", "true"];
    let (status, _, stderr) = result_of(in_memory(&line));
    assert_eq!(status, Some(2), "{stderr}");
    let message = "coord lock: invalid --grace 5s: must be at most 2.5s, a quarter of --ttl 10s: \
        shorten --grace, or lengthen --ttl\n";
    assert_eq!(stderr, message);
}

#[test]
fn lock_delay_with_a_fraction_is_refused() {
    for subcommand in [["lock", "jobs"].as_slice(), &["elect", "jobs", "me"]] {
        let line = [subcommand, &["--lock-delay", "1500ms", "--", "true"]].concat();
        let (status, _, stderr) = result_of(in_memory(&line));
        assert_eq!(status, Some(2), "{stderr}");
        assert!(stderr.contains("the time must be a whole number of seconds"), "{stderr}");
    }
}
