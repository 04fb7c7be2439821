//! Transactions.

use etcd_client::proto::{
    PbCompare, PbPutRequest, PbRangeRequest, PbTargetUnion, PbTxnOpRequest, PbTxnRequest,
    PbTxnRequestOp, PbTxnResponse,
};

use crate::kv::{delete, put, range};
use crate::play::Play;

impl Play {
    pub(crate) async fn txn(&mut self, what: &str, txn: PbTxnRequest) {
        self.call::<_, PbTxnResponse>(what, "/etcdserverpb.KV/Txn", txn).await;
    }
}

pub(crate) fn op(request: PbTxnOpRequest) -> PbTxnRequestOp {
    PbTxnRequestOp { request: Some(request) }
}

fn puts(key: &str) -> PbTxnRequestOp {
    op(PbTxnOpRequest::RequestPut(PbPutRequest { prev_kv: true, ..put(key, "2") }))
}

fn gets(key: &str, end: &str) -> PbTxnRequestOp {
    op(PbTxnOpRequest::RequestRange(range(key, end)))
}

fn deletes(key: &str, end: &str) -> PbTxnRequestOp {
    op(PbTxnOpRequest::RequestDeleteRange(delete(key, end)))
}

fn nested(txn: PbTxnRequest) -> PbTxnRequestOp {
    op(PbTxnOpRequest::RequestTxn(txn))
}

fn both<const S: usize, const F: usize>(
    success: [PbTxnRequestOp; S],
    failure: [PbTxnRequestOp; F],
) -> PbTxnRequest {
    PbTxnRequest { success: success.into(), failure: failure.into(), ..PbTxnRequest::default() }
}

fn then<const S: usize>(success: [PbTxnRequestOp; S]) -> PbTxnRequest {
    both(success, [])
}

fn compare(key: &str, end: &str, target: i32, operand: Option<PbTargetUnion>) -> PbCompare {
    PbCompare {
        key: key.into(),
        range_end: end.into(),
        target,
        target_union: operand,
        ..PbCompare::default()
    }
}

fn when(compare: PbCompare) -> PbTxnRequest {
    PbTxnRequest { compare: vec![compare], ..PbTxnRequest::default() }
}

pub(crate) async fn compares(play: &mut Play) {
    play.grant("grant", 7, 60).await;
    play.put("put", PbPutRequest { lease: 7, ..put("a", "1") }).await;
    play.put("put", put("a", "2")).await;
    play.put("put", PbPutRequest { lease: 7, ..put("b", "2") }).await;
    let operands: [fn(i64) -> PbTargetUnion; 5] = [
        PbTargetUnion::Version,
        PbTargetUnion::CreateRevision,
        PbTargetUnion::ModRevision,
        |n| PbTargetUnion::Value(n.to_string().into_bytes()),
        PbTargetUnion::Lease,
    ];
    for (key, end) in
        [("a", ""), ("b", ""), ("x", ""), ("a", "c"), ("a", "\0"), ("c", "a"), ("\0", "\0")]
    {
        for target in 0..5 {
            let operand = operands[usize::try_from(target).expect("a target")];
            // Results that etcd does not know are taken to hold.
            for result in 0..5 {
                for n in [0, 1, 2, 3, 4, 7] {
                    let compare = compare(key, end, target, Some(operand(n)));
                    play.txn("compare", when(PbCompare { result, ..compare })).await;
                }
                let left_out = compare(key, end, target, None);
                play.txn("no operand", when(PbCompare { result, ..left_out })).await;
                let other = operands[usize::try_from((target + 1) % 5).expect("a target")](2);
                let mistaken = compare(key, end, target, Some(other));
                play.txn("another operand", when(PbCompare { result, ..mistaken })).await;
            }
        }
        for result in 0..5 {
            let unknown = compare(key, end, 9, Some(PbTargetUnion::Version(1)));
            play.txn("unknown target", when(PbCompare { result, ..unknown })).await;
        }
    }
    play.txn("no key", when(compare("", "", 0, None))).await;
    play.txn("no key but an end", when(compare("", "b", 0, None))).await;
    let mut two = when(compare("a", "", 0, Some(PbTargetUnion::Version(2))));
    play.txn("holds", two.clone()).await;
    two.compare.push(compare("b", "", 0, Some(PbTargetUnion::Version(2))));
    play.txn("both have to", two).await;
}

