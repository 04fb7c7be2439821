//! Numbers that tell the keys of a session apart, given out again when their keys are surely gone.
//!
//! A key that was deleted is not forgotten by etcd before the next compaction: every read of a
//! range passes it by. If each lock made a key of its own, the ten thousandth would take ten times
//! as long as the first. So a session uses few keys, again and again, the smallest numbers first.
//!
//! A number that may still be on its way into the store is never given out again: burnt.
//!
//! A lease that is adopted carries keys of its former owner, and requests of the former owner may
//! still arrive. So the keys of an adopter also have a *generation* in their name, which is drawn
//! at random when the lease is adopted: they never have the name of a key of another owner.
//!
//! ```text
//! granted to A        jobs/694d82a1-0    jobs/694d82a1-1
//! adopted by B        jobs/694d82a1-5f3a9c0e-0
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The numbers of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    /// Drawn when the lease was adopted; `None` if it was granted to this session.
    generation: Option<u32>,
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
    generation: Option<u32>,
    value: u64,
    numbers: Option<Numbers>,
}

impl Numbers {
    /// The numbers of a session that has adopted its lease.
    pub(super) fn of_adopter() -> Self {
        Self { generation: Some(fastrand::u32(..)), ..Self::default() }
    }

    pub(super) const fn are_of_adopter(&self) -> bool {
        self.generation.is_some()
    }

    /// The smallest number that nobody has.
    pub(super) fn take(&self) -> Number {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let value = free.given_back.pop_first().unwrap_or_else(|| {
            free.next += 1;
            free.next - 1
        });
        Number { generation: self.generation, value, numbers: Some(self.clone()) }
    }
}

impl Number {
    /// A number of a session that was granted its lease.
    #[cfg(test)]
    pub(crate) const fn of(value: u64) -> Self {
        Self { generation: None, value, numbers: None }
    }

    /// Nobody is to have it again.
    pub(crate) fn burn(&mut self) {
        self.numbers = None;
    }
}

impl fmt::Display for Number {
    /// As in the names of keys, behind the lease.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation {
            Some(generation) => write!(f, "{generation:08x}-{}", self.value),
            None => write!(f, "{}", self.value),
        }
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
        assert_eq!([&zero, &one, &two].map(ToString::to_string), ["0", "1", "2"]);
        one.burn();
        drop((one, two, zero));
        let again = [numbers.take(), numbers.take(), numbers.take()];
        assert_eq!(again.map(|number| number.to_string()), ["0", "2", "3"]);
    }

    #[test]
    fn adopters_of_one_lease_have_different_keys() {
        let (one, other) = (Numbers::of_adopter(), Numbers::of_adopter());
        let (one, other) = (one.take().to_string(), other.take().to_string());
        assert!(one.ends_with("-0") && one.len() == 10, "{one}");
        assert_ne!(one, other);
        assert_ne!(one, Numbers::default().take().to_string());
    }
}
