//! Range reads: fetch, count, filter, sort and limit the keys, and clear the values on request.

use coord_core::{
    Error, Result,
    kv::{Header, KeyValue, Range, RangeResponse, Revision, SortOrder, SortTarget},
};

use super::Store;

impl Store {
    /// Reads a range, outside a transaction.
    pub(crate) fn range(&self, request: &Range) -> Result<RangeResponse> {
        if let Some(requested) = historic_revision(request) {
            if requested > self.revision {
                let (requested, current) = (Some(requested), Some(self.revision));
                return Err(Error::FutureRevision { requested, current });
            }
            if requested < self.compact_revision {
                return Err(self.compacted_error(requested));
            }
        }
        Ok(RangeResponse { header: self.header(), ..self.select(request) })
    }

    /// Selects the keys of a request whose revision was already checked. The caller sets the
    /// header.
    pub(super) fn select(&self, request: &Range) -> RangeResponse {
        if request.keys.is_single() {
            return self.select_one(request);
        }
        let mut count = 0;
        let mut selected = Vec::new();
        let limit = request.limit.map(|limit| usize::try_from(limit.get()).unwrap_or(usize::MAX));
        // One key more than the limit shows whether the range has keys beyond the limit.
        let capacity = match limit {
            _ if request.count_only => 0,
            Some(limit) if limit_applies_before_sort(request) => limit.saturating_add(1),
            _ => usize::MAX,
        };
        let select = |kv| {
            count += 1;
            if selected.len() < capacity {
                selected.push(kv);
            }
        };
        // In a transaction, a range without a revision also reads the transaction's own changes,
        // whose revision is higher than `self.revision`. So reading without a revision differs from
        // reading at the current revision.
        match historic_revision(request) {
            Some(revision) => self.index.visit_at(&request.keys, revision, select),
            None => self.index.visit(&request.keys, select),
        }

        if has_filters(request) {
            selected.retain(|kv| passes_filters(request, kv));
        }
        sort(request, &mut selected);
        let more = limit.is_some_and(|limit| selected.len() > limit);
        selected.truncate(limit.unwrap_or(usize::MAX));
        let kvs = selected.into_iter().map(|kv| returned_kv(request, kv)).collect();
        RangeResponse { header: Header::default(), kvs, more, count }
    }

    /// Like `select`, for a single key, which needs no sort and no limit.
    fn select_one(&self, request: &Range) -> RangeResponse {
        let key = request.keys.start();
        let kv = match historic_revision(request) {
            Some(revision) => self.index.get_at(key, revision),
            None => self.index.get(key),
        };
        let selected = kv.filter(|kv| !request.count_only && passes_filters(request, kv));
        let kvs = selected.map(|kv| returned_kv(request, kv)).into_iter().collect();
        let count = i64::from(kv.is_some());
        RangeResponse { header: Header::default(), kvs, more: false, count }
    }
}

/// The bound of a revision filter; `None` if it is zero, which etcd treats as not set.
fn filter_bound(bound: Option<Revision>) -> Option<Revision> {
    bound.filter(|bound| *bound != Revision::ZERO)
}

/// The revision at which a request reads; `None` for the current state, which etcd also returns for
/// zero and for negative revisions.
fn historic_revision(request: &Range) -> Option<Revision> {
    request.revision.filter(|revision| *revision > Revision::ZERO)
}

/// Whether the limit is applied before the sort. etcd also does so if the request has a sort target
/// but no sort order, and then sorts only the first limit + 1 keys.
fn limit_applies_before_sort(request: &Range) -> bool {
    let sorts = match (request.sort_order, request.sort_target) {
        (SortOrder::None, _) | (SortOrder::Ascending, SortTarget::Key) => false,
        (SortOrder::Ascending | SortOrder::Descending, _) => true,
    };
    !sorts && !has_filters(request)
}

/// Whether the request has a filter by mod or create revision.
fn has_filters(request: &Range) -> bool {
    [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ]
    .into_iter()
    .any(|bound| filter_bound(bound).is_some())
}

/// Whether a key passes the request's filters by mod and create revision.
fn passes_filters(request: &Range, kv: &KeyValue) -> bool {
    let at_least = |min, revision| filter_bound(min).is_none_or(|min| revision >= min);
    let at_most = |max, revision| filter_bound(max).is_none_or(|max| revision <= max);
    at_least(request.min_mod_revision, kv.mod_revision)
        && at_most(request.max_mod_revision, kv.mod_revision)
        && at_least(request.min_create_revision, kv.create_revision)
        && at_most(request.max_create_revision, kv.create_revision)
}

/// Sorts keys that are in key order. Keys with equal sort targets stay in key order, in both
/// directions.
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

/// The key-value as the response contains it.
fn returned_kv(request: &Range, kv: &KeyValue) -> KeyValue {
    let mut kv = kv.clone();
    if request.keys_only {
        kv.value.clear();
    }
    kv
}
