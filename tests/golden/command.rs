//! The commands of a script.

use std::error::Error;

/// What a script can say.
///
/// Most are a client's own, and have it as their prefix: `c1: lock m`. An operator's come last.
#[derive(Clone, Debug, goldenscript::Command)]
pub(crate) enum Command {
    /// `open ttl=10`, `open adopt=c1`: opens a session, whose former one, if any, is dropped; of so
    /// many seconds, or on the lease that another client had.
    Open {
        #[arg(key)]
        ttl: Option<u64>,
        #[arg(key)]
        adopt: Option<String>,
    },
    /// `lock m`
    Lock(String),
    /// `try_lock m`
    TryLock(String),
    /// `unlock m`: confirmed.
    Unlock(String),
    /// `campaign e v`
    Campaign(String, String),
    /// `proclaim e v`: by the leader, or by a candidate that waits.
    Proclaim(String, String),
    /// `resign e`
    Resign(String),
    /// `resume e`: takes up what a former owner of the lease has left.
    Resume(String),
    /// `leader e`: who leads now.
    Leader(String),
    /// `observe e`: who leads, from now on.
    Observe(String),
    /// `drop m`: the guard, or the leadership, is dropped.
    Drop(String),
    /// `cancel`: the future of the client's last command that still waits is dropped.
    Cancel,
    /// `lost m`: waits until the lock, or the leadership, is lost.
    Lost(String),
    /// `show m file`: shows the fencing token of m to a resource that is not in the store, and that
    /// refuses any smaller than the largest it has seen.
    Show(String, String),
    /// `put k v`
    Put(String, String),
    /// `get k`
    Get(String),
    /// `write k v under=m`: a transaction that is applied only if the lock, or the leadership,
    /// is still held.
    Write {
        key: String,
        value: String,
        #[arg(key)]
        under: String,
    },
    /// `run get x add y 5`: a transaction of these steps, at `level=serializable`, after
    /// `prefetch="x y"`; with `once=true` it leaves a marker. The steps are those of
    /// [`Step`](crate::transaction::Step); one of them, `pause`, waits for `go`.
    Run {
        steps: Vec<String>,
        #[arg(key)]
        level: Option<String>,
        #[arg(key)]
        prefetch: Option<String>,
        #[arg(key, optional)]
        once: bool,
    },
    /// `go`: the client's transaction that has paused first goes on.
    Go,
    /// `orphan`: the session ends, and leaves its lease behind.
    Orphan,
    /// `close`: the session ends.
    Close,
    /// `crash`: the process is gone, in the middle of whatever it did. Nothing it would send
    /// reaches anybody any more.
    Crash,
    /// `cut`: the client's requests are lost from now on, and it is told so at once, as by a
    /// refused connection.
    Cut,
    /// `delay 15`: the client's requests are under way for so many seconds from now on. This is how
    /// a script suspends a process that was about to send something: on a clock that all share it
    /// is not the process that can be late, but what it sends can.
    Delay(u64),
    /// `deafen`: the client's watches fall silent, which no backend should let happen.
    Deafen,
    /// `mute`: the client's requests arrive from now on, and their answers are lost, which it is
    /// told at once.
    Mute,
    /// `mend`: none of the four any more.
    Mend,

    // What follows is an operator's work at the store. A prefix says whom it hits.
    /// `c1: revoke`: the client's lease.
    Revoke,
    /// `c1: delete_key m`: what the client has in the line m.
    DeleteKey(String),
    /// `compact`: forgets all history.
    Compact,
    /// `advance 5`: so many seconds pass.
    Advance(u64),
    /// `line m`: who stands in it, in order.
    Line(String),
    /// `revision`: that of the store.
    Revision,
}

/// A command, and the words in which it was given.
pub(crate) struct Said {
    pub(crate) command: Command,
    pub(crate) text: String,
}

impl TryFrom<&goldenscript::Command> for Said {
    type Error = Box<dyn Error>;

    fn try_from(raw: &goldenscript::Command) -> Result<Self, Self::Error> {
        Ok(Self { command: raw.try_into()?, text: raw.to_string() })
    }
}
