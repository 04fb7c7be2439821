//! Watch messages: requests as a server reads them, and events in both directions.

use coord_core::kv::{Event, EventKind, KeyRange, KeyValue, Watch, WatchFilter};
use etcd_client::proto::{PbEvent, PbWatchRequest, PbWatchRequestUnion};

use super::request::revision;
use super::{FromWire, Malformed, ToWire};

/// A request on a watch stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "closed by etcd's protocol, and servers match on it")]
pub enum WatchCall {
    /// Creates a watch.
    Create {
        /// The watch.
        request: Watch,
        /// The id of the watch; zero if the server chooses it.
        watch_id: i64,
        /// Whether to split responses that are too large for one message.
        fragment: bool,
    },
    /// Cancels the watch with this id.
    Cancel(i64),
    /// Requests a progress notification for the whole stream.
    Progress,
}

impl FromWire<PbWatchRequest> for WatchCall {
    fn from_wire(wire: PbWatchRequest) -> Result<Self, Malformed> {
        let union = wire.request_union.ok_or(Malformed("an empty request on a watch stream"))?;
        Ok(match union {
            PbWatchRequestUnion::CreateRequest(create) => {
                let filters = create.filters.into_iter().map(|filter| match filter {
                    0 => Ok(WatchFilter::NoPut),
                    1 => Ok(WatchFilter::NoDelete),
                    _ => Err(Malformed("a watch with an unknown filter")),
                });
                let request = Watch {
                    keys: KeyRange::from_wire(create.key, create.range_end),
                    start_revision: revision(create.start_revision),
                    prev_kv: create.prev_kv,
                    filters: filters.collect::<Result<_, _>>()?,
                    progress_notify: create.progress_notify,
                };
                Self::Create { request, watch_id: create.watch_id, fragment: create.fragment }
            }
            PbWatchRequestUnion::CancelRequest(cancel) => Self::Cancel(cancel.watch_id),
            PbWatchRequestUnion::ProgressRequest(_) => Self::Progress,
        })
    }
}

impl ToWire for Event {
    type Wire = PbEvent;

    fn to_wire(self) -> PbEvent {
        PbEvent {
            r#type: match self.kind {
                EventKind::Put => 0,
                EventKind::Delete => 1,
            },
            kv: Some(self.kv.to_wire()),
            prev_kv: self.prev_kv.map(KeyValue::to_wire),
        }
    }
}

impl FromWire<PbEvent> for Event {
    fn from_wire(wire: PbEvent) -> Result<Self, Malformed> {
        let PbEvent { r#type, kv, prev_kv } = wire;
        let kind = match r#type {
            0 => EventKind::Put,
            1 => EventKind::Delete,
            _ => return Err(Malformed("an event of an unknown kind")),
        };
        let kv = KeyValue::from_wire(kv.ok_or(Malformed("an event without a key"))?)?;
        Ok(Self { kind, kv, prev_kv: prev_kv.map(KeyValue::from_wire).transpose()? })
    }
}
