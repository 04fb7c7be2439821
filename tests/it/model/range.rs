//! Range reads of the model, in the six steps of `docs/etcd-contract.md` §2.

use coord_core::{
    error::ErrorKind,
    kv::{Header, KeyValue, Range, RangeResponse, Revision, SortOrder, SortTarget},
};

use super::rules;
use super::state::{Model, ModelResult, State};

impl Model {
    pub(super) fn range(&self, range: &Range) -> ModelResult<RangeResponse> {
        rules::check_key(range.keys.start())?;
        let revision = or_zero(range.revision);
        if revision > self.revision() {
            return Err(ErrorKind::FutureRevision);
        }
        if revision > Revision::ZERO && revision.0 < self.compacted {
            return Err(ErrorKind::Compacted);
        }
        Ok(self.read(range, self.current(), self.header()))
    }

    /// Reads from `newest`, or from the state at the requested revision.
    pub(super) fn read(&self, range: &Range, newest: &State, header: Header) -> RangeResponse {
        let revision = or_zero(range.revision);
        let state = if revision > Revision::ZERO { self.state_at(revision) } else { newest };
        // 1: fetch in key order.
        let mut kvs = rules::keys_in(state, &range.keys);
        // 2: count, before limit and filters.
        let count = i64::try_from(kvs.len()).expect("the number of keys fits");
        if range.count_only {
            return RangeResponse { header, kvs: Vec::new(), more: false, count };
        }
        let limit =
            range.limit.map(|limit| usize::try_from(limit.get()).expect("usize has 64 bits"));
        let unsorted = range.sort_order == SortOrder::None;
        if let Some(limit) = limit
            && unsorted
            && !has_filter(range)
        {
            kvs.truncate(limit.saturating_add(1));
        }
        // 3: filter.
        kvs.retain(|kv| passes(range, kv));
        // 4: sort; with up to twelve keys, ties stay in key order.
        sort(&mut kvs, range);
        // 5: apply the limit.
        let more = limit.is_some_and(|limit| kvs.len() > limit);
        if let Some(limit) = limit {
            kvs.truncate(limit);
        }
        // 6: clear the values.
        if range.keys_only {
            for kv in &mut kvs {
                kv.value.clear();
            }
        }
        RangeResponse { header, kvs, more, count }
    }
}

/// A revision as on the wire: zero if there is none.
pub(super) fn or_zero(revision: Option<Revision>) -> Revision {
    revision.unwrap_or(Revision::ZERO)
}

fn has_filter(range: &Range) -> bool {
    or_zero(range.min_mod_revision).0 != 0
        || or_zero(range.max_mod_revision).0 != 0
        || or_zero(range.min_create_revision).0 != 0
        || or_zero(range.max_create_revision).0 != 0
}

fn passes(range: &Range, kv: &KeyValue) -> bool {
    if or_zero(range.max_mod_revision).0 != 0 && kv.mod_revision > or_zero(range.max_mod_revision) {
        return false;
    }
    if or_zero(range.min_mod_revision).0 != 0 && kv.mod_revision < or_zero(range.min_mod_revision) {
        return false;
    }
    if or_zero(range.max_create_revision).0 != 0
        && kv.create_revision > or_zero(range.max_create_revision)
    {
        return false;
    }
    if or_zero(range.min_create_revision).0 != 0
        && kv.create_revision < or_zero(range.min_create_revision)
    {
        return false;
    }
    true
}

/// Insertion sort, the algorithm that etcd uses for few keys, because it decides the order of ties.
fn sort(kvs: &mut [KeyValue], range: &Range) {
    let precedes = |a: &KeyValue, b: &KeyValue| {
        let (a, b) = if range.sort_order == SortOrder::Descending { (b, a) } else { (a, b) };
        match range.sort_target {
            SortTarget::Key => a.key < b.key,
            SortTarget::Version => a.version < b.version,
            SortTarget::CreateRevision => a.create_revision < b.create_revision,
            SortTarget::ModRevision => a.mod_revision < b.mod_revision,
            SortTarget::Value => a.value < b.value,
        }
    };
    for end in 1..kvs.len() {
        let mut at = end;
        while at > 0 && precedes(&kvs[at], &kvs[at - 1]) {
            kvs.swap(at, at - 1);
            at -= 1;
        }
    }
}
