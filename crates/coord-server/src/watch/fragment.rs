//! Fragments: a watch response that is too large for one message, split into several messages.
//!
//! A response is split between events; an event that exceeds the limit by itself is sent alone. All
//! fragments but the last are marked with `fragment`.
//!
//! Source: `docs/etcd-contract.md` §6; etcd 3.5 `sendFragments` in
//! `server/etcdserver/api/v3rpc/watch.go`.

use etcd_client::proto::PbWatchResponse;
use prost::Message;
use prost::encoding::message;

/// The field number of `WatchResponse.events`.
const EVENTS_FIELD_NUMBER: u32 = 11;

/// Splits a response into fragments of less than `limit` bytes each, as far as single events allow.
pub(super) fn split(whole: PbWatchResponse, limit: usize) -> Vec<PbWatchResponse> {
    if whole.events.len() < 2 || whole.encoded_len() < limit {
        return vec![whole];
    }
    let PbWatchResponse { events, .. } = whole;
    let empty = PbWatchResponse { events: Vec::new(), fragment: true, ..whole };
    let empty_size = empty.encoded_len();
    let mut fragments = Vec::new();
    let (mut fragment, mut size) = (empty.clone(), empty_size);
    for event in events {
        let event_size = message::encoded_len(EVENTS_FIELD_NUMBER, &event);
        if !fragment.events.is_empty() && size + event_size >= limit {
            fragments.push(std::mem::replace(&mut fragment, empty.clone()));
            size = empty_size;
        }
        size += event_size;
        fragment.events.push(event);
    }
    fragment.fragment = false;
    fragments.push(fragment);
    fragments
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::{PbEvent, PbKeyValue};

    use super::*;

    fn response(sizes: &[usize]) -> PbWatchResponse {
        let event = |(i, size): (usize, &usize)| {
            let value = vec![b'x'; *size];
            let kv = PbKeyValue { mod_revision: i as i64, value, ..PbKeyValue::default() };
            PbEvent { kv: Some(kv), ..PbEvent::default() }
        };
        let events = sizes.iter().enumerate().map(event).collect();
        PbWatchResponse { watch_id: 7, events, ..PbWatchResponse::default() }
    }

    #[test]
    fn fragments_fill_the_limit_and_all_but_last_are_marked() {
        let whole = response(&[300, 300, 300, 2000, 10, 10]);
        let fragments = split(whole.clone(), 1000);
        let counts: Vec<_> = fragments.iter().map(|fragment| fragment.events.len()).collect();
        assert_eq!(counts, [3, 1, 2]);
        let marks: Vec<_> = fragments.iter().map(|fragment| fragment.fragment).collect();
        assert_eq!(marks, [true, true, false]);
        assert!(fragments.iter().all(|fragment| fragment.watch_id == 7));
        let too_large = fragments.iter().filter(|fragment| fragment.encoded_len() >= 1000);
        assert_eq!(too_large.count(), 1, "the event that is too large by itself");
        let events: Vec<_> = fragments.into_iter().flat_map(|fragment| fragment.events).collect();
        assert_eq!(events, whole.events);
    }

    #[test]
    fn response_of_exactly_the_limit_is_split() {
        let whole = response(&[100, 100]);
        let size = whole.encoded_len();
        assert_eq!(split(whole.clone(), size + 1).len(), 1);
        assert_eq!(split(whole, size).len(), 2);
        assert_eq!(split(response(&[5000]), 1000).len(), 1, "one event is never split");
    }
}
