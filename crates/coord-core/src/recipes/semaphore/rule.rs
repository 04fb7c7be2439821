//! The admission rule of a semaphore: the permits of the keys ahead and the contender's own are at
//! most the limit.
//!
//! ```text
//! stored limit 3; contenders in queue order      sum      verdict
//! a: 2                                           2        admitted
//! b: 1                                           3        admitted
//! c: 2                                           5        waits
//! d: 1                                           6        waits, although one permit would suffice
//! ```

use crate::kv::KeyValue;
use crate::queue::admission::{AdmissionRule, Ahead, Scope, Verdict};
use crate::queue::is_foreign;

/// The rule of one contender.
#[derive(Debug)]
pub(super) struct PermitRule {
    pub(super) scope: Scope,
    pub(super) permits: u32,
    /// The limit while none is stored.
    pub(super) limit: u32,
}

impl AdmissionRule for PermitRule {
    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn verdict(&self, ahead: &Ahead) -> Verdict {
        // If the stored limit cannot be read, no contender is admitted.
        let Some(limit) = stored_limit(ahead).unwrap_or(Some(self.limit)) else {
            return Verdict::Waits;
        };
        if self.permits > limit {
            return Verdict::Impossible;
        }
        match free(ahead, limit) {
            free if free >= self.permits => Verdict::Admitted,
            _ => Verdict::Waits,
        }
    }

    fn unreadable_setting<'a>(&self, ahead: &'a Ahead) -> Option<&'a KeyValue> {
        ahead.setting().filter(|kv| number(&kv.value).is_none())
    }

    fn is_foreign(&self, kv: &KeyValue) -> bool {
        is_foreign(&kv.key, kv.lease) || number(&kv.value).is_none()
    }
}

/// The stored limit; `Some(None)` if it cannot be read.
pub(super) fn stored_limit(ahead: &Ahead) -> Option<Option<u32>> {
    ahead.setting().map(|kv| number(&kv.value))
}

/// How many permits are left behind these keys. A key whose value is no number of permits counts
/// for all of them. It stops when no permit is left, so that its cost does not grow with the number
/// of waiters.
pub(super) fn free(ahead: &Ahead, limit: u32) -> u32 {
    let take = |left: u32, kv: &KeyValue| left.checked_sub(number(&kv.value)?);
    ahead.keys().try_fold(limit, take).unwrap_or(0)
}

/// How many of the first contenders of a semaphore hold permits. `in_order` are the keys of its
/// queue, `NAME/permits`, in queue order; `limit` is the value of its
/// [`limit_key`](super::limit_key).
///
/// A key whose value is no number of permits counts for all of them, so neither it nor a key behind
/// it holds permits. If the limit cannot be read, the result is 0. If the limit was lowered, a
/// holder that exceeds it is not counted, nor is any holder behind it.
///
/// ```
/// use coord_core::{kv::KeyValue, recipes::semaphore::admitted};
///
/// let kv = |value: &'static str| KeyValue { value: value.into(), ..KeyValue::default() };
/// assert_eq!(admitted(&[kv("2"), kv("1"), kv("1")], b"3"), 2);
/// assert_eq!(admitted(&[kv("2"), kv("2"), kv("1")], b"3"), 1, "the third waits behind the second");
/// ```
#[must_use]
pub fn admitted<'a>(in_order: impl IntoIterator<Item = &'a KeyValue>, limit: &[u8]) -> usize {
    let mut left = number(limit).unwrap_or(0);
    let mut take = |kv: &&KeyValue| {
        let rest = number(&kv.value).and_then(|permits| left.checked_sub(permits));
        left = rest.unwrap_or(left);
        rest.is_some()
    };
    in_order.into_iter().take_while(|kv| take(kv)).count()
}

/// A number of permits as it is stored: decimal, at least 1, without leading zeros, because clients
/// compare stored limits as text.
pub(super) fn number(value: &[u8]) -> Option<u32> {
    let digits = value.iter().all(u8::is_ascii_digit) && !value.starts_with(b"0");
    let number = std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok();
    number.filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{RangeResponse, Revision};
    use crate::queue::QueueKeys;

    /// The verdict for `permits` behind keys with these values, with this stored limit.
    fn verdict(permits: u32, limit: Option<&'static str>, ahead: &[&'static str]) -> Verdict {
        let scope =
            Scope::of_queues([QueueKeys::new("s/permits")]).with_setting("coord/limit/s".into());
        let kv = |key: String, value: &'static str| KeyValue {
            key: key.into(),
            value: value.into(),
            ..KeyValue::default()
        };
        let setting = limit.map(|limit| kv("coord/limit/s".to_owned(), limit));
        let ahead = (0..).zip(ahead).map(|(n, value)| kv(format!("s/permits/{n}"), value));
        let kvs = setting.into_iter().chain(ahead).collect();
        let read = RangeResponse { kvs, ..RangeResponse::default() };
        let ahead = Ahead::all(&scope, Revision(9), [read]);
        PermitRule { scope, permits, limit: 3 }.verdict(&ahead)
    }

    #[test]
    fn sum_of_permits_decides_within_the_limit() {
        for limit in [Some("3"), None] {
            assert_eq!(verdict(3, limit, &[]), Verdict::Admitted);
            assert_eq!(verdict(1, limit, &["2"]), Verdict::Admitted);
            assert_eq!(verdict(2, limit, &["2"]), Verdict::Waits);
            assert_eq!(verdict(1, limit, &["2", "2"]), Verdict::Waits, "the limit was lowered");
        }
        assert_eq!(verdict(2, Some("4"), &["2"]), Verdict::Admitted, "the stored limit counts");
        assert_eq!(verdict(2, Some("1"), &[]), Verdict::Impossible);
    }

    #[test]
    fn first_contenders_within_the_limit_hold_permits() {
        let count = |values: &[&'static str], limit: &str| {
            let kv =
                |value: &&'static str| KeyValue { value: (*value).into(), ..KeyValue::default() };
            admitted(&values.iter().map(kv).collect::<Vec<_>>(), limit.as_bytes())
        };
        assert_eq!(count(&["2", "1", "2", "1"], "3"), 2);
        assert_eq!(count(&["2", "2", "1"], "3"), 1, "a later contender does not overtake");
        assert_eq!(count(&["1", "many", "1"], "3"), 1);
        assert_eq!(count(&["1"], "three"), 0);
        assert_eq!(count(&["1", "01", "1"], "3"), 1, "no client has written a leading zero");
    }

    #[test]
    fn unreadable_values_admit_no_contender() {
        for value in ["", "0", "03", "-1", "+1", "1.5", "many", "4294967296"] {
            assert_eq!(verdict(1, Some("3"), &[value]), Verdict::Waits, "permits {value:?}");
            assert_eq!(verdict(1, Some(value), &[]), Verdict::Waits, "limit {value:?}");
        }
        assert_eq!(verdict(1, Some("3"), &["4294967295", "1"]), Verdict::Waits);
    }
}
