//! The process group of the command, and its members that refuse signals.
//!
//! A process that changes its user, as `sudo`, `doas` and `pkexec` do, refuses signals of a `coord`
//! that runs as another user, with EPERM. For a group, the system reports EPERM only if every
//! member refuses. Therefore each member is checked, where `/proc` lists them.

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, kill_process_group, test_kill_process, test_kill_process_group,
};

/// A process group, by its id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group(pub(crate) Pid);

impl Group {
    /// Sends a signal to all members. Returns a member that refuses signals, if there is one.
    pub(crate) fn send(self, signal: Signal) -> Option<Pid> {
        // The result of this call hides errors of single members, which `refusing_member` finds.
        let _ = kill_process_group(self.0, signal);
        self.refusing_member()
    }

    /// Sends a signal and CONT, because a stopped process does not receive a signal until it
    /// continues.
    pub(super) fn deliver(self, signal: Signal) -> Option<Pid> {
        let refused = self.send(signal);
        self.send(Signal::CONT);
        refused
    }

    /// Whether a member runs.
    pub(super) fn is_alive(self) -> bool {
        match test_kill_process_group(self.0) {
            Err(Errno::SRCH) => false,
            // For the system, dead processes that are not reaped yet are members too.
            _ => self.members().is_none_or(|members| !members.is_empty()),
        }
    }

    /// A member that runs and refuses signals.
    pub(super) fn refusing_member(self) -> Option<Pid> {
        let refuses = |member: &Pid| test_kill_process(*member) == Err(Errno::PERM);
        match (test_kill_process_group(self.0), self.members()) {
            (Err(Errno::SRCH), _) => None,
            (_, Some(members)) => members.into_iter().find(refuses),
            (Err(Errno::PERM), None) => Some(self.0),
            (_, None) => None,
        }
    }

    /// The members that run; `None` where `/proc` does not list the processes of all users.
    fn members(self) -> Option<Vec<Pid>> {
        std::fs::read_to_string("/proc/1/stat").ok()?;
        let processes = std::fs::read_dir("/proc").ok()?;
        let of_group = processes.filter_map(|process| {
            let stat = std::fs::read_to_string(process.ok()?.path().join("stat")).ok()?;
            self.member(&stat)
        });
        Some(of_group.collect())
    }

    /// The process of a line of `/proc/N/stat`, if it is a member and runs.
    fn member(self, stat: &str) -> Option<Pid> {
        let (process, rest) = stat.split_once(" (")?;
        // The name of the process may contain parentheses and spaces.
        let mut fields = rest.rsplit_once(") ")?.1.split(' ');
        let (state, group) = (fields.next()?, fields.nth(1)?);
        let runs = state != "Z" && state != "X";
        (runs && group == self.0.to_string()).then(|| Pid::from_raw(process.parse().ok()?))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_members_exclude_dead_processes() {
        let group = Group(Pid::from_raw(70).expect("not 0"));
        let member = |stat| group.member(stat).map(|process| process.to_string());
        assert_eq!(member("71 (sh) S 1 70 60 0").as_deref(), Some("71"));
        assert_eq!(member("71 (a) R (b)) T 1 70 60 0").as_deref(), Some("71"));
        assert_eq!(member("71 (sh) Z 1 70 60 0"), None);
        assert_eq!(member("71 (sh) S 70 71 60 0"), None);
        assert_eq!(member(""), None);
    }

    #[test]
    fn own_group_is_alive_and_can_be_signalled() {
        let group = Group(rustix::process::getpgrp());
        assert!(group.is_alive());
        assert_eq!(group.refusing_member(), None);
    }
}
