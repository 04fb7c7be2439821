//! The process group of the command, and what of it may not be signalled.
//!
//! A command that changes its user, as `sudo`, `doas` and `pkexec` do, refuses signals with EPERM
//! from a `coord` that runs as another. The system reports EPERM only if it refuses for every
//! process of a group, so the members are looked through one by one where `/proc` lists them.

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, kill_process_group, test_kill_process, test_kill_process_group,
};

/// The processes that have the command's process group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group(pub(super) Pid);

impl Group {
    /// Sends a signal to all members. Returns a member that may not be signalled.
    pub(super) fn send(self, signal: Signal) -> Option<Pid> {
        // What it reports is what `unreachable` finds, for each member.
        let _ = kill_process_group(self.0, signal);
        self.unreachable()
    }

    /// Sends a signal that is received at once: a stopped process receives none until it
    /// continues.
    pub(super) fn deliver(self, signal: Signal) -> Option<Pid> {
        let refused = self.send(signal);
        self.send(Signal::CONT);
        refused
    }

    /// Whether a member still runs.
    pub(super) fn is_alive(self) -> bool {
        match test_kill_process_group(self.0) {
            Err(Errno::SRCH) => false,
            // Dead processes that are not reaped yet count as members for the system.
            _ => self.members().is_none_or(|members| !members.is_empty()),
        }
    }

    /// A member that runs and may not be signalled.
    pub(super) fn unreachable(self) -> Option<Pid> {
        let refuses = |member: &Pid| test_kill_process(*member) == Err(Errno::PERM);
        match (test_kill_process_group(self.0), self.members()) {
            (Err(Errno::SRCH), _) => None,
            (_, Some(members)) => members.into_iter().find(refuses),
            (Err(Errno::PERM), None) => Some(self.0),
            (_, None) => None,
        }
    }

    /// The members that run; `None` where the system does not list the processes of all users.
    fn members(self) -> Option<Vec<Pid>> {
        std::fs::read_to_string("/proc/1/stat").ok()?;
        let processes = std::fs::read_dir("/proc").ok()?;
        let of_group = processes.filter_map(|process| {
            let stat = std::fs::read_to_string(process.ok()?.path().join("stat")).ok()?;
            self.member(&stat)
        });
        Some(of_group.collect())
    }

    /// The process that this line of `/proc/N/stat` describes, if it is a member and runs.
    fn member(self, stat: &str) -> Option<Pid> {
        let (process, rest) = stat.split_once(" (")?;
        // The name may have parentheses and spaces of its own.
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
        assert_eq!(group.unreachable(), None);
    }
}
