//! Reading a range: select, count, filter, sort, cut, blank.

use coord_core::{
    Error, Result,
    kv::{Header, KeyValue, Range, RangeResponse, Revision, SortOrder, SortTarget},
};

use super::Store;

impl Store {
    /// Answers a range outside a transaction.
    pub(crate) fn range(&self, request: &Range) -> Result<RangeResponse> {
        if let Some(requested) = positive(request.revision) {
            if requested > self.revision {
                let (requested, current) = (Some(requested), Some(self.revision));
                return Err(Error::FutureRevision { requested, current });
            }
            if requested < self.compact_revision {
                return Err(self.compacted(requested));
            }
        }
        Ok(RangeResponse { header: self.header(), ..self.select(request) })
    }

    /// The keys that a request asks for, its revision having been checked. The header is left to
    /// the caller.
    pub(super) fn select(&self, request: &Range) -> RangeResponse {
        if request.keys.is_single() {
            return self.select_one(request);
        }
        let mut count = 0;
        let mut kept = Vec::new();
        let limit = request.limit.map(|limit| usize::try_from(limit.get()).unwrap_or(usize::MAX));
        // One more than the limit tells whether anything was cut off.
        let room = match limit {
            _ if request.count_only => 0,
            Some(limit) if keeps_key_order(request) => limit.saturating_add(1),
            _ => usize::MAX,
        };
        let keep = |kv| {
            count += 1;
            if kept.len() < room {
                kept.push(kv);
            }
        };
        // Inside a transaction the newest revision is not "now": its own changes come after it.
        match positive(request.revision) {
            Some(revision) => self.index.visit_at(&request.keys, revision, keep),
            None => self.index.visit(&request.keys, keep),
        }

        if filters(request) {
            kept.retain(|kv| passes(request, kv));
        }
        sort(request, &mut kept);
        let more = limit.is_some_and(|limit| kept.len() > limit);
        kept.truncate(limit.unwrap_or(usize::MAX));
        let kvs = kept.into_iter().map(|kv| shown(request, kv)).collect();
        RangeResponse { header: Header::default(), kvs, more, count }
    }

    /// The same for a single key, which no sorting and no limit changes.
    fn select_one(&self, request: &Range) -> RangeResponse {
        let key = request.keys.start();
        let kv = match positive(request.revision) {
            Some(revision) => self.index.get_at(key, revision),
            None => self.index.get(key),
        };
        let kept = kv.filter(|kv| !request.count_only && passes(request, kv));
        let kvs = kept.map(|kv| shown(request, kv)).into_iter().collect();
        let count = i64::from(kv.is_some());
        RangeResponse { header: Header::default(), kvs, more: false, count }
    }
}

/// The revision to read at, if it is not the newest: etcd takes zero or less for the newest.
fn positive(revision: Option<Revision>) -> Option<Revision> {
    revision.filter(|revision| *revision > Revision::ZERO)
}

/// Whether the limit may cut before sorting. That it may for an unsorted request with another
/// target than the key, which is then sorted all the same, is etcd's doing.
fn keeps_key_order(request: &Range) -> bool {
    let sorts = match (request.sort_order, request.sort_target) {
        (SortOrder::None, _) | (SortOrder::Ascending, SortTarget::Key) => false,
        (SortOrder::Ascending | SortOrder::Descending, _) => true,
    };
    !sorts && !filters(request)
}

fn filters(request: &Range) -> bool {
    [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ]
    .iter()
    .any(Option::is_some)
}

fn passes(request: &Range, kv: &KeyValue) -> bool {
    let least = |bound: Option<Revision>, revision| bound.is_none_or(|bound| revision >= bound);
    let most = |bound: Option<Revision>, revision| bound.is_none_or(|bound| revision <= bound);
    least(request.min_mod_revision, kv.mod_revision)
        && most(request.max_mod_revision, kv.mod_revision)
        && least(request.min_create_revision, kv.create_revision)
        && most(request.max_create_revision, kv.create_revision)
}

/// Sorts keys that are in key order. Ties stay in key order, whichever way is sorted.
fn sort(request: &Range, kvs: &mut [&KeyValue]) {
    let compare = |a: &&KeyValue, b: &&KeyValue| match request.sort_target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::CreateRevision => a.create_revision.cmp(&b.create_revision),
        SortTarget::ModRevision => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    match (request.sort_order, request.sort_target) {
        (SortOrder::None | SortOrder::Ascending, SortTarget::Key) => {}
        (SortOrder::None | SortOrder::Ascending, _) => kvs.sort_by(compare),
        (SortOrder::Descending, _) => kvs.sort_by(|a, b| compare(b, a)),
    }
}

fn shown(request: &Range, kv: &KeyValue) -> KeyValue {
    let mut kv = kv.clone();
    if request.keys_only {
        kv.value.clear();
    }
    kv
}