pub(crate) async fn steps(play: &mut Play) {
    play.txn("nothing", PbTxnRequest::default()).await;
    play.txn("reads", then([gets("a", ""), gets("a", "\0")])).await;
    play.txn("deletes nothing", then([gets("a", ""), deletes("a", "")])).await;
    play.txn(
        "puts",
        then([gets("a", "\0"), puts("a"), gets("a", "\0"), puts("b"), gets("a", "\0")]),
    )
    .await;
    play.txn("deletes", then([deletes("a", ""), gets("a", "\0"), puts("c"), deletes("b", "c")]))
        .await;
    let fails = compare("c", "", 0, Some(PbTargetUnion::Version(9)));
    let else_too =
        PbTxnRequest { compare: vec![fails], ..both([puts("d")], [gets("c", ""), puts("e")]) };
    play.txn("else", else_too.clone()).await;
    play.txn("nested", then([nested(else_too.clone())])).await;
    // A compare inside looks at what was there before, a read at what is there now.
    let was = compare("f", "", 0, Some(PbTargetUnion::Version(0)));
    let inside =
        PbTxnRequest { compare: vec![was], ..both([gets("f", ""), puts("g")], [puts("h")]) };
    let deep = nested(then([nested(PbTxnRequest::default()), nested(inside), gets("f", "\0")]));
    play.txn("deeply nested", then([puts("f"), deep, gets("f", "\0")])).await;
    let sorted = PbRangeRequest { sort_order: 2, limit: 2, ..range("\0", "\0") };
    play.txn("sorted", then([op(PbTxnOpRequest::RequestRange(sorted))])).await;
    let count = PbRangeRequest { count_only: true, ..range("\0", "\0") };
    play.txn("counted", then([op(PbTxnOpRequest::RequestRange(count))])).await;
    let serializable = PbRangeRequest { serializable: true, ..range("\0", "\0") };
    play.txn("serializable", then([op(PbTxnOpRequest::RequestRange(serializable))])).await;
}

pub(crate) async fn refusals(play: &mut Play) {
    play.put("put", put("a", "1")).await;
    let silent = PbTxnRequestOp { request: None };
    play.txn("a step that says nothing", then([silent.clone()])).await;
    play.txn("else too", both([], [silent])).await;
    play.txn("put without a key", then([puts("")])).await;
    play.txn("read without a key", both([], [gets("", "")])).await;
    play.txn("delete without a key", then([deletes("", "")])).await;
    let keep = |key, value| PbPutRequest { ignore_value: true, ..put(key, value) };
    let step = |request| then([puts("z"), op(PbTxnOpRequest::RequestPut(request))]);
    play.txn("keep and give", step(keep("a", "1"))).await;
    play.txn("keep what is not there", step(keep("x", ""))).await;
    play.txn(
        "keep the lease and give one",
        step(PbPutRequest { ignore_lease: true, lease: 3, ..put("a", "") }),
    )
    .await;
    play.txn("a lease that is not there", step(PbPutRequest { lease: 3, ..put("a", "") })).await;
    play.txn("neither key nor lease", step(PbPutRequest { lease: 3, ..keep("x", "") })).await;
    let many = |n: usize| (0..n).map(|n| puts(&format!("k{n}"))).collect::<Vec<_>>();
    let compares = |n| vec![compare("a", "", 0, None); n];
    let sized = |compare, success, failure| PbTxnRequest {
        compare: compares(compare),
        success: many(success),
        failure: many(failure),
    };
    for (compare, success, failure) in [(128, 128, 128), (129, 0, 0), (0, 129, 0), (0, 0, 129)] {
        play.txn("many", sized(compare, success, failure)).await;
    }
    let within = |outer: usize, inner| {
        let mut txn = sized(0, outer, 0);
        txn.success.push(nested(PbTxnRequest {
            success: many(inner)[..]
                .iter()
                .cloned()
                .map(|step| {
                    let Some(PbTxnOpRequest::RequestPut(put)) = step.request else { return step };
                    op(PbTxnOpRequest::RequestPut(PbPutRequest {
                        key: [b"n", &put.key[..]].concat(),
                        ..put
                    }))
                })
                .collect(),
            ..PbTxnRequest::default()
        }));
        txn
    };
    for (outer, inner) in [(127, 0), (127, 1), (64, 63), (64, 64), (63, 65), (126, 1), (126, 2)] {
        play.txn("many within", within(outer, inner)).await;
    }
    let within_compare =
        then([nested(PbTxnRequest { compare: compares(128), ..PbTxnRequest::default() })]);
    play.txn("many compares within", within_compare).await;
    play.txn(
        "no key, and too many",
        PbTxnRequest { compare: vec![compare("", "", 0, None)], ..sized(0, 129, 0) },
    )
    .await;
    play.txn("no key, twice the same", then([gets("", ""), puts("a"), puts("a")])).await;
    play.range("nothing of it was done", range("z", "")).await;
}

