//! Key suffixes: they distinguish the keys of one session, and are reused when a key is gone.
//!
//! etcd keeps a deleted key in its index until the next compaction, and every range read visits it.
//! If each lock created a key with a new name, the ten thousandth would take ten times as long as
//! the first. So a session reuses a few key names, the smallest numbers first.
//!
//! If a key may still be created, by a request with an unknown outcome, its suffix is *retired*: it
//! is never used again.
//!
//! An adopted lease has keys of its former owner, and requests of the former owner may still
//! arrive. So the names of an adopter's keys also contain an *adopter tag*, a random number of 32
//! bits that is drawn when the lease is adopted: it is very unlikely that two owners of a lease use
//! the same name.
//!
//! ```text
//! granted to A        jobs/694d82a1-0    jobs/694d82a1-1
//! adopted by B        jobs/694d82a1-5f3a9c0e-0
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// The key suffixes of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct KeySuffixes {
    /// `None` if the lease was granted to this session.
    adopter_tag: Option<u32>,
    free: Arc<Mutex<FreeNumbers>>,
}

#[derive(Debug, Default)]
struct FreeNumbers {
    /// Numbers whose keys are deleted.
    returned: BTreeSet<u64>,
    /// The smallest number that was never used.
    next: u64,
}

/// A suffix that no other key of the session has. Dropping it returns it for reuse.
#[derive(Debug)]
pub(crate) struct KeySuffix {
    adopter_tag: Option<u32>,
    number: u64,
    /// Where to return the number; `None` if it is retired.
    suffixes: Option<KeySuffixes>,
}

impl KeySuffixes {
    /// The suffixes of a session that has adopted its lease.
    pub(super) fn of_adopter() -> Self {
        Self { adopter_tag: Some(fastrand::u32(..)), ..Self::default() }
    }

    pub(super) const fn are_of_adopter(&self) -> bool {
        self.adopter_tag.is_some()
    }

    /// The suffix with the smallest free number.
    pub(super) fn take(&self) -> KeySuffix {
        let mut free = lock(&self.free);
        let number = free.returned.pop_first().unwrap_or_else(|| {
            free.next += 1;
            free.next - 1
        });
        KeySuffix { adopter_tag: self.adopter_tag, number, suffixes: Some(self.clone()) }
    }
}

impl KeySuffix {
    /// A suffix of a session that was granted its lease.
    #[cfg(test)]
    pub(crate) const fn of(number: u64) -> Self {
        Self { adopter_tag: None, number, suffixes: None }
    }

    /// Prevents the reuse of the suffix.
    pub(crate) fn retire(&mut self) {
        self.suffixes = None;
    }
}

impl fmt::Display for KeySuffix {
    /// As in the name of a key, after the lease and a hyphen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.adopter_tag {
            Some(tag) => write!(f, "{tag:08x}-{}", self.number),
            None => write!(f, "{}", self.number),
        }
    }
}

impl Drop for KeySuffix {
    fn drop(&mut self) {
        if let Some(suffixes) = self.suffixes.take() {
            lock(&suffixes.free).returned.insert(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smallest_free_suffix_is_reused_unless_retired() {
        let suffixes = KeySuffixes::default();
        let (zero, mut one, two) = (suffixes.take(), suffixes.take(), suffixes.take());
        assert_eq!([&zero, &one, &two].map(ToString::to_string), ["0", "1", "2"]);
        one.retire();
        drop((one, two, zero));
        let again = [suffixes.take(), suffixes.take(), suffixes.take()];
        assert_eq!(again.map(|suffix| suffix.to_string()), ["0", "2", "3"]);
    }

    #[test]
    fn suffixes_differ_between_adopters_of_one_lease() {
        let (one, other) = (KeySuffixes::of_adopter(), KeySuffixes::of_adopter());
        let (one, other) = (one.take().to_string(), other.take().to_string());
        assert!(one.ends_with("-0") && one.len() == 10, "{one}");
        assert_ne!(one, other);
        assert_ne!(one, KeySuffixes::default().take().to_string());
    }
}
