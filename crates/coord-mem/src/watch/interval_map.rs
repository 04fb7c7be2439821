//! Interval map: finds the watchers of the ranges that contain a key.
//!
//! The key space is divided at every point where a watched range begins or ends, a *boundary*. All
//! keys between two boundaries have the same watchers, so each boundary stores the watchers of the
//! interval that begins there.
//!
//! ```text
//! 1 watches [b, f), 2 watches [d, ∞):
//!
//!   ""        b         d         f
//!   |  none   |    1    |   1 2   |    2
//! ```
//!
//! One binary search finds the watchers of a key. To add a range, the map moves all later
//! boundaries and visits each interval that the range spans. That is the right trade-off, because
//! ranges are added rarely and keys are written all the time.
//!
//! A binary search over keys would read a different heap allocation at each step. Therefore the
//! search first compares the prefix that all boundaries share, once for all. Then it compares the
//! next eight bytes of each boundary, its *head*. The heads are numbers in one array. Only
//! boundaries with the same head are compared as keys:
//!
//! ```text
//! boundaries     /locks/a   /locks/b   /locks/mutex-01   /locks/mutex-02
//! shared prefix  /locks/
//! heads          a.......   b.......   mutex-01          mutex-02          (. is a zero)
//!
//! /members/1         differs within the shared prefix: after all boundaries
//! /locks/c           between the heads of b and mutex-01
//! /locks/mutex-01/x  has the head of /locks/mutex-01; as a key it is greater: after that boundary
//! ```

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use coord_core::kv::KeyRange;

use super::Registration;

/// The watchers of every interval of the key space.
#[derive(Debug, Default)]
pub(crate) struct IntervalMap {
    /// Sorted by key. No watcher's range contains a key before the first boundary.
    boundaries: Vec<Boundary>,
    /// Length in bytes of the prefix that all boundaries share.
    shared_prefix_len: usize,
    /// The [`head`] of each boundary, in the order of `boundaries`.
    heads: Vec<u64>,
}

/// The first key of an interval, and the watchers of that interval.
#[derive(Debug)]
struct Boundary {
    at: Bytes,
    registrations: Vec<Arc<Registration>>,
}

impl IntervalMap {
    pub(crate) const fn is_empty(&self) -> bool {
        self.boundaries.is_empty()
    }

    /// The watchers whose ranges contain the key.
    pub(crate) fn watchers_of(&self, key: &[u8]) -> &[Arc<Registration>] {
        self.watchers_before(self.boundaries_up_to(key))
    }

    /// All watchers, each once for every interval of its range.
    pub(crate) fn registrations(&self) -> impl Iterator<Item = &Arc<Registration>> {
        self.boundaries.iter().flat_map(|boundary| &boundary.registrations)
    }

    /// The number of boundaries that are less than or equal to the key.
    fn boundaries_up_to(&self, key: &[u8]) -> usize {
        let Some(first) = self.boundaries.first() else { return 0 };
        match key[..self.shared_prefix_len.min(key.len())].cmp(&first.at[..self.shared_prefix_len])
        {
            Ordering::Less => return 0,
            Ordering::Greater => return self.boundaries.len(),
            Ordering::Equal => {}
        }
        let head = head(key, self.shared_prefix_len);
        let from = self.heads.partition_point(|other| *other < head);
        let equal = self.heads[from..].partition_point(|other| *other == head);
        from + self.boundaries[from..from + equal].partition_point(|boundary| boundary.at <= key)
    }

    /// Adds a watcher to all intervals of its range.
    pub(crate) fn insert(&mut self, keys: &KeyRange, registration: &Arc<Registration>) {
        self.add_boundary(keys.start());
        if let Some(end) = keys.upper_bound() {
            self.add_boundary(end);
        }
        let indices = self.boundaries_in(keys);
        for boundary in &mut self.boundaries[indices] {
            boundary.registrations.push(Arc::clone(registration));
        }
    }

    /// Removes a watcher from all intervals of its range.
    pub(crate) fn remove(&mut self, keys: &KeyRange, id: u64) {
        let indices = self.boundaries_in(keys);
        for boundary in &mut self.boundaries[indices] {
            boundary.registrations.retain(|registration| registration.id != id);
        }
        self.remove_redundant_boundary(keys.start());
        if let Some(end) = keys.upper_bound() {
            self.remove_redundant_boundary(end);
        }
    }

    /// The watchers of the interval that ends at the boundary with this index.
    fn watchers_before(&self, index: usize) -> &[Arc<Registration>] {
        index.checked_sub(1).map_or(&[], |before| &self.boundaries[before].registrations)
    }

    /// Divides the interval that contains the key `at`, so that an interval begins at this key.
    fn add_boundary(&mut self, at: &Bytes) {
        if let Err(index) = self.boundaries.binary_search_by(|boundary| boundary.at.cmp(at)) {
            let registrations = self.watchers_before(index).to_vec();
            self.boundaries.insert(index, Boundary { at: at.clone(), registrations });
            self.heads.insert(index, head(at, self.shared_prefix_len));
            self.update_shared_prefix();
        }
    }