pub(crate) async fn duplicates(play: &mut Play) {
    let in_one =
        |steps: Vec<PbTxnRequestOp>| PbTxnRequest { success: steps, ..PbTxnRequest::default() };
    let child = |steps: Vec<PbTxnRequestOp>| nested(in_one(steps));
    let (p, d, r) = (|| puts("k"), || deletes("k", ""), || deletes("a", "z"));
    for (what, steps) in [
        ("put put", vec![p(), p()]),
        ("put delete", vec![p(), d()]),
        ("delete put", vec![d(), p()]),
        ("put range", vec![p(), r()]),
        ("delete delete", vec![d(), r(), d()]),
        ("all and put", vec![deletes("a", "\0"), puts("new")]),
        ("backwards and put", vec![deletes("z", "a"), p()]),
        ("put, child put", vec![p(), child(vec![p()])]),
        ("child put, put", vec![child(vec![p()]), p()]),
        ("put, child delete", vec![p(), child(vec![d()])]),
        ("delete, child put", vec![d(), child(vec![p()])]),
        ("children put put", vec![child(vec![p()]), child(vec![p()])]),
        ("children put delete", vec![child(vec![p()]), child(vec![d()])]),
        ("children delete put", vec![child(vec![d()]), child(vec![p()])]),
        ("child then and else", vec![nested(both([p()], [p()]))]),
        ("child then put else delete", vec![nested(both([p()], [d()]))]),
        ("read and put", vec![gets("k", ""), p(), gets("k", "")]),
    ] {
        play.txn(what, in_one(steps.clone())).await;
        let other = PbTxnRequest { failure: steps, ..PbTxnRequest::default() };
        play.txn("in the branch not taken", other).await;
    }
    play.txn("then and else", both([p()], [p(), puts("l")])).await;
}

pub(crate) async fn history(play: &mut Play) {
    for value in ["1", "2", "3"] {
        play.put("put", put("a", value)).await;
    }
    let at =
        |revision| op(PbTxnOpRequest::RequestRange(PbRangeRequest { revision, ..range("a", "") }));
    for compacted in [0, 3] {
        play.compact("compact", compacted, true).await;
        for revision in [-2, -1, 0, 1, 2, 3, 4, 5, 6] {
            play.txn("read", then([at(revision)])).await;
            play.txn("nested", then([nested(then([at(revision)]))])).await;
        }
    }
    play.txn("put and read now", then([puts("a"), at(5)])).await;
    play.txn("put and read then", then([puts("a"), at(4)])).await;
    play.txn("put and read the past", then([puts("a"), at(1)])).await;
    let missing =
        op(PbTxnOpRequest::RequestPut(PbPutRequest { ignore_value: true, ..put("x", "") }));
    play.txn("two faults", then([at(1), missing])).await;
    play.range("all", range("\0", "\0")).await;
}

/// Nested as deep as our client can read the answer.
pub(crate) async fn depths(play: &mut Play) {
    let deep = |depth| (0..depth).fold(then([puts("a")]), |txn, _| then([nested(txn)]));
    for depth in [10, 40, 49] {
        play.txn("deep", deep(depth)).await;
        play.range("done", range("a", "")).await;
    }
    play.txn("too deep", deep(50)).await;
}
