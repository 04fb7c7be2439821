//! The KV service: puts, range reads, deletions and compaction.

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse,
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbPutRequest, PbPutResponse, PbRangeRequest,
    PbRangeResponse,
};

use crate::scenario_run::ScenarioRun;

impl ScenarioRun {
    pub(crate) async fn put(&mut self, what: &str, request: PbPutRequest) {
        self.call::<_, PbPutResponse>(what, "/etcdserverpb.KV/Put", request).await;
    }

    pub(crate) async fn range(&mut self, what: &str, request: PbRangeRequest) {
        self.call::<_, PbRangeResponse>(what, "/etcdserverpb.KV/Range", request).await;
    }

    pub(crate) async fn delete(&mut self, what: &str, request: PbDeleteRequest) {
        self.call::<_, PbDeleteResponse>(what, "/etcdserverpb.KV/DeleteRange", request).await;
    }

    pub(crate) async fn compact(&mut self, what: &str, revision: i64, physical: bool) {
        let request = PbCompactionRequest { revision, physical };
        let path = "/etcdserverpb.KV/Compact";
        self.call::<_, PbCompactionResponse>(what, path, request).await;
    }

    pub(crate) async fn grant(&mut self, what: &str, id: i64, ttl: i64) {
        let request = PbLeaseGrantRequest { ttl, id };
        let path = "/etcdserverpb.Lease/LeaseGrant";
        self.call::<_, PbLeaseGrantResponse>(what, path, request).await;
    }
}

pub(crate) fn put(key: &str, value: &str) -> PbPutRequest {
    PbPutRequest { key: key.into(), value: value.into(), ..PbPutRequest::default() }
}

pub(crate) fn range(key: &str, range_end: &str) -> PbRangeRequest {
    PbRangeRequest { key: key.into(), range_end: range_end.into(), ..PbRangeRequest::default() }
}

pub(crate) fn delete(key: &str, range_end: &str) -> PbDeleteRequest {
    PbDeleteRequest { key: key.into(), range_end: range_end.into(), prev_kv: true }
}

pub(crate) async fn puts(run: &mut ScenarioRun) {
    run.range("revision of an empty store", range("a", "")).await;
    run.put("put", put("a", "1")).await;
    run.put("an empty value", put("b", "")).await;
    run.put("prev_kv of an existing key", PbPutRequest { prev_kv: true, ..put("a", "1") }).await;
    run.put("prev_kv of a new key", PbPutRequest { prev_kv: true, ..put("c", "1") }).await;
    run.put("no key", put("", "1")).await;
    let keep = |key, value| PbPutRequest { ignore_value: true, ..put(key, value) };
    run.put("ignore_value", PbPutRequest { prev_kv: true, ..keep("a", "") }).await;
    run.put("ignore_value with a value", keep("a", "2")).await;
    run.put("ignore_value of a missing key", keep("x", "")).await;

    run.grant("grant", 7, 60).await;
    let on = |lease| PbPutRequest { lease, prev_kv: true, ..put("a", "2") };
    run.put("on a lease", on(7)).await;
    run.put("on a missing lease", on(8)).await;
    run.put("on a negative lease", on(-7)).await;
    let same =
        |key, lease| PbPutRequest { ignore_lease: true, lease, prev_kv: true, ..put(key, "3") };
    run.put("ignore_lease", same("a", 0)).await;
    run.range("read of a key with a lease", range("a", "")).await;
    run.put("ignore_lease with a lease", same("a", 7)).await;
    run.put("ignore_lease of a missing key", same("x", 0)).await;
    let both =
        PbPutRequest { ignore_value: true, ignore_lease: true, prev_kv: true, ..put("a", "") };
    run.put("ignore_value and ignore_lease", both.clone()).await;
    run.put(
        "ignore_value and ignore_lease with both",
        PbPutRequest { value: "x".into(), lease: 7, ..both.clone() },
    )
    .await;
    run.put(
        "ignore_value and ignore_lease without a key",
        PbPutRequest { key: Vec::new(), ..both },
    )
    .await;
    let missing = PbPutRequest { lease: 9, ..keep("x", "") };
    run.put("missing key and missing lease", missing).await;
    run.put("put without its lease", PbPutRequest { prev_kv: true, ..put("a", "4") }).await;
    run.range("all", range("\0", "\0")).await;
}

