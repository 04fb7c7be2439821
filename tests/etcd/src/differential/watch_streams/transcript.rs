//! The transcript of a stream in one step, in the form that is compared.
//!
//! etcd has two ordered queues for a stream, one for responses to requests and one for all other
//! messages, and selects between them at random. The order between watches in the second queue is
//! random too. So the responses and the messages of each watch are compared separately.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use etcd_client::proto::{PbEvent, PbKeyValue, PbResponseHeader, PbWatchResponse};

use super::scenario::SENTINEL_KEY;

/// The messages of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Transcript {
    /// The responses to create and cancel requests, and the events that arrived after a later
    /// progress notification.
    pub(super) responses: Vec<String>,
    /// The revisions of the progress notifications for the whole stream.
    pub(super) progress: Vec<i64>,
    /// The other messages, by watch id.
    pub(super) by_watch: BTreeMap<i64, Vec<String>>,
    /// The watches created in this step, whose history may arrive after progress notifications.
    created: BTreeSet<i64>,
    /// The number of events.
    pub(super) events: u64,
    /// Whether the grouping of events into messages is not compared.
    ignores_grouping: bool,
}

impl Transcript {
    /// Stops comparing how events are grouped into messages.
    pub(super) const fn ignore_grouping(&mut self) {
        self.ignores_grouping = true;
    }

    /// Adds a message, without the events of barriers and without deletions at the revision
    /// `lost_deletions_at`, which an older server may lose.
    pub(super) fn add(&mut self, mut message: PbWatchResponse, lost_deletions_at: Option<i64>) {
        let had_events = !message.events.is_empty();
        if !self.created.contains(&message.watch_id) {
            let is_late = |event: &&PbEvent| self.progress.iter().any(|at| revision(event) <= *at);
            let late = message.events.iter().filter(is_late).map(describe_event);
            self.responses
                .extend(late.map(|event| format!("{event} after a later progress notification")));
        }
        message.events.retain(|event| {
            let key = event.kv.as_ref().map_or(&b""[..], |kv| &kv.key);
            let is_lost = event.r#type == 1 && lost_deletions_at == Some(revision(event));
            key != SENTINEL_KEY.as_bytes() && !is_lost
        });
        if had_events && message.events.is_empty() {
            return;
        }
        let is_response = message.created || message.canceled && message.compact_revision == 0;
        if message.created {
            self.created.insert(message.watch_id);
        }
        if is_response {
            self.responses.push(describe(&message));
        } else if message.watch_id == -1 && !had_events && !message.canceled {
            self.progress.push(message.header.as_ref().map_or(-1, |header| header.revision));
        } else {
            self.events += message.events.len() as u64;
            let messages = self.by_watch.entry(message.watch_id).or_default();
            if self.ignores_grouping && had_events {
                messages.extend(message.events.iter().map(describe_event));
            } else {
                messages.push(describe(&message));
            }
        }
    }

    /// The number of messages.
    pub(super) fn len(&self) -> usize {
        let of_watches: usize = self.by_watch.values().map(Vec::len).sum();
        self.responses.len() + self.progress.len() + of_watches
    }

    /// Whether it has at least as many messages of each kind as `other`.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let count = |id| self.by_watch.get(id).map_or(0, Vec::len);
        self.responses.len() >= other.responses.len()
            && self.progress.len() >= other.progress.len()
            && other.by_watch.iter().all(|(id, messages)| count(id) >= messages.len())
    }

    /// A mismatch with the transcript of coord's server, if any.
    pub(super) fn mismatch(&self, coord: &Self) -> Option<String> {
        if self.progress != coord.progress {
            return Some(describe_mismatch("progress", &self.progress, &coord.progress));
        }
        if self.responses != coord.responses {
            return Some(describe_mismatch("responses", &self.responses, &coord.responses));
        }
        let ids = self.by_watch.keys().chain(coord.by_watch.keys());
        let mut ids = ids.filter(|id| self.by_watch.get(id) != coord.by_watch.get(id));
        let id = ids.next()?;
        let of = |transcript: &Self| transcript.by_watch.get(id).cloned().unwrap_or_default();
        Some(describe_mismatch(&format!("watch {id}"), &of(self), &of(coord)))
    }
}

fn describe_mismatch<T: std::fmt::Debug>(what: &str, etcd: &[T], coord: &[T]) -> String {
    let mut text = what.to_owned();
    for (server, lines) in [("etcd", etcd), ("coord", coord)] {
        if lines.is_empty() {
            let _ = write!(text, "\n  {server}: nothing");
        }
        for line in lines {
            let _ = write!(text, "\n  {server}: {line:?}");
        }
    }
    text
}

fn revision(event: &PbEvent) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// All fields of a message, on one line.
fn describe(message: &PbWatchResponse) -> String {
    let PbWatchResponse {
        header,
        watch_id,
        created,
        canceled,
        compact_revision,
        cancel_reason,
        fragment,
        events,
    } = message;
    let mut text = format!("id {watch_id}");
    match header {
        Some(PbResponseHeader { cluster_id, member_id, revision, raft_term }) => {
            let _ = write!(text, " @{revision}");
            if *cluster_id == 0 || *member_id == 0 || *raft_term == 0 {
                text.push_str(" without ids");
            }
        }
        None => text.push_str(" without a header"),
    }
    for (is_set, what) in [(created, "created"), (canceled, "canceled"), (fragment, "more to come")]
    {
        if *is_set {
            let _ = write!(text, ", {what}");
        }
    }
    if *compact_revision != 0 {
        let _ = write!(text, ", compacted at {compact_revision}");
    }
    if !cancel_reason.is_empty() {
        let _ = write!(text, ", {cancel_reason}");
    }
    for event in events {
        let _ = write!(text, "; {}", describe_event(event));
    }
    text
}

fn describe_event(event: &PbEvent) -> String {
    let PbEvent { r#type, kv, prev_kv } = event;
    let what = if *r#type == 0 { "put" } else { "delete" };
    let kv = kv.as_ref().map_or_else(|| "nothing".to_owned(), describe_kv);
    let prev_kv = prev_kv.as_ref().map(describe_kv);
    format!("{what} {kv}{}", prev_kv.map_or_else(String::new, |kv| format!(" after {kv}")))
}

fn describe_kv(kv: &PbKeyValue) -> String {
    let PbKeyValue { key, create_revision, mod_revision, version, value, lease } = kv;
    let mut shown = value[..value.len().min(4)].escape_ascii().to_string();
    if value.len() > 4 {
        let _ = write!(shown, "… of {}", value.len());
    }
    let mut text = format!("{}={shown:?} @{mod_revision}", key.escape_ascii());
    if (*create_revision, *version) != (0, 0) {
        let _ = write!(text, " (from {create_revision}, version {version})");
    }
    if *lease != 0 {
        let _ = write!(text, " on lease {lease}");
    }
    text
}
