//! Puts, reads, deletions, compaction.

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse,
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbPutRequest, PbPutResponse, PbRangeRequest,
    PbRangeResponse,
};

use crate::play::Play;

impl Play {
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

pub(crate) async fn puts(play: &mut Play) {
    play.range("the first revision", range("a", "")).await;
    play.put("put", put("a", "1")).await;
    play.put("an empty value", put("b", "")).await;
    play.put("what was there", PbPutRequest { prev_kv: true, ..put("a", "1") }).await;
    play.put("nothing was there", PbPutRequest { prev_kv: true, ..put("c", "1") }).await;
    play.put("no key", put("", "1")).await;
    let keep = |key, value| PbPutRequest { ignore_value: true, ..put(key, value) };
    play.put("keep the value", PbPutRequest { prev_kv: true, ..keep("a", "") }).await;
    play.put("keep and give", keep("a", "2")).await;
    play.put("keep what is not there", keep("x", "")).await;

    play.grant("grant", 7, 60).await;
    let on = |lease| PbPutRequest { lease, prev_kv: true, ..put("a", "2") };
    play.put("on a lease", on(7)).await;
    play.put("on a lease that is not there", on(8)).await;
    play.put("on a negative lease", on(-7)).await;
    let same =
        |key, lease| PbPutRequest { ignore_lease: true, lease, prev_kv: true, ..put(key, "3") };
    play.put("keep the lease", same("a", 0)).await;
    play.range("on its lease", range("a", "")).await;
    play.put("keep the lease and give one", same("a", 7)).await;
    play.put("keep the lease of what is not there", same("x", 0)).await;
    let both =
        PbPutRequest { ignore_value: true, ignore_lease: true, prev_kv: true, ..put("a", "") };
    play.put("keep both", both.clone()).await;
    play.put("keep both, with both", PbPutRequest { value: "x".into(), lease: 7, ..both.clone() })
        .await;
    play.put("keep both, no key", PbPutRequest { key: Vec::new(), ..both }).await;
    let missing = PbPutRequest { lease: 9, ..keep("x", "") };
    play.put("neither key nor lease", missing).await;
    play.put("no lease any more", PbPutRequest { prev_kv: true, ..put("a", "4") }).await;
    play.range("all", range("\0", "\0")).await;
}

pub(crate) async fn reads(play: &mut Play) {
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("b", "5"), ("d", "6")] {
        play.put("put", put(key, value)).await;
    }
    play.delete("delete", delete("d", "")).await;
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
        play.range(what, range(key, end)).await;
        let serializable = PbRangeRequest { serializable: true, ..range(key, end) };
        play.range(what, serializable).await;
        play.range(what, PbRangeRequest { count_only: true, limit: 1, ..range(key, end) }).await;
        play.range(what, PbRangeRequest { keys_only: true, ..range(key, end) }).await;
    }
    for limit in [-1, 0, 1, 2, 3, 4] {
        play.range("limit", PbRangeRequest { limit, ..range("a", "\0") }).await;
    }
    for revision in [-5, -1, 0, 1, 2, 4, 7, 8, 9, i64::MAX, i64::MIN] {
        let at = PbRangeRequest { revision, ..range("a", "\0") };
        play.range("revision", at.clone()).await;
        play.range("revision, serializable", PbRangeRequest { serializable: true, ..at.clone() })
            .await;
        play.range("revision, count", PbRangeRequest { count_only: true, ..at }).await;
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
            play.range("filter", request.clone()).await;
            play.range("filter, limit", PbRangeRequest { limit: 1, ..request.clone() }).await;
            play.range("filter, count", PbRangeRequest { count_only: true, ..request }).await;
        }
    }
}

pub(crate) async fn sorts(play: &mut Play) {
    for (key, value) in
        [("c", "1"), ("a", "3"), ("d", "2"), ("b", "4"), ("a", "9"), ("a", "0"), ("d", "5")]
    {
        play.put("put", put(key, value)).await;
    }
    for sort_target in 0..5 {
        for sort_order in 0..3 {
            let sorted = PbRangeRequest { sort_target, sort_order, ..range("a", "\0") };
            play.range("sorted", sorted.clone()).await;
            play.range("sorted, two", PbRangeRequest { limit: 2, ..sorted.clone() }).await;
            let keys = PbRangeRequest { keys_only: true, limit: 3, ..sorted.clone() };
            play.range("sorted, keys", keys).await;
            let late = PbRangeRequest { min_mod_revision: 4, limit: 2, ..sorted };
            play.range("sorted, late", late).await;
        }
    }
}

pub(crate) async fn deletes(play: &mut Play) {
    play.delete("nothing yet", delete("a", "")).await;
    for key in ["a", "b", "c", "d", "e"] {
        play.put("put", put(key, "1")).await;
    }
    play.delete("no key", delete("", "")).await;
    play.delete("no key but an end", delete("", "b")).await;
    play.delete("one", delete("a", "")).await;
    play.delete("one, again", delete("a", "")).await;
    play.delete("backwards", delete("d", "b")).await;
    let silent = PbDeleteRequest { prev_kv: false, ..delete("b", "d") };
    play.delete("some", silent).await;
    play.put("a new life", put("b", "2")).await;
    play.delete("all", delete("\0", "\0")).await;
    play.delete("all, again", delete("\0", "\0")).await;
}

pub(crate) async fn compactions(play: &mut Play) {
    for value in ["1", "2", "3", "4"] {
        play.put("put", put("a", value)).await;
    }
    play.compact("the future", 6, false).await;
    play.compact("nothing", 0, false).await;
    play.compact("nothing, again", 0, false).await;
    play.compact("less than nothing", -1, false).await;
    play.compact("some", 3, true).await;
    play.compact("some, again", 3, true).await;
    play.compact("less", 2, false).await;
    for revision in [1, 2, 3, 4, 6] {
        play.range("read", PbRangeRequest { revision, ..range("a", "") }).await;
    }
    play.delete("delete", delete("a", "")).await;
    play.compact("all", 6, false).await;
    play.range("read", PbRangeRequest { revision: 5, ..range("a", "") }).await;
    play.range("read", range("a", "")).await;
    play.put("a new life", put("a", "5")).await;
    play.range("read", range("a", "")).await;
}

pub(crate) async fn sizes(play: &mut Play) {
    let large = |bytes| "x".repeat(bytes);
    // The largest value differs by a byte or two from one etcd to the next, whose ids are longer.
    for bytes in [1_572_830, 1_572_850, 2_000_000, 2_097_142, 2_097_143, 3_000_000] {
        play.put("a large value", put("abc", &large(bytes))).await;
        play.put("a large key", put(&large(bytes), "")).await;
        play.range("a read", PbRangeRequest { count_only: true, ..range(&large(bytes), "") }).await;
        play.delete("a deletion", PbDeleteRequest { prev_kv: false, ..delete(&large(bytes), "") })
            .await;
    }
}

/// Answers may be as large as they like.
pub(crate) async fn large_answers(play: &mut Play) {
    let large = "x".repeat(1_500_000);
    for key in ["a", "b", "c", "d", "e", "f"] {
        play.put("put", put(key, &large)).await;
    }
    play.range("nine megabytes", range("a", "z")).await;
    play.delete("nine more", delete("a", "z")).await;
}
