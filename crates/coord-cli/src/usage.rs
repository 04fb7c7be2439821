//! Command lines that clap refuses: its messages, with tips that work.
//!
//! clap quotes arguments as they are, and knows nothing of the second `--` that ends a name. What
//! it gets wrong is corrected in the error before it is printed:
//!
//! | the command line | the tip |
//! |---|---|
//! | `coord who -x` | use `-- -x` |
//! | `coord who jobs -x` | none: there is no further argument for which `-x` could stand |
//! | `coord lock jobs echo hi` | write the command behind `--` |

use std::ffi::OsString;

use clap::Parser;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::Cli;
use crate::text;

/// Parses the command line; prints and exits where it is wrong, or asks for help.
pub(crate) fn parsed() -> Cli {
    let arguments: Vec<_> = std::env::args_os().collect();
    Cli::try_parse_from(&arguments).unwrap_or_else(|error| corrected(error, &arguments).exit())
}

fn corrected(mut error: clap::Error, arguments: &[OsString]) -> clap::Error {
    if error.kind() == ErrorKind::UnknownArgument {
        // Written anew below, where it is right.
        error.remove(ContextKind::Suggested);
        if let Some(tip) = tip(&error, arguments) {
            let tip = StyledStr::from(text::line(tip.as_bytes()));
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
        }
    }
    let quoted: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(raw) => Some((kind, text::line(raw.as_bytes()))),
            _ => None,
        })
        .collect();
    for (kind, escaped) in quoted {
        error.insert(kind, ContextValue::String(escaped));
    }
    error
}

/// What to do about an argument that is one too many.
fn tip(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let is_unknown = |argument: &OsString| {
        let argument = argument.to_str().and_then(|argument| argument.strip_prefix(&**unknown));
        // clap names one letter of `-xyz`, and `--name` of `--name=value`.
        let is_letter = unknown.len() == 2 && unknown != "--" && unknown.starts_with('-');
        argument.is_some_and(|rest| rest.is_empty() || rest.starts_with('=') || is_letter)
    };
    let at = arguments.iter().skip(1).position(is_unknown)?;
    let (before, after) = arguments.split_at(at + 1);
    let unknown = after[0].to_str()?;
    let after: Vec<_> = after.iter().map(|word| word.to_string_lossy()).collect();
    if unknown.starts_with('-') {
        let without = Cli::try_parse_from([before, &arguments[at + 2..]].concat());
        let is_room = match &without {
            Ok(cli) => cli.lacks_a_word(),
            Err(error) => error.kind() == ErrorKind::MissingRequiredArgument,
        };
        return is_room.then(|| format!("to pass '{unknown}' as a value, use '-- {unknown}'"));
    }
    let runs_commands = before.get(1).is_some_and(|word| word == "lock" || word == "elect");
    let end = after.iter().position(|word| word == "--").unwrap_or(after.len());
    (runs_commands && end == after.len()).then(|| {
        let before: Vec<_> = before.iter().skip(1).map(|word| word.to_string_lossy()).collect();
        format!("write a command behind '--': coord {} -- {}", before.join(" "), after.join(" "))
    })
}
