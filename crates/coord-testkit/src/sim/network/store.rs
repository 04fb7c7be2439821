//! The store's side of a request: applies it, injects the faults of the store, and sends the
//! response.

use std::sync::Arc;
use std::time::Duration;

use coord_core::error::Outcome;
use coord_core::kv::{Compact, KeyRange, Range, Revision};
use coord_core::{Client, Error, Result};
use tokio::time::Instant;

use super::{Response, Sent, broken, is_change, is_serializable};
use crate::Call;
use crate::history::EventKind;
use crate::sim::faults::{self, Fault};
use crate::sim::world::{Owner, World};
use crate::stale_member::{StaleMember, current_revision};

/// How long the store stays out of space.
const OUT_OF_SPACE: Duration = Duration::from_secs(5);

/// What the store does for a delivered request: applies it, and sends the response.
pub(super) async fn process_request<T: Response>(
    world: Arc<World>,
    member: StaleMember<Client>,
    sent: Sent<T>,
    request: impl Future<Output = Result<T>> + Send + 'static,
) {
    let (is_change, index) = (is_change(&sent.call), sent.index);
    let has_space = {
        let state = world.lock();
        state.out_of_space_until.is_none_or(|until| until <= Instant::now())
    };
    let result = if is_change && !has_space {
        world.lock().choices.coverage.note_mattered(Fault::NoSpace);
        Err(Error::NoSpace { outcome: Outcome::NotApplied })
    } else if is_serializable(&sent.call) {
        serve_stale(&world, &member, index, request).await
    } else {
        request.await
    };
    let mut store_fault = 0;
    {
        let mut state = world.lock();
        state.record(sent.owner, || EventKind::Applied {
            request: sent.id,
            result: result.as_ref().map(|r| r.header().revision).map_err(ToString::to_string),
        });
        if let Ok(response) = &result {
            if let Some(lease) = response.granted() {
                state.leases.insert(lease, index);
                if state.history.is_some() {
                    state.unexpired.insert(lease);
                }
            }
            if let Call::LeaseRevoke(lease) = &sent.call {
                state.unexpired.remove(lease);
            }
            if is_change {
                state.processes[index].has_effect = true;
                let (lane, id) = (state.store_lane, sent.id);
                let words = || format!("the store, after request #{id}");
                store_fault = state.choices.choose(lane, 0, None, words);
            }
        }
        let (id, call) = (sent.id, &sent.call);
        let words = |name: &str| format!("response to request #{id} of {name} ({call})");
        let value = state.choose(index, |lanes| lanes.response, None, words);
        state.note_leg_mattered(value, faults::RESPONSE, call, is_change && result.is_ok());
        match value {
            5 => {}
            6 => state.respond(sent, Err(broken(Outcome::Unknown)), 0),
            value => state.respond(sent, result, value),
        }
    }
    if store_fault > 0 {
        apply_store_fault(&world, store_fault).await;
    }
}

/// Serves a serializable read from the process's member, which may be stale.
async fn serve_stale<T>(
    world: &World,
    member: &StaleMember<Client>,
    index: usize,
    request: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    let words = |name: &str| format!("serializable read of {name}");
    let value = world.lock().choose(index, |lanes| lanes.read, None, words);
    if value == 0 {
        return request.await;
    }
    let current = current_revision(&world.store).await?;
    let behind = if value == 1 { 1 } else { 10 };
    let served = Revision((current.0 - behind).max(1));
    // The history at `served` may be compacted.
    let probe = Range::new(KeyRange::all()).limit(1).at(served);
    if served < current && world.store.range(probe).await.is_ok() {
        world.lock().choices.coverage.note_mattered(Fault::StaleRead);
        member.fall_behind(served);
    }
    let response = request.await;
    member.catch_up();
    response
}

/// Applies the option `value` of `faults::STORE`.
async fn apply_store_fault(world: &World, value: u16) {
    let fault = faults::STORE[usize::from(value)].fault;
    let has_effect = match fault {
        Fault::Compaction => match current_revision(&world.store).await {
            Ok(current) => world.store.compact(Compact::new(current)).await.is_ok(),
            Err(_) => false,
        },
        Fault::LeaderChange => {
            let leases = world.store.leases().await.map(|response| response.leases);
            let leases = leases.unwrap_or_default();
            for lease in &leases {
                // The lease may have expired just now.
                let _ = world.store.lease_keep_alive(*lease).await;
            }
            !leases.is_empty()
        }
        Fault::Swizzle => world.lock().swizzle(),
        _ => {
            world.lock().out_of_space_until = Some(Instant::now() + OUT_OF_SPACE);
            // This fault matters only when the store rejects a change.
            false
        }
    };
    let mut state = world.lock();
    if has_effect {
        state.choices.coverage.note_mattered(fault);
    }
    let label = faults::STORE[usize::from(value)].label;
    state.record(Owner::Harness, || EventKind::Fault(format!("the store: {label}")));
}
