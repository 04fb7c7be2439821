//! The terminal that this program was started at, and to which group of processes it belongs.
//!
//! One group at a time has it. Who reads from it without having it is stopped, with TTIN, and who
//! changes how it is set, with TTOU. The command is in a group of its own, so somebody has to give
//! it the terminal, as a shell would:
//!
//! ```text
//! coord lock a -- vi              at once: ctrl-C is then for the command, as it expects
//! coord lock a -- make | less     not: `less` reads from the terminal, and is in our group
//! tar c . | coord lock a -- ssh b when it asks: it is stopped, is given the terminal, and goes on
//! coord lock a -- ssh b &         when it has asked and `fg` made the terminal ours to give
//! ```

use std::fs::File;
use std::io::{IsTerminal as _, stdin, stdout};

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Pid, getpgrp};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// The terminal, if there is one.
#[derive(Debug)]
pub(super) struct Terminal {
    terminal: Option<File>,
    given: bool,
}

impl Terminal {
    pub(super) fn new() -> Self {
        Self { terminal: File::open("/dev/tty").ok(), given: false }
    }

    /// Whether a command that is run now, with our input and output, has it to itself.
    pub(super) fn is_for_the_command(&self) -> bool {
        self.terminal.is_some() && stdin().is_terminal() && stdout().is_terminal()
    }

    /// Gives it to a group; `false` if it is not ours to give.
    pub(super) fn give_to(&mut self, group: Pid) -> bool {
        let Some(terminal) = &self.terminal else { return false };
        let ours = tcgetpgrp(terminal).is_ok_and(|foreground| foreground == getpgrp());
        let given = ours && tcsetpgrp(terminal, group).is_ok();
        self.given |= given;
        given
    }

    /// Whether a group has it now that this program gave it to.
    pub(super) const fn is_given(&self) -> bool {
        self.given
    }

    pub(super) fn take_back(&mut self) {
        let Some(terminal) = self.terminal.as_ref().filter(|_| std::mem::take(&mut self.given))
        else {
            return;
        };
        // Whoever takes the terminal from another group is stopped for it, unless the signal for
        // that is blocked.
        let mut stop = SigSet::empty();
        stop.add(Signal::SIGTTOU);
        if stop.thread_block().is_ok() {
            // It fails if the terminal is gone.
            let _ = tcsetpgrp(terminal, getpgrp());
            let _ = stop.thread_unblock();
        }
    }
}
