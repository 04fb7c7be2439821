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
//! written all the time.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use coord_core::KeyRange;

use super::Slot;

/// Watchers by segment.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    /// Sorted. Before the first cut nobody watches.
    cuts: Vec<Cut>,
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
        self.before(self.cuts.partition_point(|cut| cut.at <= key))
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
        }
    }

    /// Takes a cut out that separates nothing any more.
    fn heal(&mut self, at: &Bytes) {
        let ids = |slots: &[Arc<Slot>]| slots.iter().map(|slot| slot.id).collect::<Vec<_>>();
        if let Ok(place) = self.cuts.binary_search_by(|cut| cut.at.cmp(at))
            && ids(self.before(place)) == ids(&self.cuts[place].slots)
        {
            self.cuts.remove(place);
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
}
