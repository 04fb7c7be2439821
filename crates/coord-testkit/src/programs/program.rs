//! Programs: transactions as data, with a text form that can be saved and read again.
//!
//! ```text
//! serializable: r(x) w(y)              read x, put y
//! read-committed: range(p/) d(p/a)     read every key that starts with p/, delete p/a
//! repeatable-reads: append(x) abort    add to the list in x, then return an error
//! external: w(x) d(y)                  two requests of a client without transactions
//! serializable: r(a%20b) range(%)      read "a b", read every key
//! ```

use std::fmt;
use std::str::FromStr;

use coord_core::stm::Isolation;

/// The word for a program without an isolation level.
const EXTERNAL: &str = "external";

/// One operation of a [`Program`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ProgramOperation {
    /// `r(x)`: reads the key.
    Get(String),
    /// `w(x)`: puts the key, with a value of [`PutValues`](super::PutValues).
    Put(String),
    /// `d(x)`: deletes the key.
    Delete(String),
    /// `range(p/)`: reads every key that starts with the prefix.
    Range(String),
    /// `rev(x)`: reads the mod revision of the key.
    RevisionOf(String),
    /// `append(x)`: reads a list, and puts it with one more value of
    /// [`PutValues`](super::PutValues).
    Append(String),
    /// `abort`: returns an error. The operations after it do not run.
    Abort,
}

impl ProgramOperation {
    /// The key or the prefix; `None` of an abort.
    #[must_use]
    pub const fn key(&self) -> Option<&String> {
        match self {
            Self::Get(key)
            | Self::Put(key)
            | Self::Delete(key)
            | Self::Range(key)
            | Self::RevisionOf(key)
            | Self::Append(key) => Some(key),
            Self::Abort => None,
        }
    }

    /// The same operation on another key.
    #[must_use]
    pub(super) fn on(&self, key: &str) -> Self {
        let key = key.to_owned();
        match self {
            Self::Get(_) => Self::Get(key),
            Self::Put(_) => Self::Put(key),
            Self::Delete(_) => Self::Delete(key),
            Self::Range(_) => Self::Range(key),
            Self::RevisionOf(_) => Self::RevisionOf(key),
            Self::Append(_) => Self::Append(key),
            Self::Abort => Self::Abort,
        }
    }
}

impl fmt::Display for ProgramOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get(key) => write!(f, "r({})", escaped(key)),
            Self::Put(key) => write!(f, "w({})", escaped(key)),
            Self::Delete(key) => write!(f, "d({})", escaped(key)),
            Self::Range(prefix) => write!(f, "range({})", escaped(prefix)),
            Self::RevisionOf(key) => write!(f, "rev({})", escaped(key)),
            Self::Append(key) => write!(f, "append({})", escaped(key)),
            Self::Abort => f.write_str("abort"),
        }
    }
}

impl FromStr for ProgramOperation {
    type Err = ParseProgramError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || {
            ParseProgramError::new(text, "r(x), w(x), d(x), range(p/), rev(x), append(x), abort")
        };
        if text == "abort" {
            return Ok(Self::Abort);
        }
        let (name, key) = text
            .strip_suffix(')')
            .and_then(|text| text.split_once('('))
            .filter(|(_, key)| !key.is_empty() && !key.contains(['(', ')']))
            .ok_or_else(error)?;
        let key = unescaped(key).ok_or_else(error)?;
        match name {
            "r" => Ok(Self::Get(key)),
            "w" => Ok(Self::Put(key)),
            "d" => Ok(Self::Delete(key)),
            "range" => Ok(Self::Range(key)),
            "rev" => Ok(Self::RevisionOf(key)),
            "append" => Ok(Self::Append(key)),
            _ => Err(error()),
        }
    }
}

/// A key as it is written in a text: white space, parentheses, control characters and `%` as their
/// bytes, such as `%20`, and the empty key as `%`.
pub(super) fn escaped(key: &str) -> String {
    if key.is_empty() {
        return "%".to_owned();
    }
    let mut text = String::with_capacity(key.len());
    for c in key.chars() {
        if c.is_whitespace() || c.is_control() || "()%".contains(c) {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).bytes();
            text.extend(bytes.map(|byte| format!("%{byte:02x}")));
        } else {
            text.push(c);
        }
    }
    text
}

/// The key that [`escaped`] has written; `None` if an escape is wrong.
pub(super) fn unescaped(text: &str) -> Option<String> {
    if text == "%" {
        return Some(String::new());
    }
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// A transaction as data: its isolation level and its operations.
///
/// ```
/// use coord_core::stm::Isolation;
/// use coord_testkit::programs::{ProgramOperation, Program};
///
/// let program: Program = "serializable: r(x) w(y)".parse()?;
/// assert_eq!(program.isolation, Some(Isolation::Serializable));
/// assert_eq!(program.operations[1], ProgramOperation::Put("y".to_owned()));
/// assert_eq!(program.to_string(), "serializable: r(x) w(y)");
/// # Ok::<_, coord_testkit::programs::ParseProgramError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "callers construct programs")]
pub struct Program {
    /// The level; `None` for a client without transactions, which sends each operation as one
    /// request, and an append as a read and a put.
    pub isolation: Option<Isolation>,
    /// The operations, in order.
    pub operations: Vec<ProgramOperation>,
}

impl Program {
    /// A transaction.
    #[must_use]
    pub fn new(
        isolation: Isolation,
        operations: impl IntoIterator<Item = ProgramOperation>,
    ) -> Self {
        Self { isolation: Some(isolation), operations: operations.into_iter().collect() }
    }

    /// Whether no operation writes.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        use ProgramOperation::{Append, Delete, Put};
        !self.operations.iter().any(|operation| matches!(operation, Put(_) | Delete(_) | Append(_)))
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.isolation {
            Some(isolation) => write!(f, "{isolation}:")?,
            None => write!(f, "{EXTERNAL}:")?,
        }
        self.operations.iter().try_for_each(|operation| write!(f, " {operation}"))
    }
}

impl FromStr for Program {
    type Err = ParseProgramError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (level, operations) = text
            .split_once(':')
            .ok_or_else(|| ParseProgramError::new(text, "serializable: r(x)"))?;
        let level = level.trim();
        let isolation = match level.parse() {
            Ok(isolation) => Some(isolation),
            Err(_) if level == EXTERNAL => None,
            Err(_) => return Err(ParseProgramError::new(level, "an isolation level, external")),
        };
        let operations = operations.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { isolation, operations })
    }
}

/// The error of a text that is not a program, a case or a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid text {text:?}: must look like {expected}")]
pub struct ParseProgramError {
    text: String,
    expected: &'static str,
}

impl ParseProgramError {
    pub(super) fn new(text: &str, expected: &'static str) -> Self {
        Self { text: text.to_owned(), expected }
    }
}
