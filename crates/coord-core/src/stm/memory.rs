//! What a process remembers of the keys that its transactions contend for.
//!
//! Where many contend, the next transaction on a key will probably find what the last commit of
//! this process has left there. So it begins with that, and its first read costs nothing. It may
//! be wrong, for another process may have written, or a commit may be on its way: the next read
//! asks whether it is still so, in the same request, and so does the commit. It is as of one
//! revision, so that even a closure that is given old values is not given a mixture.
//!
//! ```text
//! remembered         a = 90 as of 17, b = 7 as of 19
//! get a              90, and nothing is asked: the base is 17, and unconfirmed
//! get b              not as of 17; so the store is asked: if a is as it was, for b, at 20
//! put, commit        two requests where it would have been three
//! ```
//!
//! Whoever needs no other read and writes nothing has confirmed nothing, and begins afresh.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::seen::Seen;
use super::transaction::Known;
use crate::kv::Revision;

/// How many keys are remembered.
const KEYS_MAX: usize = 1_000;

/// Keys, and as of which revision they were so.
#[derive(Default)]
pub(super) struct Memory {
    keys: BTreeMap<Bytes, (Revision, Seen)>,
}

impl Memory {
    /// Remembers what is known, unless something newer is.
    pub(super) fn keep(&mut self, known: Known) {
        for (key, seen) in known.keys {
            if self.keys.len() == KEYS_MAX && !self.keys.contains_key(&key) {
                // Those that are contended for will soon be here again.
                self.keys.clear();
            }
            let (as_of, remembered) = self.keys.entry(key).or_default();
            if *as_of < known.revision {
                (*as_of, *remembered) = (known.revision, seen);
            }
        }
    }

    /// What is remembered of all these keys, if it is as of one revision: of this one, if any.
    pub(super) fn recall(&self, keys: &[Bytes], mut as_of: Option<Revision>) -> Option<Known> {
        let mut recalled = BTreeMap::new();
        for key in keys {
            let (revision, seen) = self.keys.get(key)?;
            if *as_of.get_or_insert(*revision) != *revision {
                return None;
            }
            recalled.insert(key.clone(), seen.clone());
        }
        Some(Known { revision: as_of?, keys: recalled, ranges: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::seen::Stored;
    use super::*;

    fn known(revision: i64, keys: &[&str]) -> Known {
        let revision = Revision(revision);
        let stored = |key: &&str| {
            let value = Bytes::from(format!("{key}@{revision}"));
            (Bytes::from((*key).to_owned()), Some(Stored { value, modified: revision }))
        };
        Known { revision, keys: keys.iter().map(stored).collect(), ranges: Vec::new() }
    }

    fn recalled(memory: &Memory, keys: &[&'static str], as_of: Option<i64>) -> Option<Revision> {
        let keys: Vec<_> = keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
        memory.recall(&keys, as_of.map(Revision)).map(|known| known.revision)
    }

    #[test]
    fn only_what_was_together_at_one_revision_is_recalled_together() {
        let mut memory = Memory::default();
        memory.keep(known(17, &["a", "b"]));
        memory.keep(known(19, &["b", "c"]));
        memory.keep(known(18, &["c"]));
        assert_eq!(recalled(&memory, &["a"], None), Some(Revision(17)));
        assert_eq!(recalled(&memory, &["b", "c"], None), Some(Revision(19)), "18 was older");
        assert_eq!(recalled(&memory, &["a", "b"], None), None);
        assert_eq!(recalled(&memory, &["c"], Some(17)), None);
        assert_eq!(recalled(&memory, &["c"], Some(19)), Some(Revision(19)));
        assert_eq!(recalled(&memory, &["a", "d"], None), None);
    }

    #[test]
    fn no_more_than_a_thousand_keys_are_remembered() {
        let mut memory = Memory::default();
        for n in 0..2_500 {
            memory.keep(known(n + 1, &[&format!("key {n}")]));
            assert!(memory.keys.len() <= 1_000);
        }
        assert_eq!(recalled(&memory, &["key 2499"], None), Some(Revision(2_500)));
    }
}
