//! The controlling terminal, and its foreground process group.
//!
//! One process group at a time is in the foreground. The system stops a process of another group
//! with TTIN when it reads from the terminal, and with TTOU when it changes terminal settings. The
//! command has its own process group, so coord moves that group to the foreground as a shell does:
//!
//! ```text
//! coord lock a -- vi               at once: ctrl-C then goes to the command
//! coord lock a -- make | less      never: `less` reads from the terminal, in the group of coord
//! tar c . | coord lock a -- ssh b  on demand: `ssh` stops, gets the terminal and continues
//! coord lock a -- ssh b &          on demand, once `fg` has moved coord to the foreground
//! ```

use std::fs::File;
use std::io::{IsTerminal as _, stdin, stdout};

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Pid, getpgrp};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// The controlling terminal, if there is one.
#[derive(Debug)]
pub(super) struct Terminal {
    terminal: Option<File>,
    /// Whether the foreground was given to the command's group and not taken back.
    given: bool,
}

impl Terminal {
    pub(super) fn new() -> Self {
        Self { terminal: File::open("/dev/tty").ok(), given: false }
    }

    /// Whether the command uses the terminal from its start, because its input and output are the
    /// terminal.
    pub(super) fn is_for_command(&self) -> bool {
        self.terminal.is_some() && stdin().is_terminal() && stdout().is_terminal()
    }

    /// Moves a group to the foreground. Returns `false` if coord is not in the foreground itself.
    pub(super) fn give_to(&mut self, group: Pid) -> bool {
        let Some(terminal) = &self.terminal else { return false };
        let foreground = tcgetpgrp(terminal).is_ok_and(|foreground| foreground == getpgrp());
        let given = foreground && tcsetpgrp(terminal, group).is_ok();
        self.given |= given;
        given
    }

    /// Whether the command's group is in the foreground.
    pub(super) const fn is_given(&self) -> bool {
        self.given
    }

    /// Moves the group of coord back to the foreground.
    pub(super) fn take_back(&mut self) {
        let Some(terminal) = self.terminal.as_ref().filter(|_| std::mem::take(&mut self.given))
        else {
            return;
        };
        // In the background, the call stops its caller with TTOU unless that signal is blocked.
        let mut ttou = SigSet::empty();
        ttou.add(Signal::SIGTTOU);
        if ttou.thread_block().is_ok() {
            // The call fails if the terminal was closed.
            let _ = tcsetpgrp(terminal, getpgrp());
            let _ = ttou.thread_unblock();
        }
    }
}
