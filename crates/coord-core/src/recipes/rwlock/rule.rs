//! The admission rule of readers and writers: no key of certain queues is ahead.
//!
//! ```text
//! keys in queue order        reader    writer
//! read/a                     enters    enters
//! read/b                     enters    waits for a
//! write/c, read/c            waits     waits for a and b        the two keys of one writer
//! read/d                     waits for c, although only readers hold the lock
//! ```

use bytes::Bytes;

use crate::kv::KeyValue;
use crate::queue::admission::{AdmissionRule, Ahead, Scope, Verdict};
use crate::queue::is_foreign;

/// The rule of one reader or writer.
#[derive(Debug)]
pub(super) struct NothingAhead {
    pub(super) scope: Scope,
    /// The key of a reader that becomes a writer, which does not count.
    pub(super) except: Option<Bytes>,
}

impl AdmissionRule for NothingAhead {
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn verdict(&self, ahead: &Ahead) -> Verdict {
        match ahead.keys().all(|kv| self.except.as_ref() == Some(&kv.key)) {
            true => Verdict::Admitted,
            false => Verdict::Waits,
        }
    }

    fn is_foreign(&self, kv: &KeyValue) -> bool {
        is_foreign(&kv.key, kv.lease) && !is_of_go(kv)
    }
}

/// Whether Go's `RWMutex` can have created the key: its last part is a time in nanoseconds, and it
/// has a lease.
fn is_of_go(kv: &KeyValue) -> bool {
    let last = kv.key.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    kv.lease.is_some() && !last.is_empty() && last.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::LeaseId;
    use crate::queue::QueueKeys;

    #[test]
    fn key_of_go_with_a_lease_is_not_foreign() {
        let scope = Scope::of_queues([QueueKeys::new("l/write")]);
        let rule = NothingAhead { scope, except: None };
        let kv = |key: &'static str, lease| KeyValue {
            key: key.into(),
            lease: LeaseId::new(lease),
            ..KeyValue::default()
        };
        assert!(!rule.is_foreign(&kv("l/write/1700000000000000000", 7)));
        assert!(!rule.is_foreign(&kv("l/write/a1-3", 0xa1)));
        assert!(rule.is_foreign(&kv("l/write/1700000000000000000", 0)));
        assert!(rule.is_foreign(&kv("l/write/config", 7)));
        assert!(rule.is_foreign(&kv("l/write/", 7)));
    }
}
