//! What a contender knows of those before it.
//!
//! A place in the line is a key and the revision that created it. Nobody ever joins before anybody,
//! so those before me only become fewer, and whoever has seen *all* of them needs no other read of
//! the line: asking for their keys one by one tells who is left. That spares the store from
//! reading a line of a thousand to answer the second in it. Of many before me only the nearest is
//! remembered, and when that one leaves the line has to be read again.
//!
//! Whoever comes back into a long line need not even read it to find the nearest: that is most
//! likely the neighbour of last time, and the join asks whether it is there. If others stand
//! between the two, that was a wrong guess, and the read after it has left shows them.
//!
//! ```text
//! create revision   key                      seen by 18        seen by 31
//!              12   jobs/1-1                 Few [17, 12]
//!              15   jobs/night/9-2  (of another line)
//!              17   jobs/3-1
//!              18   jobs/4-9                 me
//!         20 to 30   …                                         Many, nearest 30
//!              31   jobs/7-1                                   me
//! ```

use std::cmp::Ordering;

use bytes::Bytes;

use super::keys::{Keys, NEAREST};
use crate::kv::{KeyValue, OpResponse, Range, RangeResponse, Revision};

/// A key in a line, in the life that began at a revision. Two are equal that have the same key and
/// the same create revision: a client that overwrites the key without its lease changes neither.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: Bytes,
    pub(super) created: Revision,
    /// Whether no contender can have put the key: it has no lease, or its name is not made from
    /// its lease.
    pub(super) is_foreign: bool,
}

impl Place {
    /// The place of a contender.
    pub(super) const fn new(key: Bytes, created: Revision) -> Self {
        Self { key, created, is_foreign: false }
    }

    /// The place that a key has now.
    pub(super) fn of(kv: &KeyValue) -> Self {
        let is_foreign = kv.lease.is_none_or(|lease| {
            let (lease, id) = (lease.to_string(), kv.key.rsplit(|byte| *byte == b'/').next());
            let suffix = id.and_then(|id| id.strip_prefix(lease.as_bytes()));
            suffix.is_none_or(|suffix| !suffix.is_empty() && !suffix.starts_with(b"-"))
        });
        Self { key: kv.key.clone(), created: kv.create_revision, is_foreign }
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Place {}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.key, self.created).cmp(&(&other.key, other.created))
    }
}

/// Where in the line a contender stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody is before me, and my own key was seen at the same revision.
    First,
    /// These were before me, nearest first, and nobody else.
    Few(Vec<Place>),
    /// This one was right before me, and any number of others before it.
    Many(Place),
    /// This one was before me; perhaps others were between the two, and any number before it.
    Guessed(Place),
    /// The line has to be read.
    Unknown,
    /// My key is not in the line, or not the one I put there.
    Gone,
}

impl Standing {
    /// What the answer to a join's question who is before it tells about my place.
    pub(super) fn told(keys: &Keys, mine: &Place, told: &OpResponse) -> Self {
        match told {
            OpResponse::Range(read) => Self::read(keys, mine, read),
            OpResponse::Txn(asked) => match asked.responses.first() {
                Some(OpResponse::Range(read)) if asked.succeeded => {
                    read.kvs.first().map_or(Self::Unknown, |kv| Self::Guessed(Place::of(kv)))
                }
                Some(OpResponse::Range(read)) => Self::read(keys, mine, read),
                _ => Self::Unknown,
            },
            _ => Self::Unknown,
        }
    }

    /// What a read of the line, last first and up to me, tells about my place.
    pub(super) fn read(keys: &Keys, mine: &Place, read: &RangeResponse) -> Self {
        let mut kvs = read.kvs.iter();
        if kvs.next().map(Place::of).as_ref() != Some(mine) {
            return Self::Gone;
        }
        let owned = kvs.filter(|kv| keys.owns(&kv.key));
        let mut before: Vec<_> = owned.map(Place::of).take(NEAREST + 1).collect();
        match before.len() {
            0 if read.more => Self::Unknown,
            0 => Self::First,
            few if few <= NEAREST && !read.more => Self::Few(before),
            _ => Self::Many(before.swap_remove(0)),
        }
    }

    /// Whom to wait for.
    pub(super) fn nearest(&self) -> Option<&Place> {
        match self {
            Self::Few(before) => before.first(),
            Self::Many(nearest) | Self::Guessed(nearest) => Some(nearest),
            Self::First | Self::Unknown | Self::Gone => None,
        }
    }

    /// Whether many are before me.
    pub(super) const fn in_crowd(&self) -> bool {
        matches!(self, Self::Many(_) | Self::Guessed(_))
    }

    /// What to [`read`](Self::read) when the nearest leaves, if nobody is before that one.
    pub(super) fn to_see(&self, keys: &Keys, mine: &Place) -> Range {
        match self {
            Self::Few(_) | Self::Many(_) => Range::new(&mine.key).keys_only(),
            _ => keys.narrow(mine.created),
        }
    }

