//! Fragments: a watch response that is too large for one message, split into several.
//!
//! Only events are split up; an event that exceeds the limit by itself is sent alone. All fragments
//! but the last are marked with `fragment`.
//!
//! Source: `docs/etcd-contract.md` §6; etcd 3.5 `sendFragments` in
//! `server/etcdserver/api/v3rpc/watch.go`.

use etcd_client::proto::PbWatchResponse;
use prost::Message;
use prost::encoding::message;

/// The field number of `WatchResponse.events`.
const EVENTS: u32 = 11;

/// Splits a response into fragments of less than `limit` bytes each, as far as single events allow.
pub(super) fn fragments(whole: PbWatchResponse, limit: usize) -> Vec<PbWatchResponse> {
    if whole.events.len() < 2 || whole.encoded_len() < limit {
        return vec![whole];
    }
    let PbWatchResponse { events, .. } = whole;
    let empty = PbWatchResponse { events: Vec::new(), fragment: true, ..whole };
    let size_empty = empty.encoded_len();
    let mut pieces = Vec::new();
    let (mut piece, mut size) = (empty.clone(), size_empty);
    for event in events {
        let more = message::encoded_len(EVENTS, &event);
        if !piece.events.is_empty() && size + more >= limit {
            pieces.push(std::mem::replace(&mut piece, empty.clone()));
            size = size_empty;
        }
        size += more;
        piece.events.push(event);
    }
    piece.fragment = false;
    pieces.push(piece);
    pieces
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
        let pieces = fragments(whole.clone(), 1000);
        let counts: Vec<_> = pieces.iter().map(|piece| piece.events.len()).collect();
        assert_eq!(counts, [3, 1, 2]);
        let more: Vec<_> = pieces.iter().map(|piece| piece.fragment).collect();
        assert_eq!(more, [true, true, false]);
        assert!(pieces.iter().all(|piece| piece.watch_id == 7));
        let limits = pieces.iter().filter(|piece| piece.encoded_len() >= 1000);
        assert_eq!(limits.count(), 1, "the event that is too large by itself");
        let events: Vec<_> = pieces.into_iter().flat_map(|piece| piece.events).collect();
        assert_eq!(events, whole.events);
    }

    #[test]
    fn response_of_exactly_the_limit_is_split() {
        let whole = response(&[100, 100]);
        let size = whole.encoded_len();
        assert_eq!(fragments(whole.clone(), size + 1).len(), 1);
        assert_eq!(fragments(whole, size).len(), 2);
        assert_eq!(fragments(response(&[5000]), 1000).len(), 1, "one event is never split");
    }
}
