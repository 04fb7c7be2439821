//! The commands of a golden script.

use std::error::Error;

/// A command of a script.
///
/// Most commands have a client as prefix, which runs them: `c1: lock m`. The commands after `Heal`
/// are the commands of an operator.
#[derive(Clone, Debug, goldenscript::Command)]
pub(crate) enum Command {
    /// `open ttl=10 lock_delay=45`, `open adopt=c1`: opens a session with this TTL and lock-delay
    /// in seconds, or on the lease that was last granted to `c1`. The client's previous session, if
    /// any, is dropped.
    Open {
        #[arg(key)]
        ttl: Option<u64>,
        #[arg(key)]
        lock_delay: Option<u64>,
        #[arg(key)]
        adopt: Option<String>,
    },
    /// `lock m`
    Lock(String),
    /// `try_lock m`
    TryLock(String),
    /// `unlock m`: unlocks and waits for the confirmation.
    Unlock(String),
    /// `campaign e v`
    Campaign(String, String),
    /// `proclaim e v`: proclaims a value, as the leader or as a waiting candidate.
    Proclaim(String, String),
    /// `resign e`
    Resign(String),
    /// `resume e`: resumes the candidate or leader of a previous owner of the lease.
    Resume(String),
    /// `leader e`: reads the current leader.
    Leader(String),
    /// `observe e`: prints the leader now and at every change.
    Observe(String),
    /// `drop m`: drops the guard or the leadership.
    Drop(String),
    /// `cancel`: drops the future of the client's last command that still waits.
    Cancel,
    /// `lost m`: waits until the lock or the leadership is lost.
    Lost(String),
    /// `request m reason`: requests the release from the holder of m.
    Request(String, String),
    /// `requested m`: waits until another client requests the release of m.
    Requested(String),
    /// `show m file`: presents the fencing token of m to a resource outside the store, which
    /// refuses any token below the largest it has seen.
    Show(String, String),
    /// `put k v`
    Put(String, String),
    /// `get k`
    Get(String),
    /// `write k v under=m`: a transaction that is applied only if the lock or the leadership is
    /// still held.
    Write {
        key: String,
        value: String,
        #[arg(key)]
        under: String,
    },
    /// `run get x add y 5`: a transaction of these steps, at `level=serializable`, after
    /// `prefetch="x y"`; with `once=true` it has an idempotency key. [`Step`] lists the steps; the
    /// step `pause` waits for the command `go`.
    ///
    /// [`Step`]: crate::transaction::Step
    Run {
        steps: Vec<String>,
        #[arg(key)]
        level: Option<String>,
        #[arg(key)]
        prefetch: Option<String>,
        #[arg(key, optional)]
        once: bool,
    },
    /// `go`: the transaction that paused first continues.
    Go,
    /// `orphan`: ends the session and leaves its lease to an adopter.
    Orphan,
    /// `close`: closes the session.
    Close,
    /// `crash`: ends the process. No later request of the process reaches the store.
    Crash,
    /// `drop_requests`: from now on the client's requests are dropped, and the client receives an
    /// ambiguous error at once.
    DropRequests,
    /// `delay 15`: from now on the client's requests arrive after this delay in seconds. Scripts
    /// use it as a model of a suspended process, because all clients share one clock.
    Delay(u64),
    /// `silence_watches`: from now on the client's watches deliver nothing and report no error,
    /// which a correct backend does not do.
    SilenceWatches,
    /// `drop_responses`: from now on the client's requests are applied, their responses are
    /// dropped, and the client receives an error at once.
    DropResponses,
    /// `heal`: ends the faults of `drop_requests`, `delay`, `silence_watches` and `drop_responses`.
    Heal,

    // The commands of an operator, on the store. A prefix names the affected client.
    /// `c1: revoke`: revokes the client's lease.
    Revoke,
    /// `c1: delete_key m`: deletes the client's key in the wait queue m.
    DeleteKey(String),
    /// `compact`: compacts the whole history.
    Compact,
    /// `advance 5`: advances the clock by this many seconds.
    Advance(u64),
    /// `queue m`: prints the clients in the wait queue m, in order.
    Queue(String),
    /// `revision`: prints the store's revision.
    Revision,
}

/// A command with its source text.
pub(crate) struct CommandLine {
    pub(crate) command: Command,
    pub(crate) text: String,
}

impl TryFrom<&goldenscript::Command> for CommandLine {
    type Error = Box<dyn Error>;

    fn try_from(raw: &goldenscript::Command) -> Result<Self, Self::Error> {
        Ok(Self { command: raw.try_into()?, text: raw.to_string() })
    }
}
