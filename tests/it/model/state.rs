//! The state of the model: a full copy of all keys for every revision.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use coord_core::{
    error::ErrorKind,
    kv::{
        Compact, CompactResponse, Delete, DeleteResponse, Event, EventKind, Header, KeyValue,
        LeaseId, Limits, Put, PutResponse, Revision,
    },
};

use super::lease::Lease;
use super::rules;

/// A result of the model. An error is only its kind: its outcome is always `NotApplied`.
pub(super) type ModelResult<T> = Result<T, ErrorKind>;

/// All keys at one revision.
pub(super) type State = BTreeMap<Bytes, KeyValue>;

/// The contract as a program. It is written for comparison with the text, not for speed.
#[derive(Debug)]
pub(super) struct Model {
    /// The ids in all headers. Its revision is not used.
    pub(super) identity: Header,
    pub(super) limits: Limits,
    /// The keys at each revision. Index 0 is unused.
    pub(super) states: Vec<State>,
    /// The events of each revision, each with the previous key-value pair. Compaction removes
    /// nothing.
    pub(super) events: Vec<Vec<Event>>,
    /// The compact revision; -1 before the first compaction.
    pub(super) compacted: i64,
    pub(super) leases: BTreeMap<LeaseId, Lease>,
    /// The clock of the leases.
    pub(super) now: Duration,
}

impl Model {
    pub(super) fn new(identity: Header, limits: Limits) -> Self {
        Self {
            identity,
            limits,
            states: vec![State::new(), State::new()],
            events: vec![Vec::new(), Vec::new()],
            compacted: -1,
            leases: BTreeMap::new(),
            now: Duration::ZERO,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        Revision(i64::try_from(self.states.len()).expect("the number of revisions fits") - 1)
    }

    pub(super) fn header(&self) -> Header {
        Header { revision: self.revision(), ..self.identity }
    }

    /// The keys at the newest revision.
    pub(super) fn current(&self) -> &State {
        self.states.last().expect("there is an initial state")
    }

    /// The keys at `revision`, which must exist.
    pub(super) fn state_at(&self, revision: Revision) -> &State {
        &self.states[usize::try_from(revision.0).expect("not negative")]
    }

    pub(super) fn put(&mut self, put: &Put) -> ModelResult<PutResponse> {
        rules::check_put(put)?;
        rules::check_size(put.key.len() + put.value.len(), &self.limits)?;
        // Contract §3: the lease is checked before the key. §4: in a transaction, after the key.
        self.check_lease(put)?;
        let mut changes = self.begin();
        let response = changes.put(put)?;
        self.commit(changes);
        Ok(PutResponse { header: self.header(), ..response })
    }

    pub(super) fn delete(&mut self, delete: &Delete) -> ModelResult<DeleteResponse> {
        rules::check_key(delete.keys.start())?;
        let mut changes = self.begin();
        let response = changes.delete(delete);
        self.commit(changes);
        Ok(DeleteResponse { header: self.header(), ..response })
    }

    pub(super) fn compact(&mut self, request: Compact) -> ModelResult<CompactResponse> {
        let revision = request.revision;
        if revision.0 <= self.compacted {
            return Err(ErrorKind::Compacted);
        }
        if revision > self.revision() {
            return Err(ErrorKind::FutureRevision);
        }
        if self.loses_a_key(revision) {
            return Err(ErrorKind::Refused);
        }
        self.compacted = revision.0;
        Ok(CompactResponse { header: self.header() })
    }

    /// Contract §4, "Requests that damage a real server", second row: a key is deleted and put at
    /// exactly this revision.
    fn loses_a_key(&self, revision: Revision) -> bool {
        let mut deleted = Vec::new();
        for event in &self.events[usize::try_from(revision.0).expect("not negative")] {
            match event.kind {
                EventKind::Delete => deleted.push(&event.kv.key),
                EventKind::Put if deleted.contains(&&event.kv.key) => return true,
                EventKind::Put => {}
            }
        }
        false
    }

    pub(super) fn check_lease(&self, put: &Put) -> ModelResult<()> {
        match put.lease {
            Some(lease) if !self.leases.contains_key(&lease) => Err(ErrorKind::LeaseNotFound),
            _ => Ok(()),
        }
    }

    pub(super) fn begin(&self) -> Changes {
        Changes { before: self.revision(), state: self.current().clone(), events: Vec::new() }
    }

    /// Adds the changes as a new revision, if there are any.
    pub(super) fn commit(&mut self, changes: Changes) {
        let Changes { before, state, mut events } = changes;
        if events.is_empty() {
            return;
        }
        for event in &mut events {
            if !event.is_create() {
                event.prev_kv = self.state_at(before).get(&event.kv.key).cloned();
            }
        }
        self.states.push(state);
        self.events.push(events);
    }
}

/// Changes in progress: a copy of the keys, whose changes all have one revision.
#[derive(Debug)]
pub(super) struct Changes {
    before: Revision,
    pub(super) state: State,
    events: Vec<Event>,
}

impl Changes {
    /// The revision of the changes.
    fn revision(&self) -> Revision {
        Revision(self.before.0 + 1)
    }

    /// The header of an operation: the revision before the first change, or that of the changes.
    pub(super) fn header(&self) -> Header {
        Header::at(if self.events.is_empty() { self.before } else { self.revision() })
    }

    pub(super) fn put(&mut self, put: &Put) -> ModelResult<PutResponse> {
        let revision = self.revision();
        let old = self.state.get(&put.key).cloned();
        if (put.ignore_value || put.ignore_lease) && old.is_none() {
            return Err(ErrorKind::KeyNotFound);
        }
        let mut kv = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: put.lease,
        };
        if let Some(old) = &old {
            kv.create_revision = old.create_revision;
            kv.version = old.version + 1;
            if put.ignore_value {
                kv.value = old.value.clone();
            }
            if put.ignore_lease {
                kv.lease = old.lease;
            }
        }
        self.state.insert(put.key.clone(), kv.clone());
        self.events.push(Event { kind: EventKind::Put, kv, prev_kv: None });
        Ok(PutResponse { header: self.header(), prev_kv: old.filter(|_| put.prev_kv) })
    }

    pub(super) fn delete(&mut self, delete: &Delete) -> DeleteResponse {
        let mut prev_kvs = Vec::new();
        for kv in rules::keys_in(&self.state, &delete.keys) {
            self.delete_key(&kv.key);
            prev_kvs.push(kv);
        }
        let deleted = i64::try_from(prev_kvs.len()).expect("the number of keys fits");
        if !delete.prev_kv {
            prev_kvs.clear();
        }
        DeleteResponse { header: self.header(), deleted, prev_kvs }
    }

    pub(super) fn delete_key(&mut self, key: &Bytes) {
        self.state.remove(key);
        let kv =
            KeyValue { key: key.clone(), mod_revision: self.revision(), ..KeyValue::default() };
        self.events.push(Event { kind: EventKind::Delete, kv, prev_kv: None });
    }
}
