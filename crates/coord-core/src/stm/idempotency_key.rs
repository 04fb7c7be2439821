//! Idempotency keys: they show whether a commit without a response was applied.
//!
//! Each commit that writes also puts its *idempotency key*, a small key whose value is a number
//! that is used once. If no response is received, the key shows whether the commit was applied.
//! Reading it is not enough, because the commit may still arrive. So the *resolving request* puts
//! the key itself. Both the commit and the resolving request have the condition that the key is
//! unchanged since the last commit, so at most one of them is applied:
//!
//! ```text
//! key: 4, mod revision 20                                  (of commit 4)
//! commit 5, if the mod revision is 20: no response
//! put "fence 5", if the mod revision is 20
//!   succeeded: commit 5 was not applied and cannot be applied any more. Retry.
//!   failed:    the key is 5: commit 5 was applied, at the mod revision of the key.
//! ```
//!
//! The keys are attached to the lease of the session, and later transactions reuse them. So there
//! are as many keys as transactions ran at the same time, and one more for each transaction that
//! was dropped during its commit, or whose commit could not be resolved. They are deleted with the
//! lease.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::read_set::{Versioned, single};
use crate::backend::KvBackend;
use crate::error::{Error, Result};
use crate::kv::{Compare, CompareOp, Put, Range, Revision, Txn};
use crate::recording::KeyWrite;
use crate::retry_request::retry_request;
use crate::session::Session;
use crate::sync::lock;

/// The idempotency keys of a session.
#[derive(Clone, Debug)]
pub(crate) struct IdempotencyKeys {
    session: Session,
    unused: Arc<Mutex<Vec<KeyState>>>,
}

/// An idempotency key that one transaction uses. Dropping it makes it available to the next,
/// unless a commit may still change it.
#[derive(Debug)]
pub(crate) struct IdempotencyKey {
    keys: IdempotencyKeys,
    state: KeyState,
    commit: CommitState,
}

/// An idempotency key as of the last commit.
#[derive(Clone, Debug)]
struct KeyState {
    key: Bytes,
    /// The mod revision; `None` before the first put.
    mod_revision: Option<Revision>,
    /// The number of the last commit that was sent.
    number: u64,
}

/// The state of the last commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CommitState {
    /// No commit can change the key any more.
    Settled,
    /// A commit was sent and may still change the key.
    Pending,
}

/// The outcome of a commit, as its idempotency key shows it.
#[derive(Debug)]
pub(crate) enum Resolution {
    Applied(Revision),
    NotApplied,
    /// The key was deleted with the lease of the session, or another client has deleted or changed
    /// it.
    Unknown,
}

impl IdempotencyKeys {
    pub(crate) fn new(session: &Session) -> Self {
        Self { session: session.clone(), unused: Arc::default() }
    }

    pub(super) const fn session(&self) -> &Session {
        &self.session
    }

    /// The prefix of all idempotency keys of the session.
    pub(super) fn prefix(&self) -> Bytes {
        format!("coord/stm/{}", self.session.lease_id()).into()
    }

    /// A key that no other transaction uses.
    pub(crate) fn take(&self) -> IdempotencyKey {
        let unused = lock(&self.unused).pop();
        let state = unused.unwrap_or_else(|| {
            // No other key of the session gets this suffix: a delayed commit may still put the key.
            let mut suffix = self.session.key_suffix();
            suffix.retire();
            let key = [&self.prefix()[..], format!("-{suffix}").as_bytes()].concat().into();
            KeyState { key, mod_revision: None, number: 0 }
        });
        IdempotencyKey { keys: self.clone(), state, commit: CommitState::Settled }
    }
}

impl IdempotencyKey {
    /// Adds the put of this key, and its condition, to a commit that is sent next.
    pub(crate) fn add_to(&mut self, commit: Txn) -> Txn {
        self.state.number += 1;
        self.commit = CommitState::Pending;
        let put = self.put(self.state.number.to_string());
        commit.when([self.unchanged_compare()]).and_then([put])
    }

    /// The commit was applied.
    pub(crate) const fn note_applied(&mut self, revision: Revision) {
        self.state.mod_revision = Some(revision);
        self.commit = CommitState::Settled;
    }

    /// The commit was not applied and cannot be applied any more.
    pub(crate) const fn note_not_applied(&mut self) {
        self.commit = CommitState::Settled;
    }

    /// What the last commit writes to this key.
    pub(super) fn last_write(&self) -> KeyWrite {
        let KeyState { key, number, .. } = &self.state;
        KeyWrite { key: key.clone(), value: Some(number.to_string().into()) }
    }

    /// The compare that holds while the key is unchanged since the last commit.
    fn unchanged_compare(&self) -> Compare {
        let mod_revision = self.state.mod_revision.unwrap_or(Revision::ZERO);
        Compare::mod_revision(&self.state.key, CompareOp::Equal, mod_revision)
    }

    fn put(&self, value: String) -> Put {
        Put::new(&self.state.key, value).lease(self.keys.session.lease_id())
    }

    /// Resolves the last commit: determines whether it was applied. Retries the request until a
    /// response is received.
    ///
    /// The request is sent to the backend of the commit: the backend of the session may have
    /// another namespace, where the key does not exist.
    pub(crate) async fn resolve(&mut self, backend: &dyn KvBackend) -> Result<Resolution> {
        let fence = format!("fence {}", self.state.number);
        let request = Txn::new()
            .when([self.unchanged_compare()])
            .and_then([self.put(fence.clone())])
            .or_else([Range::new(&self.state.key)]);
        // Safe to repeat: once it is applied, its condition no longer holds.
        let response = match retry_request(|| backend.txn(request.clone())).await {
            Ok(response) => response,
            Err(Error::LeaseNotFound { .. }) => return Ok(Resolution::Unknown),
            Err(error) => return Err(error),
        };
        if response.succeeded {
            self.note_applied(response.header.revision);
            return Ok(Resolution::NotApplied);
        }
        let (found, number) =
            (response.responses.into_iter().next(), self.state.number.to_string());
        let (resolution, revision) = match found.and_then(single) {
            Some(found) if found.value == fence => (Resolution::NotApplied, found.mod_revision),
            Some(Versioned { value, mod_revision }) if value == number => {
                (Resolution::Applied(mod_revision), mod_revision)
            }
            _ => return Ok(Resolution::Unknown),
        };
        self.note_applied(revision);
        Ok(resolution)
    }
}

impl Drop for IdempotencyKey {
    fn drop(&mut self) {
        if self.commit == CommitState::Settled {
            lock(&self.keys.unused).push(self.state.clone());
        }
    }
}
