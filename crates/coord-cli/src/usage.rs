//! Usage errors of clap, with escaped arguments and correct tips.
//!
//! clap quotes arguments unescaped, and does not know that `lock` and `elect` accept names between
//! two `--` (see `positional`). Before an error is printed, this module replaces the tip:
//!
//! | command line | tip |
//! |---|---|
//! | `coord who -x` | use `-- -x` |
//! | `coord who jobs -x` | none: `who` takes no further argument, so `-x` is not a value |
//! | `coord lock jobs echo hi` | write the command after `--` |

use std::ffi::OsString;

use clap::Parser;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::Cli;
use crate::check::ERROR_STATUS;
use crate::text;

/// Parses the command line. If there is no subcommand to run, prints the error or the requested
/// help, and exits. The status of a usage error is 2, except for `check`, where 2 is a result.
pub(crate) fn parse() -> Cli {
    let arguments: Vec<_> = std::env::args_os().collect();
    Cli::try_parse_from(&arguments).unwrap_or_else(|error| {
        let error = correct(error, &arguments);
        let is_check = arguments.get(1).is_some_and(|word| word == "check");
        if is_check && error.use_stderr() {
            // As clap's own `exit`, a failed write to standard error is ignored.
            let _ = error.print();
            std::process::exit(i32::from(ERROR_STATUS));
        }
        error.exit()
    })
}

/// Escapes the arguments that an error quotes, and replaces its tip.
fn correct(mut error: clap::Error, arguments: &[OsString]) -> clap::Error {
    if error.kind() == ErrorKind::UnknownArgument {
        // clap suggests `-- -x` everywhere; `tip` suggests it where it works.
        error.remove(ContextKind::Suggested);
        if let Some(tip) = tip(&error, arguments) {
            let tip = StyledStr::from(text::escape(tip.as_bytes()));
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
        }
    }
    let quoted: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(raw) => Some((kind, text::escape(raw.as_bytes()))),
            _ => None,
        })
        .collect();
    for (kind, escaped) in quoted {
        error.insert(kind, ContextValue::String(escaped));
    }
    error
}

/// The tip for an unexpected argument; `None` if there is no remedy to suggest.
fn tip(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let is_unknown = |argument: &OsString| {
        let argument = argument.to_str().and_then(|argument| argument.strip_prefix(&**unknown));
        // clap reports one letter of `-xyz`, and only `--name` of `--name=value`.
        let is_letter = unknown.len() == 2 && unknown != "--" && unknown.starts_with('-');
        argument.is_some_and(|rest| rest.is_empty() || rest.starts_with('=') || is_letter)
    };
    let at = arguments.iter().skip(1).position(is_unknown)?;
    let (before, after) = arguments.split_at(at + 1);
    let unknown = after[0].to_str()?;
    let after: Vec<_> = after.iter().map(|word| word.to_string_lossy()).collect();
    if unknown.starts_with('-') {
        let without = Cli::try_parse_from([before, &arguments[at + 2..]].concat());
        let takes_value = match &without {
            Ok(cli) => cli.lacks_positional(),
            Err(error) => error.kind() == ErrorKind::MissingRequiredArgument,
        };
        return takes_value.then(|| format!("to pass '{unknown}' as a value, use '-- {unknown}'"));
    }
    let runs_commands = before.get(1).is_some_and(|word| word == "lock" || word == "elect");
    let end = after.iter().position(|word| word == "--").unwrap_or(after.len());
    (runs_commands && end == after.len()).then(|| {
        let before: Vec<_> = before.iter().skip(1).map(|word| word.to_string_lossy()).collect();
        format!("write a command after '--': coord {} -- {}", before.join(" "), after.join(" "))
    })
}