    /// The places that are worth asking for one by one; `None` if the line has to be read.
    pub(super) fn known(&self) -> Option<&[Place]> {
        match self {
            Self::First => Some(&[]),
            Self::Few(before) => Some(before),
            Self::Many(nearest) | Self::Guessed(nearest) => Some(std::slice::from_ref(nearest)),
            Self::Unknown | Self::Gone => None,
        }
    }

    /// After the nearest has left.
    pub(super) fn without_nearest(self) -> Self {
        match self {
            Self::Few(mut before) => {
                before.remove(0);
                Self::Few(before)
            }
            Self::Many(_) | Self::Guessed(_) => Self::Unknown,
            other => other,
        }
    }

    /// After my key was seen, and of the [`known`](Self::known) those for which `left` is false.
    pub(super) fn without(self, left: impl Fn(&Place) -> bool) -> Self {
        match self {
            Self::Few(mut before) => {
                before.retain(|place| !left(place));
                if before.is_empty() { Self::First } else { Self::Few(before) }
            }
            Self::Many(nearest) | Self::Guessed(nearest) if left(&nearest) => Self::Unknown,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::LeaseId;

    fn kv(key: &str, create_revision: i64) -> KeyValue {
        let create_revision = Revision(create_revision);
        let id = key.rsplit('/').next().and_then(|id| id.split('-').next());
        let lease = id.and_then(|id| i64::from_str_radix(id, 16).ok()).and_then(LeaseId::new);
        KeyValue { key: key.to_owned().into(), create_revision, lease, ..KeyValue::default() }
    }

    #[test]
    fn key_without_lease_or_of_other_form_is_foreign() {
        let contender = kv("jobs/4a-1", 18);
        assert!(!Place::of(&contender).is_foreign && !Place::of(&kv("jobs/4a", 18)).is_foreign);
        assert!(Place::of(&KeyValue { lease: None, ..contender.clone() }).is_foreign);
        assert!(Place::of(&KeyValue { lease: LeaseId::new(5), ..contender }).is_foreign);
        assert!(Place::of(&KeyValue { lease: LeaseId::new(4), ..kv("jobs/4a", 1) }).is_foreign);
    }

    fn place(key: &str, created: i64) -> Place {
        Place::new(key.to_owned().into(), Revision(created))
    }

    fn standing(kvs: &[&KeyValue], more: bool) -> Standing {
        let kvs = kvs.iter().copied().cloned().collect();
        let read = RangeResponse { kvs, more, ..RangeResponse::default() };
        Standing::read(&Keys::new("jobs"), &place("jobs/4-1", 18), &read)
    }

    #[test]
    fn keys_of_other_lines_do_not_count_but_may_hide_others() {
        let (mine, before) = (kv("jobs/4-1", 18), kv("jobs/3-1", 17));
        let (other, first) = (kv("jobs/night/1-2", 15), kv("jobs/1-1", 12));
        let few = |places: &[Place]| Standing::Few(places.to_vec());

        assert_eq!(standing(&[&mine], false), Standing::First);
        assert_eq!(standing(&[&mine, &before], false), few(&[place("jobs/3-1", 17)]));
        assert_eq!(standing(&[&mine, &before], true), Standing::Many(place("jobs/3-1", 17)));
        assert_eq!(standing(&[&mine, &other], false), Standing::First);
        assert_eq!(standing(&[&mine, &other], true), Standing::Unknown);
        assert_eq!(standing(&[&mine, &other, &first], false), few(&[place("jobs/1-1", 12)]));
        assert_eq!(standing(&[&before], true), Standing::Gone);
        assert_eq!(standing(&[&kv("jobs/4-1", 20)], false), Standing::Gone, "another life");
    }

    #[test]
    fn of_more_than_a_few_only_the_nearest_is_remembered() {
        let kvs: Vec<_> = (0..=5).map(|n| kv(&format!("jobs/4-{}", n + 1), 18 - n)).collect();
        let few = standing(&kvs[..=NEAREST].iter().collect::<Vec<_>>(), false);
        assert_eq!(few.known().map(<[_]>::len), Some(NEAREST));
        let many = standing(&kvs.iter().collect::<Vec<_>>(), false);
        assert_eq!(many, Standing::Many(place("jobs/4-2", 17)));
        assert_eq!(many.without_nearest(), Standing::Unknown);
    }

    #[test]
    fn few_become_fewer_until_nobody_is_left() {
        let few = Standing::Few(vec![place("b", 7), place("a", 5)]);
        let fewer = few.clone().without(|place| place.created == Revision(7));
        assert_eq!(fewer, Standing::Few(vec![place("a", 5)]));
        assert_eq!(fewer.without(|_| true), Standing::First);
        let unseen = few.without_nearest().without_nearest();
        assert_eq!(unseen, Standing::Few(Vec::new()), "not first before my own key was seen");
        assert_eq!(unseen.without(|_| true), Standing::First);
    }
}
