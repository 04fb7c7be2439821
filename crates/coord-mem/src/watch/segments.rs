//! Watchers of ranges, found by key in one look.
//!
//! The line of all keys is cut where a watched range begins or ends. Between two cuts every key has
//! the same watchers, so the watchers of a key are those of the segment it falls into.
//!
//! ```text
//! 1 watches [b, f), 2 watches [d, ∞):
//!
//!   ""        b         d         f
//!   |  none   |    1    |   1 2   |    2
//! ```
//!
//! Looking up a key is one binary search; adding a range moves what lies behind it and visits the
//! segments that it spans. That is the right way round: ranges are added now and then, keys are
//! written all the time. So the search is not to go from key to key through all of memory either:
//! what all cuts begin with is compared once, and of what comes then the *head*, eight bytes of
//! each cut, lies in a row of numbers. Only where heads are equal are keys looked at:
//!
//! ```text
//! cuts     /locks/a   /locks/b   /locks/mutex-1   /locks/mutex-2
//! shared   /locks/
//! heads    a.......   b.......   mutex-1.         mutex-2.           (. is a zero)
//!
//! /members/1        differs in what is shared: behind all of them
//! /locks/c          between the heads of b and mutex-1
//! /locks/mutex-1/x  as far as its head goes it is /locks/mutex-1, and the whole of it is behind
//! ```

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use coord_core::kv::KeyRange;

use super::Slot;

/// Watchers by segment.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    /// Sorted. Before the first cut nobody watches.
    cuts: Vec<Cut>,
    /// How many bytes all cuts have in common at their beginning.
    shared: usize,
    /// What comes then in each of them.
    heads: Vec<u64>,
}

/// Where a segment begins, and who watches it.
#[derive(Debug)]
struct Cut {
    at: Bytes,
    slots: Vec<Arc<Slot>>,
}

impl Segments {
    pub(crate) const fn is_empty(&self) -> bool {
        self.cuts.is_empty()
    }

    /// The watchers of a key.
    pub(crate) fn at(&self, key: &[u8]) -> &[Arc<Slot>] {
        self.before(self.cuts_up_to(key))
    }

    /// How many cuts lie at or before a key.
    fn cuts_up_to(&self, key: &[u8]) -> usize {
        let Some(first) = self.cuts.first() else { return 0 };
        match key[..self.shared.min(key.len())].cmp(&first.at[..self.shared]) {
            Ordering::Less => return 0,
            Ordering::Greater => return self.cuts.len(),
            Ordering::Equal => {}
        }
        let head = head(key, self.shared);
        let from = self.heads.partition_point(|other| *other < head);
        let alike = self.heads[from..].partition_point(|other| *other == head);
        from + self.cuts[from..from + alike].partition_point(|cut| cut.at <= key)
    }

    pub(crate) fn insert(&mut self, keys: &KeyRange, slot: &Arc<Slot>) {
        self.cut(keys.start());
        if let Some(end) = keys.upper_bound() {
            self.cut(end);
        }
        let within = self.within(keys);
        for cut in &mut self.cuts[within] {
            cut.slots.push(Arc::clone(slot));
        }
    }

    pub(crate) fn remove(&mut self, keys: &KeyRange, id: u64) {
        let within = self.within(keys);
        for cut in &mut self.cuts[within] {
            cut.slots.retain(|slot| slot.id != id);
        }
        self.heal(keys.start());
        if let Some(end) = keys.upper_bound() {
            self.heal(end);
        }
    }

    /// The watchers of the segment before a cut.
    fn before(&self, cut: usize) -> &[Arc<Slot>] {
        cut.checked_sub(1).map_or(&[], |before| &self.cuts[before].slots)
    }

    fn cut(&mut self, at: &Bytes) {
        if let Err(place) = self.cuts.binary_search_by(|cut| cut.at.cmp(at)) {
            let slots = self.before(place).to_vec();
            self.cuts.insert(place, Cut { at: at.clone(), slots });
            self.heads.insert(place, head(at, self.shared));
            self.share();
        }
    }

    /// Makes good what the first and the last cut say of all: what they share.
    fn share(&mut self) {
        let (Some(first), Some(last)) = (self.cuts.first(), self.cuts.last()) else { return };
        // What lies between them begins so too.
        let shared = first.at.iter().zip(&last.at).take_while(|(a, b)| a == b).count();
        if shared != self.shared {
            self.shared = shared;
            self.heads = self.cuts.iter().map(|cut| head(&cut.at, shared)).collect();
        }
    }

