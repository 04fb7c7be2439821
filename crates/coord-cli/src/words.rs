//! Names and values on the command line.
//!
//! A name is never empty: `coord lock "$UNSET" -- …` would take one lock for every script with that
//! mistake. A word that begins with `-` is a flag before `--` and a name or value after it:
//!
//! ```text
//! coord who -- -n                       who holds `-n`
//! coord lock -- -n -- ./backup.sh       run backup.sh while holding `-n`
//! coord elect jobs -- -5 -- ./job       run job while leading `jobs` with the value `-5`
//! coord lock -- ./backup.sh             refused: the name is missing
//! ```
//!
//! The last line is why a word is taken from behind `--` only if the first such word begins with
//! `-`: any other name can stand before `--`, so it was forgotten.

use std::ffi::OsString;

use crate::end::End;

/// Parses a NAME for clap.
pub(crate) fn name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Err("the name is empty: is the variable set that it comes from?");
    }
    Ok(text.to_owned())
}

/// A positional argument that may also stand behind `--`.
#[derive(Debug)]
pub(crate) struct Word {
    /// As the usage line shows it.
    pub(crate) placeholder: &'static str,
    /// `None` if it was not given before `--`.
    pub(crate) given: Option<String>,
    /// Checks it, as clap does before `--`.
    pub(crate) parse: fn(&str) -> Result<String, &'static str>,
}

/// Completes the words with those behind `--`, and takes these out of the command.
///
/// # Errors
/// The command line is wrong: a word is missing, or not UTF-8, or an empty name.
pub(crate) fn completed<const N: usize>(
    words: [Word; N],
    command: &mut Vec<OsString>,
) -> Result<[String; N], End> {
    let missing: Vec<_> = words.iter().filter(|word| word.given.is_none()).collect();
    let end = command.iter().position(|word| word == "--").unwrap_or(command.len());
    let can_be_words = end == missing.len()
        && command.first().is_none_or(|first| first.as_encoded_bytes().starts_with(b"-"));
    if let (Some(first), false) = (missing.first(), can_be_words) {
        let placeholder = first.placeholder;
        return Err(End::misused(format!(
            "{placeholder} is missing: write it before `--`, and one that begins with `-` as in \
            `-- -x -- CMD`"
        )));
    }
    let behind: Vec<_> = match missing.len() {
        0 => Vec::new(),
        _ => command.drain(..(end + 1).min(command.len())).collect(),
    };
    let mut behind = behind.into_iter();
    let mut all = Vec::with_capacity(N);
    for Word { placeholder, given, parse } in words {
        all.push(match given {
            Some(given) => given,
            None => {
                let word = behind.next().unwrap_or_default();
                let word = word.into_string().map_err(|word| {
                    End::misused(format!("{placeholder} is not UTF-8: {}", word.display()))
                })?;
                parse(&word).map_err(|why| End::misused(format!("{placeholder}: {why}")))?
            }
        });
    }
    Ok(all.try_into().expect("one for each word"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(placeholder: &'static str, given: Option<&str>) -> Word {
        Word { placeholder, given: given.map(str::to_owned), parse: name }
    }

    /// The words, and what is left as the command.
    fn parsed(given: [Option<&str>; 2], behind: &str) -> Option<String> {
        let mut command: Vec<OsString> = behind.split_whitespace().map(OsString::from).collect();
        let words = completed([word("NAME", given[0]), word("VALUE", given[1])], &mut command);
        let command: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
        words.ok().map(|[name, value]| format!("{name} {value}: {}", command.join(" ")))
    }

    #[test]
    fn positionals_after_dashes_complete_missing_ones() {
        let both = [Some("a"), Some("b")];
        assert_eq!(parsed(both, "x -y -- z").as_deref(), Some("a b: x -y -- z"));
        assert_eq!(parsed([Some("a"), None], "-5 -- x").as_deref(), Some("a -5: x"));
        assert_eq!(parsed([Some("a"), None], "-5").as_deref(), Some("a -5: "));
        assert_eq!(parsed([None, None], "-n v -- x -- y").as_deref(), Some("-n v: x -- y"));
    }

    #[test]
    fn command_is_not_parsed_as_a_missing_positional() {
        for behind in ["", "./x", "sh -c", "-n", "-n v w", "-- x", "-n -- x"] {
            assert_eq!(parsed([None, None], behind), None, "{behind}");
        }
        for behind in ["./x", "./x -v", "-v x"] {
            assert_eq!(parsed([Some("a"), None], behind), None, "{behind}");
        }
    }
}
