//! The key names of a message queue.
//!
//! ```text
//! jobs/section                                               its mod revision is the number
//! jobs/messages/00100/000000000000001f/694d82a1-0-0000000007 a message: priority, section, id
//! jobs/messages-claimed/694d82a1-0-0000000007                its claim
//! jobs/dead/00100/000000000000001f/694d82a1-0-0000000009/5   a dead letter, after 5 attempts
//! jobs/takers/694d82a1-3                                     a taker that waits
//! ```
//!
//! Messages and claims share the prefix `jobs/messages`, so that one watch covers both. Names are
//! separated by slashes, and a key without these parts is ignored: the queue `jobs` has no
//! message of the queues `jobs2` or `jobs/night`.

use std::str;

use bytes::Bytes;

use crate::kv::{KeyRange, KeyValue, Revision};

/// The keys of one message queue.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    name: Bytes,
}

/// The place of a message among all messages: the part of its key after `NAME/messages/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(Bytes);

impl Keys {
    pub(super) const fn new(name: Bytes) -> Self {
        Self { name }
    }

    pub(super) const fn name(&self) -> &Bytes {
        &self.name
    }

    fn below(&self, parts: &[&[u8]]) -> Bytes {
        [&[&self.name[..]], parts].concat().concat().into()
    }

    /// The key whose mod revision is the number of the current section.
    pub(super) fn section(&self) -> Bytes {
        self.below(&[b"/section"])
    }

    /// The name of the wait queue of takers.
    pub(super) fn takers(&self) -> Bytes {
        self.below(&[b"/takers"])
    }

    /// All messages.
    pub(super) fn messages(&self) -> KeyRange {
        KeyRange::prefix(self.below(&[b"/messages/"]))
    }

    /// The messages with a lower priority number than `priority`.
    pub(super) fn messages_before(&self, priority: u16) -> KeyRange {
        let end = format!("{priority:05}/");
        KeyRange::between(
            self.below(&[b"/messages/"]),
            self.below(&[b"/messages/", end.as_bytes()]),
        )
    }

    /// All claims.
    pub(super) fn claims(&self) -> KeyRange {
        KeyRange::prefix(self.below(&[b"/messages-claimed/"]))
    }

    /// All messages and claims.
    pub(super) fn watched(&self) -> KeyRange {
        KeyRange::prefix(self.below(&[b"/messages"]))
    }

    /// All dead letters.
    pub(super) fn dead_letters(&self) -> KeyRange {
        KeyRange::prefix(self.below(&[b"/dead/"]))
    }

    pub(super) fn message(&self, place: &Place) -> Bytes {
        self.below(&[b"/messages/", &place.0])
    }

    pub(super) fn claim(&self, place: &Place) -> Bytes {
        self.below(&[b"/messages-claimed/", place.id()])
    }

    pub(super) fn dead_letter(&self, place: &Place, attempts: u32) -> Bytes {
        self.below(&[b"/dead/", &place.0, b"/", attempts.to_string().as_bytes()])
    }

    /// The place of the message with this key; `None` for the key of anything else.
    pub(super) fn place(&self, key: &Bytes) -> Option<Place> {
        let prefix = self.name.len() + b"/messages/".len();
        let is_below =
            key.starts_with(&self.name) && key.get(self.name.len()..prefix)? == b"/messages/";
        is_below.then(|| Place::parse(key.slice(prefix..))).flatten()
    }

    /// The id of the message that a claim belongs to; `None` for the key of anything else.
    pub(super) fn claimed_id(&self, key: &Bytes) -> Option<Bytes> {
        let prefix = self.below(&[b"/messages-claimed/"]);
        key.starts_with(&prefix).then(|| key.slice(prefix.len()..))
    }

    /// The place and the attempts of a dead letter; `None` for the key of anything else.
    pub(super) fn dead(&self, kv: &KeyValue) -> Option<(Place, u32)> {
        let prefix = self.below(&[b"/dead/"]);
        let rest = kv.key.starts_with(&prefix).then(|| kv.key.slice(prefix.len()..))?;
        let slash = rest.iter().rposition(|&byte| byte == b'/')?;
        let attempts = str::from_utf8(&rest[slash + 1..]).ok()?.parse().ok()?;
        Some((Place::parse(rest.slice(..slash))?, attempts))
    }
}

impl Place {
    pub(super) fn new(priority: u16, section: Revision, id: &str) -> Self {
        Self(format!("{priority:05}/{:016x}/{id}", section.0).into())
    }

    fn parse(key: Bytes) -> Option<Self> {
        let place = Self(key);
        let mut parts = place.0.split(|&byte| byte == b'/');
        let (priority, section, id) = (parts.next()?, parts.next()?, parts.next()?);
        let is_place = priority.len() == 5
            && str::from_utf8(priority).ok()?.parse::<u16>().is_ok()
            && section.len() == 16
            && !id.is_empty()
            && parts.next().is_none();
        is_place.then_some(place)
    }

    /// The priority. The lowest number is first.
    pub(super) fn priority(&self) -> u16 {
        str::from_utf8(&self.0[..5]).ok().and_then(|text| text.parse().ok()).unwrap_or(u16::MAX)
    }

    /// The priority and the section: among messages that share both, the create revision decides.
    pub(super) fn group(&self) -> &[u8] {
        &self.0[..22]
    }

    pub(super) fn id(&self) -> &[u8] {
        &self.0[23..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_parsed_and_other_keys_are_not() {
        let keys = Keys::new("q".into());
        let place = Place::new(7, Revision(31), "a1-0-0000000001");
        assert_eq!(keys.message(&place), "q/messages/00007/000000000000001f/a1-0-0000000001");
        assert_eq!(keys.place(&keys.message(&place)), Some(place.clone()));
        assert_eq!((place.priority(), place.id()), (7, &b"a1-0-0000000001"[..]));
        assert_eq!(place.group(), b"00007/000000000000001f");
        let claim = keys.claim(&place);
        assert_eq!(claim, "q/messages-claimed/a1-0-0000000001");
        assert_eq!(keys.claimed_id(&claim), Some("a1-0-0000000001".into()));
        for other in [
            "q/messages/7/000000000000001f/x",
            "q/messages/00007/1f/x",
            "q/messages/00007/000000000000001f/",
            "q/messages/00007/000000000000001f/x/y",
            "q/x/messages/00007/000000000000001f/x",
            "q2/messages/00007/000000000000001f/x",
            "q",
        ] {
            assert_eq!(keys.place(&other.into()), None, "{other}");
        }
    }

    #[test]
    fn dead_letters_keep_place_and_attempts() {
        let keys = Keys::new("q".into());
        let place = Place::new(100, Revision(5), "a1-0-0000000001");
        let key = keys.dead_letter(&place, 5);
        assert_eq!(keys.dead(&KeyValue { key, ..KeyValue::default() }), Some((place, 5)));
    }
}
