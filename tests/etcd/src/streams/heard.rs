//! What a stream has said in one step, as it is compared.
//!
//! etcd has two queues for a stream: answers to what a client says, and all else, each in order,
//! and which of the two is asked first is drawn by lot. The watches in the second are notified in
//! an order drawn by lot too. So what is compared is the answers, and each watch, by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use etcd_client::proto::{PbEvent, PbKeyValue, PbResponseHeader, PbWatchResponse};

use super::script::SENTINEL;

/// What a stream has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// What was said of creating and cancelling.
    pub(super) answers: Vec<String>,
    /// The revisions of bookmarks for all watches.
    pub(super) bookmarks: Vec<i64>,
    /// What each watch was told.
    pub(super) told: BTreeMap<i64, Vec<String>>,
    /// The watches that were created: these have a past, whatever a bookmark has promised.
    created: BTreeSet<i64>,
    /// How many events that were.
    pub(super) events: u64,
    /// Whether it is left open how events are put together.
    rushed: bool,
}

impl Heard {
    /// From now on it is left open how events are put together.
    pub(super) const fn rush(&mut self) {
        self.rushed = true;
    }

    /// Takes a message down, but for what the barriers made. Of deletions at revision `lost`, if
    /// there is one, this server may know nothing.
    pub(super) fn take(&mut self, mut message: PbWatchResponse, lost: Option<i64>) {
        let had_events = !message.events.is_empty();
        if !self.created.contains(&message.watch_id) {
            let told = |event: &&PbEvent| self.bookmarks.iter().any(|at| revision(event) <= *at);
            let late = message.events.iter().filter(told).map(describe_event);
            self.answers.extend(late.map(|event| format!("{event} after a bookmark")));
        }
        message.events.retain(|event| {
            let key = event.kv.as_ref().map_or(&b""[..], |kv| &kv.key);
            let is_lost = event.r#type == 1 && lost == Some(revision(event));
            key != SENTINEL.as_bytes() && !is_lost
        });
        if had_events && message.events.is_empty() {
            return;
        }
        let is_answer = message.created || message.canceled && message.compact_revision == 0;
        if message.created {
            self.created.insert(message.watch_id);
        }
        if is_answer {
            self.answers.push(describe(&message));
        } else if message.watch_id == -1 && !had_events && !message.canceled {
            self.bookmarks.push(message.header.as_ref().map_or(-1, |header| header.revision));
        } else {
            self.events += message.events.len() as u64;
            let told = self.told.entry(message.watch_id).or_default();
            if self.rushed && had_events {
                told.extend(message.events.iter().map(describe_event));
            } else {
                told.push(describe(&message));
            }
        }
    }

    /// How many messages that were.
    pub(super) fn len(&self) -> usize {
        let told: usize = self.told.values().map(Vec::len).sum();
        self.answers.len() + self.bookmarks.len() + told
    }

    /// Whether it has as much to say of everything as the other.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let told = |id| self.told.get(id).map_or(0, Vec::len);
        self.answers.len() >= other.answers.len()
            && self.bookmarks.len() >= other.bookmarks.len()
            && other.told.iter().all(|(id, messages)| told(id) >= messages.len())
    }

    /// What differs from what ours has said, if anything.
    pub(super) fn differs_from(&self, ours: &Self) -> Option<String> {
        if self.bookmarks != ours.bookmarks {
            return Some(both("bookmarks", &self.bookmarks, &ours.bookmarks));
        }
        if self.answers != ours.answers {
            return Some(both("answers", &self.answers, &ours.answers));
        }
        let ids = self.told.keys().chain(ours.told.keys());
        let mut ids = ids.filter(|id| self.told.get(id) != ours.told.get(id));
        let id = ids.next()?;
        let of = |heard: &Self| heard.told.get(id).cloned().unwrap_or_default();
        Some(both(&format!("watch {id}"), &of(self), &of(ours)))
    }
}

fn both<T: std::fmt::Debug>(what: &str, etcd: &[T], ours: &[T]) -> String {
    let mut text = what.to_owned();
    for (who, said) in [("etcd", etcd), ("ours", ours)] {
        if said.is_empty() {
            let _ = write!(text, "\n  {who}: nothing");
        }
        for said in said {
            let _ = write!(text, "\n  {who}: {said:?}");
        }
    }
    text
}

fn revision(event: &PbEvent) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// Every field, in short.
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
                text.push_str(" of nobody");
            }
        }
        None => text.push_str(" without a header"),
    }
    for (is_so, what) in [(created, "created"), (canceled, "canceled"), (fragment, "more to come")]
    {
        if *is_so {
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