    /// Takes a cut out that separates nothing any more.
    fn heal(&mut self, at: &Bytes) {
        let ids = |slots: &[Arc<Slot>]| slots.iter().map(|slot| slot.id).collect::<Vec<_>>();
        if let Ok(place) = self.cuts.binary_search_by(|cut| cut.at.cmp(at))
            && ids(self.before(place)) == ids(&self.cuts[place].slots)
        {
            self.cuts.remove(place);
            self.heads.remove(place);
            self.share();
        }
    }

    /// The cuts that lie in a range.
    fn within(&self, keys: &KeyRange) -> Range<usize> {
        let start = self.cuts.partition_point(|cut| cut.at < *keys.start());
        let end = keys
            .upper_bound()
            .map_or(self.cuts.len(), |end| self.cuts.partition_point(|cut| cut.at < *end));
        start..end
    }
}

/// The eight bytes of a key from `start` on, as a number that is ordered as they are; zeros stand
/// for what it does not have.
fn head(key: &[u8], start: usize) -> u64 {
    let mut head = [0; 8];
    let rest = key.get(start..).unwrap_or_default();
    let taken = rest.len().min(head.len());
    head[..taken].copy_from_slice(&rest[..taken]);
    u64::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use coord_core::kv::Watch;

    use super::*;

    fn ids(segments: &Segments, key: &str) -> Vec<u64> {
        segments.at(key.as_bytes()).iter().map(|slot| slot.id).collect()
    }

    #[test]
    fn segments_find_the_watchers_of_a_key_and_heal_when_they_leave() {
        let mut segments = Segments::default();
        let ranges =
            [KeyRange::between("b", "f"), KeyRange::starting_at("d"), KeyRange::prefix("d")];
        for (id, keys) in (1..).zip(&ranges) {
            let request = Watch::new(keys);
            segments.insert(keys, &Arc::new(Slot { id, request, state: Mutex::default() }));
        }
        assert!(ids(&segments, "a").is_empty());
        assert_eq!(ids(&segments, "b"), [1]);
        assert_eq!(ids(&segments, "d"), [1, 2, 3]);
        assert_eq!(ids(&segments, "e"), [1, 2]);
        assert_eq!(ids(&segments, "f"), [2]);

        segments.remove(&ranges[1], 2);
        assert_eq!(ids(&segments, "dd"), [1, 3]);
        assert!(ids(&segments, "z").is_empty());
        segments.remove(&ranges[2], 3);
        segments.remove(&ranges[0], 1);
        assert!(segments.cuts.is_empty(), "left behind: {:?}", segments.cuts);
    }

    #[test]
    fn a_key_is_found_between_the_cuts_whatever_they_have_in_common() {
        // Beginnings that differ at once, late, and not at all; heads that are equal, cut short,
        // and full of zeros.
        let names = ["", "a", "a\0", "ab", "abcdefgh", "abcdefgh\0", "abcdefghi", "abcdefghj", "b"];
        let keys = ["", "x/", "x/y/"].map(|start| names.map(|name| format!("{start}{name}")));
        let mut keys = keys.concat();
        keys.sort();
        let found_as_counted = |segments: &Segments| {
            for key in &keys {
                let key = key.as_bytes();
                let counted = segments.cuts.iter().filter(|cut| cut.at <= key).count();
                assert_eq!(segments.cuts_up_to(key), counted, "{key:?} in {segments:?}");
            }
        };
        for chosen in 1..1 << 10 {
            let mut segments = Segments::default();
            // Ten of the names, those that are chosen, from either end and out of order.
            let at = |n: usize| &keys[n * 8 % keys.len()];
            let watched: Vec<_> = (0..10).filter(|n| chosen >> n & 1 == 1).map(at).collect();
            let slots = watched.iter().zip(1..).map(|(name, id)| {
                let keys = KeyRange::starting_at(name.as_bytes());
                let request = Watch::new(&keys);
                (keys, Arc::new(Slot { id, request, state: Mutex::default() }))
            });
            let slots: Vec<_> = slots.collect();
            for (keys, slot) in &slots {
                segments.insert(keys, slot);
            }
            found_as_counted(&segments);
            for (keys, slot) in &slots {
                segments.remove(keys, slot.id);
                found_as_counted(&segments);
            }
        }
    }
}
