//! The messages of the watch protocol, and their translation from and to etcd's messages.
//!
//! The machine receives [`ServerMessage`]s and returns [`Request`]s. It does not depend on
//! etcd-client, so that a test can pass it the messages of a simulated server.

use coord_core::{
    Error,
    kv::{Event, Header, Revision, Watch},
};
use etcd_client::WatchOptions;
use etcd_client::proto::PbWatchResponse;
use tonic::Status;

use crate::error::{Failure, RequestContext, RetryDecision};
use crate::wire::{FromWire, Malformed, send};

/// The watch id in messages that are about no watch or about the whole stream.
pub(super) const NO_WATCH_ID: i64 = -1;

/// A request on a watch stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Registers a watch under an id that the client chooses.
    Create { id: i64, start: Revision, watch: Watch },
    /// Cancels the watch.
    Cancel { id: i64 },
    /// Watches an empty range. The server refuses the watch, and does not use the id.
    Probe { id: i64 },
    /// Requests the revision up to which every watch of the stream has received all events.
    Progress,
}

/// A message of a server on a watch stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerMessage {
    pub(super) id: i64,
    pub(super) header: Header,
    pub(super) created: bool,
    pub(super) canceled: bool,
    /// Not zero if the watch is cancelled because its revisions are compacted.
    pub(super) compact_revision: Revision,
    /// Why the watch was cancelled or refused.
    pub(super) reason: String,
    /// Whether the next message of the watch may continue the last revision of this message.
    pub(super) fragment: bool,
    pub(super) events: Vec<Event>,
}

/// A request to create a watch: its key and its options.
///
/// The request permits fragments, because a server that catches up merges a thousand revisions into
/// one message, which can have gigabytes and exceed every size limit. Fragments have at most 2 MiB
/// (or one event), and complete revisions are delivered before the rest arrives.
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

impl FromWire<PbWatchResponse> for ServerMessage {
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

/// The scope of a refused registration.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The server refuses the watch: the registration fails.
    Watch(Error),
    /// The stream cannot be used any more: another must be opened. If the login has expired, the
    /// next stream logs in again.
    Stream(String),
}

/// Classifies a refusal by its reason.
///
/// A registration has neither an empty range nor a duplicate id, but a stream that is being closed
/// refuses every watch as an empty range.
///
/// Source: `docs/etcd-contract.md` §6.
pub(super) fn classify_refusal(reason: &str, requested: Revision, has_login: bool) -> Refusal {
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

/// The status for the refusal of a stream's first request; `None` if the login was accepted.
pub(super) fn login_error(reason: &str) -> Option<Status> {
    let login_errors =
        ["invalid auth token", "revision of auth store is old", "user name is empty"];
    let message = reason.split_once(" desc = ").map_or(reason, |(_, message)| message);
    let is_refused = login_errors.iter().any(|text| reason.contains(text));
    is_refused.then(|| Status::unauthenticated(message))
}

#[cfg(test)]
mod tests {
    use coord_core::error::ErrorKind;

    use super::*;

    #[test]
    fn refusal_is_classified_by_its_reason() {
        let kind_with = |reason: &str, login| match classify_refusal(reason, Revision(-1), login) {
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
