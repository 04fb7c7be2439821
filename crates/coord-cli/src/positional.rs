//! Names and values on the command line, before and after `--`.
//!
//! A name must not be empty: with an unset variable, `coord lock "$NAME" -- …` would be one lock
//! for every script with that mistake. A word that begins with `-` is a flag before `--`, and a
//! name or value after it:
//!
//! ```text
//! coord who -- -n                       shows the queue of `-n`
//! coord lock -- -n -- ./backup.sh       runs backup.sh while it holds `-n`
//! coord elect jobs -- -5 -- ./job       runs job while it leads `jobs` with the value `-5`
//! coord lock -- ./backup.sh             refused: the name is missing
//! ```
//!
//! The last example shows the rule for words after `--`: they are names and values only if the
//! first word begins with `-`. Any other name must be written before `--`.

use std::ffi::OsString;

use crate::exit::ExitError;

/// Parses a NAME: the value parser of clap arguments.
pub(crate) fn name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Err("the name is empty: write a name, or set the variable that it comes from");
    }
    Ok(text.to_owned())
}

/// A positional argument that may be given before or after `--`.
#[derive(Debug)]
pub(crate) struct Positional {
    /// Its name in the usage line.
    pub(crate) placeholder: &'static str,
    /// The argument before `--`; `None` if it was not given there.
    pub(crate) given: Option<String>,
    /// The check of an argument after `--`, the same that clap makes before `--`.
    pub(crate) parse: fn(&str) -> Result<String, &'static str>,
}

/// Completes the positional arguments with words after `--`, and removes these words from the
/// command.
///
/// # Errors
/// A usage error: an argument is missing, is not UTF-8, or is an empty name.
pub(crate) fn complete<const N: usize>(
    positionals: [Positional; N],
    command: &mut Vec<OsString>,
) -> Result<[String; N], ExitError> {
    let missing: Vec<_> = positionals.iter().filter(|argument| argument.given.is_none()).collect();
    let end = command.iter().position(|word| word == "--").unwrap_or(command.len());
    let can_be_positionals = end == missing.len()
        && command.first().is_none_or(|first| first.as_encoded_bytes().starts_with(b"-"));
    if let (Some(first), false) = (missing.first(), can_be_positionals) {
        let placeholder = first.placeholder;
        return Err(ExitError::usage(format!(
            "{placeholder} is missing: write it before `--`; if it begins with `-`, write \
            `-- -x -- CMD`"
        )));
    }
    let after: Vec<_> = match missing.len() {
        0 => Vec::new(),
        _ => command.drain(..(end + 1).min(command.len())).collect(),
    };
    let mut after = after.into_iter();
    let mut all = Vec::with_capacity(N);
    for Positional { placeholder, given, parse } in positionals {
        all.push(match given {
            Some(given) => given,
            None => {
                let word = after.next().unwrap_or_default();
                let word = word.into_string().map_err(|word| {
                    ExitError::usage(format!("{placeholder} is not UTF-8: {}", word.display()))
                })?;
                parse(&word).map_err(|why| ExitError::usage(format!("{placeholder}: {why}")))?
            }
        });
    }
    Ok(all.try_into().expect("one for each argument"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positional(placeholder: &'static str, given: Option<&str>) -> Positional {
        Positional { placeholder, given: given.map(str::to_owned), parse: name }
    }

    /// Parses a NAME and a VALUE, `given` before `--`, with the words `after` it. Returns both and
    /// the remaining command.
    fn parse(given: [Option<&str>; 2], after: &str) -> Option<String> {
        let mut command: Vec<OsString> = after.split_whitespace().map(OsString::from).collect();
        let both = [positional("NAME", given[0]), positional("VALUE", given[1])];
        let parsed = complete(both, &mut command);
        let command: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
        parsed.ok().map(|[name, value]| format!("{name} {value}: {}", command.join(" ")))
    }

    #[test]
    fn positionals_after_dashes_complete_missing_ones() {
        let both = [Some("a"), Some("b")];
        assert_eq!(parse(both, "x -y -- z").as_deref(), Some("a b: x -y -- z"));
        assert_eq!(parse([Some("a"), None], "-5 -- x").as_deref(), Some("a -5: x"));
        assert_eq!(parse([Some("a"), None], "-5").as_deref(), Some("a -5: "));
        assert_eq!(parse([None, None], "-n v -- x -- y").as_deref(), Some("-n v: x -- y"));
    }

    #[test]
    fn command_is_not_parsed_as_a_missing_positional() {
        for after in ["", "./x", "sh -c", "-n", "-n v w", "-- x", "-n -- x"] {
            assert_eq!(parse([None, None], after), None, "{after}");
        }
        for after in ["./x", "./x -v", "-v x"] {
            assert_eq!(parse([Some("a"), None], after), None, "{after}");
        }
    }
}
