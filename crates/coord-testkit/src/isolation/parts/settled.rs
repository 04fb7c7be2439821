//! The numbers of transactions of which no further attempt is expected.
//!
//! Numbers are given in the order in which transactions begin, so the settled ones are few ranges:
//!
//! ```text
//! settled     1 2 3   5 6
//! ranges      [1, 3] [5, 6]       4 is in progress
//! ```
//!
//! A transaction that has not committed may be attempted again. It counts as settled when none of
//! its attempts was seen for some parts.

use std::collections::BTreeMap;

use hashbrown::HashMap;

/// After how many parts a transaction that has not committed is settled.
const PARTS_MAX: u32 = 8;

/// The numbers of settled transactions, and the transactions in progress.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// The first and the last number of each range.
    ranges: BTreeMap<u64, u64>,
    /// When the first attempt of a transaction began, and the part of its last attempt.
    open: HashMap<u64, (u64, u32)>,
    part: u32,
}

impl Settled {
    pub(super) fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, last)| number <= *last)
    }

    /// Notes that a transaction has committed.
    pub(super) fn settle(&mut self, number: u64) {
        self.open.remove(&number);
        if self.contains(number) {
            return;
        }
        let before = self.ranges.range(..number).next_back().map(|(first, last)| (*first, *last));
        let first = match before {
            Some((first, last)) if last + 1 == number => first,
            _ => number,
        };
        let after = number.checked_add(1).and_then(|next| self.ranges.remove(&next));
        self.ranges.insert(first, after.unwrap_or(number));
    }

    /// Notes an attempt that has not committed.
    pub(super) fn keep_open(&mut self, number: u64, began: u64) {
        if self.contains(number) {
            return;
        }
        let open = self.open.entry(number).or_insert((began, self.part));
        *open = (open.0.min(began), self.part);
    }

    /// Starts the next part. Returns when the transactions in progress began.
    pub(super) fn next_part(&mut self) -> HashMap<u64, u64> {
        self.part += 1;
        let oldest = self.part.saturating_sub(PARTS_MAX);
        let is_old = |(number, (_, seen)): (&u64, &(u64, u32))| (*seen < oldest).then_some(*number);
        let old: Vec<u64> = self.open.iter().filter_map(is_old).collect();
        old.into_iter().for_each(|number| self.settle(number));
        self.open.iter().map(|(number, (began, _))| (*number, *began)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_numbers_are_one_range() {
        let mut settled = Settled::default();
        for number in [5, 1, 3, 2, 6, u64::MAX, 3] {
            settled.settle(number);
        }
        let ranges: Vec<_> = settled.ranges.iter().map(|(first, last)| (*first, *last)).collect();
        assert_eq!(ranges, [(1, 3), (5, 6), (u64::MAX, u64::MAX)]);
        let contained: Vec<_> = (0..8).filter(|number| settled.contains(*number)).collect();
        assert_eq!(contained, [1, 2, 3, 5, 6]);
    }

    #[test]
    fn transaction_is_settled_some_parts_after_its_last_attempt() {
        let mut settled = Settled::default();
        settled.keep_open(7, 20);
        settled.keep_open(7, 10);
        for _ in 0..PARTS_MAX {
            assert_eq!(settled.next_part().get(&7), Some(&10));
        }
        assert!(settled.next_part().is_empty());
        assert!(settled.contains(7));
    }
}
