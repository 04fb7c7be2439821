//! Numbers that tell the keys of a session apart, given out again when their keys are surely gone.
//!
//! A key that was deleted is not forgotten by etcd before the next compaction: every read of a
//! range passes it by. If each lock made a key of its own, the ten thousandth would take ten times
//! as long as the first. So a session uses few keys, again and again, the smallest numbers first.
//!
//! A number that may still be on its way into the store is never given out again: burnt.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The numbers of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    free: Arc<Mutex<Free>>,
}

#[derive(Debug, Default)]
struct Free {
    given_back: BTreeSet<u64>,
    /// All from here on were never given out.
    next: u64,
}

/// A number that nobody else has. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Number {
    value: u64,
    numbers: Option<Numbers>,
}

impl Numbers {
    /// The smallest number that nobody has.
    pub(super) fn take(&self) -> Number {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let value = free.given_back.pop_first().unwrap_or_else(|| {
            free.next += 1;
            free.next - 1
        });
        Number { value, numbers: Some(self.clone()) }
    }
}

impl Number {
    pub(crate) const fn value(&self) -> u64 {
        self.value
    }

    /// Nobody is to have it again.
    pub(crate) fn burn(&mut self) {
        self.numbers = None;
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        if let Some(numbers) = self.numbers.take() {
            let mut free = numbers.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.given_back.insert(self.value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smallest_free_number_is_given_out_and_burnt_ones_never_again() {
        let numbers = Numbers::default();
        let (zero, mut one, two) = (numbers.take(), numbers.take(), numbers.take());
        assert_eq!([zero.value(), one.value(), two.value()], [0, 1, 2]);
        one.burn();
        drop((one, two, zero));
        let again = [numbers.take(), numbers.take(), numbers.take()];
        assert_eq!(again.map(|number| number.value()), [0, 2, 3]);
    }
}
