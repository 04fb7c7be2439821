//! What the test knows of its processes: it outlives their crashes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use coord_core::kv::{FencingToken, LeaseId, LeaseKeepAliveResponse, Revision};
use coord_core::layer::Layer;
use coord_core::session::SessionState;
use coord_core::{KvBackend as _, Result, Session, sync};
use coord_mem::MemBackend;
use coord_testkit::sim::Sim;
use tokio::time::Instant;

use super::guard::{Guard, Kind};
use crate::sim::holders::{Holders, Inside};
use crate::sim::mutants::TaskResult;

/// How many revisions the member that serves the keep-alives is behind: more than the former
/// process creates.
const BEHIND: i64 = 20;

/// A store whose keep-alives are served by a member that is behind.
#[derive(Debug)]
pub(super) struct MemberBehind(pub(super) MemBackend);

#[async_trait]
impl Layer for MemberBehind {
    type Inner = MemBackend;

    fn inner(&self) -> &MemBackend {
        &self.0
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<LeaseKeepAliveResponse> {
        let mut response = self.0.lease_keep_alive(id).await?;
        response.header.revision = Revision((response.header.revision.0 - BEHIND).max(1));
        Ok(response)
    }
}

#[derive(Clone)]
pub(super) struct Shared {
    pub(super) sim: Sim,
    holders: BTreeMap<Kind, Holders<()>>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What is held on the lease. The keys exist as long as it does, until they are released.
    left: BTreeMap<Kind, FencingToken>,
    /// Whether a process has begun to release what is held, or to close its session.
    is_over: bool,
    resumed: u64,
    /// How often the adopter has started.
    lives: u64,
}

impl Shared {
    pub(super) fn new(sim: &Sim) -> Self {
        let holders = Kind::ALL.map(|kind| {
            let is_alone = |(): &(), inside: &[()]| {
                (!inside.is_empty()).then(|| "beside another holder".to_owned())
            };
            (kind, Holders::new(sim, is_alone))
        });
        Self { sim: sim.clone(), holders: holders.into(), state: Arc::default() }
    }

    /// Notes a holder until the returned value is dropped. It may act while `may_act` returns true
    /// and its session is alive.
    pub(super) fn enter(
        &self,
        guard: &Guard,
        may_act: impl Fn() -> bool + Send + 'static,
    ) -> Inside<()> {
        let ownership = guard.ownership().clone();
        let name = ownership.key().escape_ascii().to_string();
        self.holders[&guard.kind()].enter_while(name, (), move || {
            let session = ownership.session();
            may_act() && !is_lost(session) && session.deadline() > Instant::now()
        })
    }

    pub(super) fn note_left(&self, guard: &Guard) {
        let token = guard.ownership().fencing_token();
        sync::lock(&self.state).left.insert(guard.kind(), token);
    }

    /// Notes that from now on no process may adopt the lease.
    pub(super) fn end(&self) {
        sync::lock(&self.state).is_over = true;
    }

    /// Notes the end of a process. After an error, its guards and its session are dropped, which
    /// releases what it holds, unless the session is lost.
    pub(super) fn note_end(&self, session: &Session, result: &TaskResult) {
        if result.is_err() && !is_lost(session) {
            self.end();
        }
    }

    pub(super) fn is_over(&self) -> bool {
        sync::lock(&self.state).is_over
    }

    /// Fails the run if an adopter has not resumed what was left.
    pub(super) fn check_resumed(&self, kind: Kind, resumed: Option<&Guard>) {
        let resumed = resumed.map(|guard| guard.ownership().fencing_token());
        let mut state = sync::lock(&self.state);
        let left = state.left.get(&kind).copied();
        if left.is_some() && resumed != left {
            let text = format!("{}: {left:?} was left, but {resumed:?} resumed", kind.name());
            self.sim.fail("resumed", text);
        }
        state.resumed += u64::from(resumed.is_some());
        state.left.extend(resumed.map(|token| (kind, token)));
    }

    /// How often something was resumed.
    pub(super) fn resumed(&self) -> u64 {
        sync::lock(&self.state).resumed
    }

    /// Whether the former process has ended, by itself or by a crash.
    pub(super) fn former_has_ended(&self) -> impl Fn() -> bool + Send + 'static {
        let sim = self.sim.clone();
        move || sim.exit("former").is_some()
    }

    /// The number of the next life of the adopter.
    pub(super) fn next_life(&self) -> u64 {
        let mut state = sync::lock(&self.state);
        state.lives += 1;
        state.lives
    }

    /// Whether the adopter has not started again since that life.
    pub(super) fn is_life(&self, life: u64) -> impl Fn() -> bool + Send + 'static {
        let state = Arc::clone(&self.state);
        move || sync::lock(&state).lives == life
    }
}

fn is_lost(session: &Session) -> bool {
    matches!(session.state(), SessionState::Lost(_))
}