    /// Recomputes the shared prefix, and the heads if it changed.
    fn update_shared_prefix(&mut self) {
        let (Some(first), Some(last)) = (self.boundaries.first(), self.boundaries.last()) else {
            return;
        };
        // The boundaries are sorted, so a prefix of the first and the last is a prefix of all.
        let shared = first.at.iter().zip(&last.at).take_while(|(a, b)| a == b).count();
        if shared != self.shared_prefix_len {
            self.shared_prefix_len = shared;
            self.heads =
                self.boundaries.iter().map(|boundary| head(&boundary.at, shared)).collect();
        }
    }

    /// Removes the boundary at a key if the intervals on both sides have the same watchers.
    fn remove_redundant_boundary(&mut self, at: &Bytes) {
        let ids = |registrations: &[Arc<Registration>]| {
            registrations.iter().map(|registration| registration.id).collect::<Vec<_>>()
        };
        if let Ok(index) = self.boundaries.binary_search_by(|boundary| boundary.at.cmp(at))
            && ids(self.watchers_before(index)) == ids(&self.boundaries[index].registrations)
        {
            self.boundaries.remove(index);
            self.heads.remove(index);
            self.update_shared_prefix();
        }
    }

    /// The indices of the boundaries within a range.
    fn boundaries_in(&self, keys: &KeyRange) -> Range<usize> {
        let start = self.boundaries.partition_point(|boundary| boundary.at < *keys.start());
        let end = keys.upper_bound().map_or(self.boundaries.len(), |end| {
            self.boundaries.partition_point(|boundary| boundary.at < *end)
        });
        start..end
    }
}

/// The eight bytes of a key from `start` on, padded with zeros, as a big-endian number: heads
/// compare as those bytes do.
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

    fn ids(interval_map: &IntervalMap, key: &str) -> Vec<u64> {
        interval_map
            .watchers_of(key.as_bytes())
            .iter()
            .map(|registration| registration.id)
            .collect()
    }

    #[test]
    fn watchers_of_key_follow_insert_and_remove() {
        let mut interval_map = IntervalMap::default();
        let ranges =
            [KeyRange::between("b", "f"), KeyRange::starting_at("d"), KeyRange::prefix("d")];
        for (id, keys) in (1..).zip(&ranges) {
            let request = Watch::new(keys);
            interval_map
                .insert(keys, &Arc::new(Registration { id, request, state: Mutex::default() }));
        }
        assert!(ids(&interval_map, "a").is_empty());
        assert_eq!(ids(&interval_map, "b"), [1]);
        assert_eq!(ids(&interval_map, "d"), [1, 2, 3]);
        assert_eq!(ids(&interval_map, "e"), [1, 2]);
        assert_eq!(ids(&interval_map, "f"), [2]);

        interval_map.remove(&ranges[1], 2);
        assert_eq!(ids(&interval_map, "dd"), [1, 3]);
        assert!(ids(&interval_map, "z").is_empty());
        interval_map.remove(&ranges[2], 3);
        interval_map.remove(&ranges[0], 1);
        assert!(
            interval_map.boundaries.is_empty(),
            "boundaries left over: {:?}",
            interval_map.boundaries
        );
    }

    #[test]
    fn boundary_search_matches_a_linear_count() {
        // Shared prefixes of no, two and four bytes; heads that are equal, shorter than eight
        // bytes, and that contain zeros.
        let names = ["", "a", "a\0", "ab", "abcdefgh", "abcdefgh\0", "abcdefghi", "abcdefghj", "b"];
        let keys = ["", "x/", "x/y/"].map(|start| names.map(|name| format!("{start}{name}")));
        let mut keys = keys.concat();
        keys.sort();
        let check_every_key = |interval_map: &IntervalMap| {
            for key in &keys {
                let key = key.as_bytes();
                let counted =
                    interval_map.boundaries.iter().filter(|boundary| boundary.at <= key).count();
                assert_eq!(
                    interval_map.boundaries_up_to(key),
                    counted,
                    "{key:?} in {interval_map:?}"
                );
            }
        };
        for chosen in 1..1 << 10 {
            let mut interval_map = IntervalMap::default();
            // The subset of ten keys that the bits of `chosen` select, out of order.
            let at = |n: usize| &keys[n * 8 % keys.len()];
            let watched: Vec<_> = (0..10).filter(|n| chosen >> n & 1 == 1).map(at).collect();
            let registrations = watched.iter().zip(1..).map(|(name, id)| {
                let keys = KeyRange::starting_at(name.as_bytes());
                let request = Watch::new(&keys);
                (keys, Arc::new(Registration { id, request, state: Mutex::default() }))
            });
            let registrations: Vec<_> = registrations.collect();
            for (keys, registration) in &registrations {
                interval_map.insert(keys, registration);
            }
            check_every_key(&interval_map);
            for (keys, registration) in &registrations {
                interval_map.remove(keys, registration.id);
                check_every_key(&interval_map);
            }
        }
    }
}
