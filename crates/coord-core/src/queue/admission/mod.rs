//! Admission: a wait by a rule over the keys ahead of a contender.
//!
//! A lock has one holder, so a waiter waits for one key, that of its predecessor (`wait.rs`). A
//! semaphore has several holders, and a read-write lock has readers beside each other. Their
//! contenders are *admitted* by a rule over all keys ahead of them:
//!
//! | contender | is admitted when |
//! |---|---|
//! | of a semaphore | the permits of the keys ahead and its own are at most the limit |
//! | reader | no key of a writer is ahead |
//! | writer | no key is ahead, except its own reader's key if it was a reader before |
//!
//! A key is *ahead* if its create revision is smaller. The keys that a rule depends on are its
//! [`Scope`].
//!
//! - **Enqueue**: one transaction creates the key and reads the keys ahead, with their values. If
//!   the rule admits the contender, it is admitted at once (`enqueue.rs`).
//! - **Wait**: watch the scope *from now on*, then read it again if the store's revision shows that
//!   anything was written since the last read. From then on each event changes the local copy of
//!   the keys ahead, without a request. When the rule admits the contender by the local copy, one
//!   read confirms it (`wait.rs` in this folder).
//!
//! A semaphore with the limit 3, in which `C` waits for two permits:
//!
//! ```text
//! A: 2 permits     B: 1 permit     C: 2 permits               keys            ahead of C
//! created at 5     created at 6    created at 7: 2+1+2 > 3    A@5 B@6 C@7     A 2, B 1
//!                                  watch from now on, at 7
//!                  release         event: B deleted at 8      A@5 C@7         A 2: 2+2 > 3
//! release                          event: A deleted at 9      C@7             2 ≤ 3
//!                                  read: C@7, none ahead      C@7             admitted
//! ```
//!
//! So a release costs one request for each contender that it admits, whatever the number of
//! waiters. The events are not free: each waiter receives the event of each key of the scope.
//!
//! **Safety.** The read that admits a contender shows its own key, with its own create revision,
//! and the keys ahead, as of one revision. Later keys have larger create revisions, so no key comes
//! ahead of it any more, and a contender that is admitted stays admitted as long as its key exists.
//! A later contender counts this key. For the same reason the admitted contenders are always the
//! first ones of the queue: a contender that needs much is not overtaken.

mod ahead;
mod companion;
mod enqueue;
mod resume;
mod wait;

use std::fmt;
use std::sync::Arc;

pub(crate) use ahead::{Ahead, Scope};
pub(crate) use enqueue::{AdmissionEnqueue, MAX_ADMISSION_READS};
pub(crate) use resume::Former;

use super::foreign::is_foreign;
use crate::kv::KeyValue;

/// The condition under which a contender is admitted.
pub(crate) trait AdmissionRule: fmt::Debug + Send + Sync + 'static {
    /// The keys that the rule depends on.
    fn scope(&self) -> &Scope;

    /// Whether the rule admits the contender behind these keys.
    fn verdict(&self, ahead: &Ahead) -> Verdict;

    /// The setting, if the rule admits no contender because it cannot read it.
    fn unreadable_setting<'a>(&self, _ahead: &'a Ahead) -> Option<&'a KeyValue> {
        None
    }

    /// Whether no contender can have created this key of the scope.
    fn is_foreign(&self, kv: &KeyValue) -> bool {
        is_foreign(&kv.key, kv.lease)
    }
}

/// What a rule decides about a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is admitted.
    Admitted,
    /// It must wait for keys ahead of it.
    Waits,
    /// It cannot be admitted any more, even if no key is ahead.
    Impossible,
}

/// The admission of one contender: its rule, and the keys ahead of it.
#[derive(Debug)]
pub(super) struct Admission {
    rule: Arc<dyn AdmissionRule>,
    ahead: Ahead,
    /// Whether `ahead` is as a response showed it together with the contender's own key. Otherwise
    /// events have changed it since.
    is_confirmed: bool,
}

impl Admission {
    /// The admission of a contender whose enqueue has read the keys ahead.
    fn new(rule: Arc<dyn AdmissionRule>, ahead: Ahead) -> Self {
        Self { rule, ahead, is_confirmed: true }
    }

    fn verdict(&self) -> Verdict {
        self.rule.verdict(&self.ahead)
    }

    /// Whether a response has shown that the contender is admitted. Then it stays so.
    pub(super) fn is_admitted(&self) -> bool {
        self.is_confirmed && self.verdict() == Verdict::Admitted
    }

    /// The keys ahead, if a response has shown that the contender cannot be admitted any more.
    pub(super) fn impossible(&self) -> Option<&Ahead> {
        (self.is_confirmed && self.verdict() == Verdict::Impossible).then_some(&self.ahead)
    }
}
