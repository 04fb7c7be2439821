//! Foreign keys: keys in the range of a wait queue that no contender has created.
//!
//! Other programs can put keys in the range of a queue. Contenders wait behind such a key, for
//! example a key of an application, until it is deleted. The last part of a contender's key begins
//! with the id of the key's own lease, so a foreign key can be recognized:
//!
//! ```text
//! key                    lease   last part      foreign
//! jobs/a1                a1      a1             no: a contender of Go's package
//! jobs/a1-7              a1      a1, 7          no: a contender of coord, with a key suffix
//! jobs/a1-5f3a9c0e-7     a1      a1, 5f3a…, 7   no: a contender on a lease that was adopted
//! jobs/a1-x              a1      a1, x          yes: no key suffix is like that
//! jobs/a1-7              b2      a1, 7          yes: the lease of another key
//! jobs/config            none    config         yes: a contender always has a lease
//! ```

use crate::kv::LeaseId;

/// The number of hexadecimal digits of an adopter tag.
const ADOPTER_TAG_DIGITS: usize = 8;

/// Whether a key is foreign: no contender can have created it. `lease` is the lease of the key.
///
/// A key of a contender has a name that ends, after a slash, with the id of the key's own lease in
/// hexadecimal, alone or with a hyphen and a key suffix: a number, or an adopter tag of 8 digits, a
/// hyphen and a number.
///
/// Contenders wait for a foreign key in their queue like for a contender. `coord who` shows it as
/// foreign, and so do `coord list` and `coord break` if it blocks the queue.
///
/// ```
/// use coord_core::kv::LeaseId;
/// use coord_core::queue::is_foreign;
///
/// let lease = LeaseId::new(0xa1);
/// assert!(!is_foreign(b"jobs/a1-7", lease));
/// assert!(is_foreign(b"jobs/a1-x", lease));
/// assert!(is_foreign(b"jobs/config", None));
/// ```
///
/// Source: `docs/etcd-contract.md` for the ids of leases; `mutex.go` and `election.go` in etcd's
/// `client/v3/concurrency` for the names of Go's keys.
#[must_use]
pub fn is_foreign(key: &[u8], lease: Option<LeaseId>) -> bool {
    let is_contender = || {
        let last = key.iter().rposition(|byte| *byte == b'/')? + 1;
        let rest = key[last..].strip_prefix(lease?.to_string().as_bytes())?;
        Some(rest.is_empty() || is_key_suffix(rest.strip_prefix(b"-")?))
    };
    !is_contender().unwrap_or(false)
}

/// Whether this is a key suffix: a number, or an adopter tag and a number.
fn is_key_suffix(suffix: &[u8]) -> bool {
    let (tag, number) = match suffix.iter().position(|byte| *byte == b'-') {
        Some(hyphen) => (Some(&suffix[..hyphen]), &suffix[hyphen + 1..]),
        None => (None, suffix),
    };
    let is_tag =
        |tag: &[u8]| tag.len() == ADOPTER_TAG_DIGITS && tag.iter().all(u8::is_ascii_hexdigit);
    tag.is_none_or(is_tag) && !number.is_empty() && number.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_with_its_own_lease_and_a_key_suffix_is_of_a_contender() {
        let lease = LeaseId::new(0xa1);
        for key in ["jobs/a1-7", "jobs/a1", "jobs/a1-5f3a9c0e-0", "jobs/night/a1-0", "/a1"] {
            assert!(!is_foreign(key.as_bytes(), lease), "{key}");
            assert!(is_foreign(key.as_bytes(), None), "{key} without a lease");
            assert!(is_foreign(key.as_bytes(), LeaseId::new(0xa)), "{key} on another lease");
        }
    }

    /// The wait loop took `jobs/a1-x` for the key of a contender, the command line did not.
    #[test]
    fn key_without_a_key_suffix_after_its_lease_is_foreign() {
        let other = ["jobs/a2-7", "jobs/a17", "jobs/1", "a1", "jobs/a1/"];
        let no_suffix = ["jobs/a1-", "jobs/a1-x", "jobs/a1--0", "jobs/a1-7x"];
        let no_tag = ["jobs/a1-5f3a9c0e-", "jobs/a1-5f3a-0", "jobs/a1-5f3a9c0x-0"];
        for key in other.into_iter().chain(no_suffix).chain(no_tag) {
            assert!(is_foreign(key.as_bytes(), LeaseId::new(0xa1)), "{key}");
        }
    }
}
