//! The lock or leadership that is held, and the exit statuses of `coord lock` and `coord elect`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

use anyhow::Error;
use coord_core::error::PrimitiveError;
use coord_core::queue::Contender;

use crate::end::{End, complain};

/// What was held, or the position in the queue, is lost.
pub(super) const LOST: u8 = 122;
/// Another client holds it, and `--try` does not wait.
pub(super) const TAKEN: u8 = 123;
/// `--timeout` passed.
pub(super) const TIMED_OUT: u8 = 124;
/// This program failed: the store cannot be reached, for one.
pub(super) const FAILED: u8 = 125;

/// For the help of both subcommands: `$only` stands for what one of them adds.
macro_rules! exit_status {
    ($only:literal) => {
        concat!(
            "\
Exit status:
  that of CMD, or 128 + n if signal n ended it; and if it did not come to its end:
    0  without CMD: held until a signal came, and given back
    2  the command line is wrong
  122  lost: CMD was ended
",
            $only,
            "  124  not had in time (--timeout)
  125  coord failed: the store cannot be reached, for one
  126  CMD cannot be run
  127  CMD is not there
  128 + n  signal n came while it was waited for"
        )
    };
}
pub(crate) use exit_status;

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Patience {
    /// As `--timeout` says.
    Wait,
    /// Take it if it is free.
    Try,
}

/// What is stood in line for.
#[derive(Debug)]
pub(crate) struct Stake {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// What others read under the key.
    pub(crate) value: String,
    pub(crate) patience: Patience,
    /// How long it is held even if the command ends sooner.
    pub(crate) hold_at_least: Option<Duration>,
    /// Whether it is waited for again after a loss.
    pub(crate) again: bool,
}

/// What being first in the line means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Lock,
    Election,
}

impl Kind {
    pub(super) const fn subcommand(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Election => "elect",
        }
    }

    /// The variables in the command's environment.
    pub(super) fn variables(self, held: &Contender) -> Vec<(&'static str, OsString)> {
        // As it is, whatever is in it: it is for other programs, and not to be looked at.
        let key = || OsString::from_vec(held.key().to_vec());
        let token = ("COORD_FENCING_TOKEN", held.fencing_token().to_string().into());
        match self {
            Self::Lock => vec![
                ("COORD_LOCK_KEY", key()),
                token,
                ("ETCD_LOCK_KEY", key()),
                ("ETCD_LOCK_REV", held.header().revision.to_string().into()),
            ],
            Self::Election => vec![("COORD_ELECTION_KEY", key()), token],
        }
    }
}

impl Stake {
    pub(super) fn complain(&self, message: &str) {
        complain(self.kind.subcommand(), message);
    }
}

pub(super) fn failed(error: impl Into<Error>) -> End {
    End::failed(FAILED, error)
}

/// The error of a primitive that did `what`.
pub(super) fn lost_or_failed(error: PrimitiveError, what: impl FnOnce() -> String) -> End {
    match error {
        PrimitiveError::Lost(_) => End::failed(LOST, error),
        error => failed(Error::new(error).context(what())),
    }
}