pub(crate) async fn reads(run: &mut ScenarioRun) {
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("b", "5"), ("d", "6")] {
        run.put("put", put(key, value)).await;
    }
    run.delete("delete", delete("d", "")).await;
    for (what, key, end) in [
        ("one", "a", ""),
        ("none", "x", ""),
        ("some", "a", "c"),
        ("from on", "b", "\0"),
        ("all", "\0", "\0"),
        ("backwards", "c", "a"),
        ("the same", "a", "a"),
        ("no key", "", ""),
        ("no key but an end", "", "b"),
        ("no key, all", "", "\0"),
        ("deleted", "d", ""),
    ] {
        run.range(what, range(key, end)).await;
        let serializable = PbRangeRequest { serializable: true, ..range(key, end) };
        run.range(what, serializable).await;
        run.range(what, PbRangeRequest { count_only: true, limit: 1, ..range(key, end) }).await;
        run.range(what, PbRangeRequest { keys_only: true, ..range(key, end) }).await;
    }
    for limit in [-1, 0, 1, 2, 3, 4] {
        run.range("limit", PbRangeRequest { limit, ..range("a", "\0") }).await;
    }
    for revision in [-5, -1, 0, 1, 2, 4, 7, 8, 9, i64::MAX, i64::MIN] {
        let at = PbRangeRequest { revision, ..range("a", "\0") };
        run.range("revision", at.clone()).await;
        run.range("revision, serializable", PbRangeRequest { serializable: true, ..at.clone() })
            .await;
        run.range("revision, count", PbRangeRequest { count_only: true, ..at }).await;
    }
    for revision in [-1, 1, 2, 4, 6, 99] {
        let all = || range("a", "\0");
        let set: [fn(&mut PbRangeRequest) -> &mut i64; 4] = [
            |range| &mut range.min_mod_revision,
            |range| &mut range.max_mod_revision,
            |range| &mut range.min_create_revision,
            |range| &mut range.max_create_revision,
        ];
        for set in set {
            let mut request = all();
            *set(&mut request) = revision;
            run.range("filter", request.clone()).await;
            run.range("filter, limit", PbRangeRequest { limit: 1, ..request.clone() }).await;
            run.range("filter, count", PbRangeRequest { count_only: true, ..request }).await;
        }
    }
}

pub(crate) async fn sorts(run: &mut ScenarioRun) {
    for (key, value) in
        [("c", "1"), ("a", "3"), ("d", "2"), ("b", "4"), ("a", "9"), ("a", "0"), ("d", "5")]
    {
        run.put("put", put(key, value)).await;
    }
    for sort_target in 0..5 {
        for sort_order in 0..3 {
            let sorted = PbRangeRequest { sort_target, sort_order, ..range("a", "\0") };
            run.range("sorted", sorted.clone()).await;
            run.range("sorted, two", PbRangeRequest { limit: 2, ..sorted.clone() }).await;
            let keys = PbRangeRequest { keys_only: true, limit: 3, ..sorted.clone() };
            run.range("sorted, keys", keys).await;
            let late = PbRangeRequest { min_mod_revision: 4, limit: 2, ..sorted };
            run.range("sorted, late", late).await;
        }
    }
}

pub(crate) async fn deletes(run: &mut ScenarioRun) {
    run.delete("nothing yet", delete("a", "")).await;
    for key in ["a", "b", "c", "d", "e"] {
        run.put("put", put(key, "1")).await;
    }
    run.delete("no key", delete("", "")).await;
    run.delete("no key but an end", delete("", "b")).await;
    run.delete("one", delete("a", "")).await;
    run.delete("one, again", delete("a", "")).await;
    run.delete("backwards", delete("d", "b")).await;
    let silent = PbDeleteRequest { prev_kv: false, ..delete("b", "d") };
    run.delete("some", silent).await;
    run.put("key created again", put("b", "2")).await;
    run.delete("all", delete("\0", "\0")).await;
    run.delete("all, again", delete("\0", "\0")).await;
}

pub(crate) async fn compactions(run: &mut ScenarioRun) {
    for value in ["1", "2", "3", "4"] {
        run.put("put", put("a", value)).await;
    }
    run.compact("the future", 6, false).await;
    run.compact("nothing", 0, false).await;
    run.compact("nothing, again", 0, false).await;
    run.compact("negative", -1, false).await;
    run.compact("some", 3, true).await;
    run.compact("some, again", 3, true).await;
    run.compact("lower than the last", 2, false).await;
    for revision in [1, 2, 3, 4, 6] {
        run.range("read", PbRangeRequest { revision, ..range("a", "") }).await;
    }
    run.delete("delete", delete("a", "")).await;
    run.compact("all", 6, false).await;
    run.range("read", PbRangeRequest { revision: 5, ..range("a", "") }).await;
    run.range("read", range("a", "")).await;
    run.put("key created again", put("a", "5")).await;
    run.range("read", range("a", "")).await;
}

pub(crate) async fn sizes(run: &mut ScenarioRun) {
    let large = |bytes| "x".repeat(bytes);
    // No size is at the exact limit, because the largest accepted value varies by a byte or two
    // between etcd members, with the length of their request ids.
    for bytes in [1_572_830, 1_572_850, 2_000_000, 2_097_142, 2_097_143, 3_000_000] {
        run.put("a large value", put("abc", &large(bytes))).await;
        run.put("a large key", put(&large(bytes), "")).await;
        run.range("a read", PbRangeRequest { count_only: true, ..range(&large(bytes), "") }).await;
        run.delete("a deletion", PbDeleteRequest { prev_kv: false, ..delete(&large(bytes), "") })
            .await;
    }
}

/// The size of responses is not limited.
pub(crate) async fn large_responses(run: &mut ScenarioRun) {
    let large = "x".repeat(1_500_000);
    for key in ["a", "b", "c", "d", "e", "f"] {
        run.put("put", put(key, &large)).await;
    }
    run.range("read of nine MB", range("a", "z")).await;
    run.delete("delete of nine MB", delete("a", "z")).await;
}
