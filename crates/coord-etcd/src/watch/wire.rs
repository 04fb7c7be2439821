//! The watch protocol in our own words, and what is said in them on the wire.
//!
//! The machine knows nothing of etcd-client: it takes a [`Reply`] and gives [`Request`]s, so that
//! it can be tested against a server that is a hundred lines of Rust.

use coord_core::{Error, Event, Header, Revision, WatchRequest};
use etcd_client::WatchOptions;
use etcd_client::proto::PbWatchResponse;
use tonic::Status;

use crate::error::{RequestContext, Failure, RetryDecision};
use crate::wire::{FromWire, Malformed, send};

/// The id of what concerns no watch, or no single one.
pub(super) const NO_ID: i64 = -1;

/// What a server is asked on a watch stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Register a watch under an id of ours.
    Create { id: i64, start: Revision, watch: WatchRequest },
    /// Forget the watch.
    Cancel { id: i64 },
    /// Refuse a watch of an empty range, for which the id is not used.
    Probe { id: i64 },
    /// Say up to where every watch of the stream has been told everything.
    Progress,
}

/// What a server says on a watch stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) id: i64,
    pub(super) header: Header,
    pub(super) created: bool,
    pub(super) canceled: bool,
    /// Not zero when the watch is cancelled because history is gone before this revision.
    pub(super) compact_revision: Revision,
    /// Why it was cancelled or refused.
    pub(super) reason: String,
    /// The next message goes on with the same revision, perhaps.
    pub(super) fragment: bool,
    pub(super) events: Vec<Event>,
}

/// A request to create a watch: its key, and the rest.
///
/// Fragments are asked for: a server that catches up merges a thousand revisions into one message,
/// which can be gigabytes, and would fail for its size wherever there is a limit. In pieces of at
/// most 2 MiB (or one event) it passes, and what is complete is delivered before the rest arrives.
pub(super) fn create(id: i64, start: Revision, watch: &WatchRequest) -> (Vec<u8>, WatchOptions) {
    let (key, options) = send::watch(watch);
    (key, options.with_watch_id(id).with_start_revision(start.0).with_fragment())
}

/// The one key of a range that ends there.
const NOTHING: &[u8] = b"\x01";

/// A request to create a watch that every server refuses at once: its key, and the rest.
pub(super) fn probe(id: i64) -> (&'static [u8], WatchOptions) {
    (NOTHING, WatchOptions::new().with_range(NOTHING).with_watch_id(id))
}

impl FromWire<PbWatchResponse> for Reply {
    fn from_wire(wire: PbWatchResponse) -> Result<Self, Malformed> {
        Ok(Self {
            id: wire.watch_id,
            header: Header::from_wire(wire.header)?,
            created: wire.created,
            canceled: wire.canceled,
            compact_revision: Revision(wire.compact_revision),
            reason: wire.cancel_reason,
            fragment: wire.fragment,
            events: wire.events.into_iter().map(Event::from_wire).collect::<Result<_, _>>()?,
        })
    }
}

/// What to do about a registration that a server refuses.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The watch can never be.
    Watch(Error),
    /// Something is wrong with the stream, not with the watch: open another. If it is the login,
    /// that is found out when the next one is opened.
    Stream(String),
}

/// Understands the reason of a refusal.
///
/// An empty range and an id used twice are never asked for, but a stream that is being closed
/// refuses everything as an empty range.
///
/// Source: contract §6.
pub(super) fn refusal(reason: &str, requested: Revision, has_login: bool) -> Refusal {
    if reason.contains("duplicate watch ID") || reason.contains("watcher range is empty") {
        return Refusal::Stream(reason.to_owned());
    }
    let context = RequestContext { revision: Some(requested), ..RequestContext::default() };
    let Failure { error, decision } = Failure::from_cancel_reason(reason, &context, "watch");
    let by_stream = match decision {
        RetryDecision::Final | RetryDecision::OtherEndpoint => false,
        RetryDecision::Unreachable | RetryDecision::Resend | RetryDecision::Failover => true,
        // A stream that was opened before logins were needed keeps the watches that it has.
        RetryDecision::LogIn => has_login,
    };
    if by_stream { Refusal::Stream(error.to_string()) } else { Refusal::Watch(error) }
}

/// What to make of the refusal of a stream's first request, if it is about the login.
pub(super) fn login_refused(reason: &str) -> Option<Status> {
    let about_login = ["invalid auth token", "revision of auth store is old", "user name is empty"];
    let message = reason.split_once(" desc = ").map_or(reason, |(_, message)| message);
    let refused = about_login.iter().any(|text| reason.contains(text));
    refused.then(|| Status::unauthenticated(message))
}

#[cfg(test)]
mod tests {
    use coord_core::ErrorKind;

    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        let kind_with = |reason: &str, login| match refusal(reason, Revision(-1), login) {
            Refusal::Watch(error) => Some(error.kind()),
            Refusal::Stream(_) => None,
        };
        let kind = |reason: &str| kind_with(reason, true);
        let rpc = |code, text| format!("rpc error: code = {code} desc = etcdserver: {text}");
        assert_eq!(kind("mvcc: duplicate watch ID provided on the WatchStream"), None);
        assert_eq!(kind("mvcc: watcher range is empty"), None);
        assert_eq!(
            kind("etcdserver: mvcc: required revision has been compacted"),
            Some(ErrorKind::Compacted)
        );
        let denied = rpc("PermissionDenied", "permission denied");
        assert_eq!(kind(&denied), Some(ErrorKind::PermissionDenied));
        assert_eq!(kind(&rpc("Unauthenticated", "invalid auth token")), None, "log in again");
        let nobody = rpc("InvalidArgument", "user name is empty");
        assert_eq!(kind_with(&nobody, false), Some(ErrorKind::Unauthenticated));
        assert_eq!(kind("something new"), Some(ErrorKind::Backend));
    }
}
