//! The messages of the watch protocol as the machine uses them, and their translation.
//!
//! The machine does not depend on etcd-client: it takes [`Reply`] values and returns [`Request`]s,
//! so that it can be tested against a simulated server.

use coord_core::{
    Error,
    kv::{Event, Header, Revision, Watch},
};
use etcd_client::WatchOptions;
use etcd_client::proto::PbWatchResponse;
use tonic::Status;

use crate::error::{Failure, RequestContext, RetryDecision};
use crate::wire::{FromWire, Malformed, send};

/// The id in messages that are about no watch or about the whole stream.
pub(super) const NO_ID: i64 = -1;

/// A request on a watch stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Register a watch with an id of the client.
    Create { id: i64, start: Revision, watch: Watch },
    /// Cancel the watch.
    Cancel { id: i64 },
    /// Watch an empty range, which the server refuses. It does not use the id.
    Probe { id: i64 },
    /// Report the revision up to which every watch of the stream has received all events.
    Progress,
}

/// A message of a server on a watch stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) id: i64,
    pub(super) header: Header,
    pub(super) created: bool,
    pub(super) canceled: bool,
    /// Not zero if the watch is cancelled because its revisions are compacted.
    pub(super) compact_revision: Revision,
    /// Why it was cancelled or refused.
    pub(super) reason: String,
    /// Whether the next message may continue the last revision.
    pub(super) fragment: bool,
    pub(super) events: Vec<Event>,
}

/// A request to create a watch: its key and its options.
///
/// The request permits fragments: a server that catches up merges a thousand revisions into one
/// message, which can have gigabytes and exceeds every size limit. Fragments have at most 2 MiB (or
/// one event), and complete revisions are delivered before the rest arrives.
pub(super) fn create(id: i64, start: Revision, watch: &Watch) -> (Vec<u8>, WatchOptions) {
    let (key, options) = send::watch(watch);
    (key, options.with_watch_id(id).with_start_revision(start.0).with_fragment())
}

/// A request to create a watch of an empty range, which every server refuses: its key and its
/// options.
pub(super) fn probe(id: i64) -> (&'static [u8], WatchOptions) {
    const KEY_AND_END: &[u8] = b"\x01";
    (KEY_AND_END, WatchOptions::new().with_range(KEY_AND_END).with_watch_id(id))
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

/// What the refusal of a registration is about.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The watch: the registration fails.
    Watch(Error),
    /// The stream: another must be opened. An expired login is detected when that is opened.
    Stream(String),
}

/// Classifies the reason of a refusal.
///
/// The client requests neither an empty range nor a duplicate id, but a stream that is being closed
/// refuses every watch as an empty range.
///
/// Source: `docs/etcd-contract.md` §6.
pub(super) fn refusal(reason: &str, requested: Revision, has_login: bool) -> Refusal {
    if reason.contains("duplicate watch ID") || reason.contains("watcher range is empty") {
        return Refusal::Stream(reason.to_owned());
    }
    let context = RequestContext { revision: Some(requested), ..RequestContext::default() };
    let Failure { error, decision } = Failure::from_cancel_reason(reason, &context, "watch");
    let by_stream = match decision {
        RetryDecision::Final | RetryDecision::OtherEndpoint => false,
        RetryDecision::Unreachable | RetryDecision::Resend | RetryDecision::Failover => true,
        // A stream that was opened before authentication was enabled keeps its watches.
        RetryDecision::LogIn => has_login,
    };
    if by_stream { Refusal::Stream(error.to_string()) } else { Refusal::Watch(error) }
}

/// The status for the refusal of a stream's first request, if the refusal is about the login.
pub(super) fn login_refused(reason: &str) -> Option<Status> {
    let about_login = ["invalid auth token", "revision of auth store is old", "user name is empty"];
    let message = reason.split_once(" desc = ").map_or(reason, |(_, message)| message);
    let refused = about_login.iter().any(|text| reason.contains(text));
    refused.then(|| Status::unauthenticated(message))
}

#[cfg(test)]
mod tests {
    use coord_core::error::ErrorKind;

    use super::*;

    #[test]
    fn refusal_is_classified_by_its_reason() {
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
        let no_user = rpc("InvalidArgument", "user name is empty");
        assert_eq!(kind_with(&no_user, false), Some(ErrorKind::Unauthenticated));
        assert_eq!(kind("something new"), Some(ErrorKind::Backend));
    }
}
