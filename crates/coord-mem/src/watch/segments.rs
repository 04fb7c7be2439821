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
//! Adding a range costs a step for each segment that it spans, looking up a key a single search.
//! That is the right way round: ranges are added now and then, keys are written all the time.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use coord_core::KeyRange;

use super::Slot;

/// Watchers by segment.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    /// Each cut with the watchers of the segment that it begins. Before the first cut nobody
    /// watches.
    cuts: BTreeMap<Bytes, Vec<Arc<Slot>>>,
}

impl Segments {
    /// The watchers of a key.
    pub(crate) fn at(&self, key: &[u8]) -> &[Arc<Slot>] {
        let up_to_key = (Bound::Unbounded, Bound::Included(key));
        self.cuts.range::<[u8], _>(up_to_key).next_back().map_or(&[], |(_, slots)| slots)
    }

    pub(crate) fn insert(&mut self, keys: &KeyRange, slot: &Arc<Slot>) {
        self.cut(keys.start());
        if let Some(end) = keys.upper_bound() {
            self.cut(end);
        }
        for slots in self.within(keys) {
            slots.push(Arc::clone(slot));
        }
    }

    pub(crate) fn remove(&mut self, keys: &KeyRange, id: u64) {
        for slots in self.within(keys) {
            slots.retain(|slot| slot.id != id);
        }
        self.heal(keys.start());
        if let Some(end) = keys.upper_bound() {
            self.heal(end);
        }
    }

    fn cut(&mut self, key: &Bytes) {
        if !self.cuts.contains_key(key) {
            let slots = self.at(key).to_vec();
            self.cuts.insert(key.clone(), slots);
        }
    }

    /// Takes a cut out that separates nothing any more.
    fn heal(&mut self, key: &Bytes) {
        let before = (Bound::Unbounded, Bound::Excluded(&key[..]));
        let before = self.cuts.range::<[u8], _>(before).next_back().map_or(&[][..], |(_, s)| s);
        let ids = |slots: &[Arc<Slot>]| slots.iter().map(|slot| slot.id).collect::<Vec<_>>();
        if self.cuts.get(key).is_some_and(|after| ids(after) == ids(before)) {
            self.cuts.remove(key);
        }
    }

    fn within(&mut self, keys: &KeyRange) -> impl Iterator<Item = &mut Vec<Arc<Slot>>> {
        let end = keys.upper_bound().map_or(Bound::Unbounded, |end| Bound::Excluded(&end[..]));
        let range = (Bound::Included(&keys.start()[..]), end);
        self.cuts.range_mut::<[u8], _>(range).map(|(_, slots)| slots)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use coord_core::WatchRequest;

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
            let request = WatchRequest::new(keys);
            segments.insert(keys, &Arc::new(Slot { id, request, state: Mutex::default() }));
        }
        assert_eq!(ids(&segments, "a"), []);
        assert_eq!(ids(&segments, "b"), [1]);
        assert_eq!(ids(&segments, "d"), [1, 2, 3]);
        assert_eq!(ids(&segments, "e"), [1, 2]);
        assert_eq!(ids(&segments, "f"), [2]);

        segments.remove(&ranges[1], 2);
        assert_eq!(ids(&segments, "dd"), [1, 3]);
        assert_eq!(ids(&segments, "z"), []);
        segments.remove(&ranges[2], 3);
        segments.remove(&ranges[0], 1);
        assert!(segments.cuts.is_empty(), "left behind: {:?}", segments.cuts);
    }
}
