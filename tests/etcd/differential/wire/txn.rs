//! Transactions: compares, branches, nesting, rejections.

use etcd_client::proto::{
    PbCompare, PbPutRequest, PbRangeRequest, PbTargetUnion, PbTxnOpRequest, PbTxnRequest,
    PbTxnRequestOp, PbTxnResponse,
};

use crate::kv::{delete, put, range};
use crate::scenario_run::ScenarioRun;

impl ScenarioRun {
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

pub(crate) async fn compares(run: &mut ScenarioRun) {
    run.grant("grant", 7, 60).await;
    run.put("put", PbPutRequest { lease: 7, ..put("a", "1") }).await;
    run.put("put", put("a", "2")).await;
    run.put("put", PbPutRequest { lease: 7, ..put("b", "2") }).await;
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
            let operand = operands[usize::try_from(target).unwrap()];
            // 4 is no operator; etcd evaluates an unknown operator as true.
            for result in 0..5 {
                for n in [0, 1, 2, 3, 4, 7] {
                    let compare = compare(key, end, target, Some(operand(n)));
                    run.txn("compare", when(PbCompare { result, ..compare })).await;
                }
                let left_out = compare(key, end, target, None);
                run.txn("no operand", when(PbCompare { result, ..left_out })).await;
                let other = operands[usize::try_from((target + 1) % 5).unwrap()](2);
                let mistaken = compare(key, end, target, Some(other));
                run.txn("another operand", when(PbCompare { result, ..mistaken })).await;
            }
        }
        for result in 0..5 {
            let unknown = compare(key, end, 9, Some(PbTargetUnion::Version(1)));
            run.txn("unknown target", when(PbCompare { result, ..unknown })).await;
        }
    }
    run.txn("no key", when(compare("", "", 0, None))).await;
    run.txn("no key but an end", when(compare("", "b", 0, None))).await;
    let mut two = when(compare("a", "", 0, Some(PbTargetUnion::Version(2))));
    run.txn("compare holds", two.clone()).await;
    two.compare.push(compare("b", "", 0, Some(PbTargetUnion::Version(2))));
    run.txn("both compares hold", two).await;
}

pub(crate) async fn steps(run: &mut ScenarioRun) {
    run.txn("nothing", PbTxnRequest::default()).await;
    run.txn("reads", then([gets("a", ""), gets("a", "\0")])).await;
    run.txn("deletes nothing", then([gets("a", ""), deletes("a", "")])).await;
    run.txn(
        "puts",
        then([gets("a", "\0"), puts("a"), gets("a", "\0"), puts("b"), gets("a", "\0")]),
    )
    .await;
    run.txn("deletes", then([deletes("a", ""), gets("a", "\0"), puts("c"), deletes("b", "c")]))
        .await;
    let fails = compare("c", "", 0, Some(PbTargetUnion::Version(9)));
    let else_too =
        PbTxnRequest { compare: vec![fails], ..both([puts("d")], [gets("c", ""), puts("e")]) };
    run.txn("failure branch", else_too.clone()).await;
    run.txn("nested", then([nested(else_too.clone())])).await;
    // A nested compare is evaluated on the state before the transaction; a range reads earlier
    // writes.
    let was = compare("f", "", 0, Some(PbTargetUnion::Version(0)));
    let inside =
        PbTxnRequest { compare: vec![was], ..both([gets("f", ""), puts("g")], [puts("h")]) };
    let deep = nested(then([nested(PbTxnRequest::default()), nested(inside), gets("f", "\0")]));
    run.txn("deeply nested", then([puts("f"), deep, gets("f", "\0")])).await;
    let sorted = PbRangeRequest { sort_order: 2, limit: 2, ..range("\0", "\0") };
    run.txn("sorted", then([op(PbTxnOpRequest::RequestRange(sorted))])).await;
    let count = PbRangeRequest { count_only: true, ..range("\0", "\0") };
    run.txn("counted", then([op(PbTxnOpRequest::RequestRange(count))])).await;
    let serializable = PbRangeRequest { serializable: true, ..range("\0", "\0") };
    run.txn("serializable", then([op(PbTxnOpRequest::RequestRange(serializable))])).await;
}

pub(crate) async fn rejections(run: &mut ScenarioRun) {
    run.put("put", put("a", "1")).await;
    let empty = PbTxnRequestOp { request: None };
    run.txn("operation without content", then([empty.clone()])).await;
    run.txn("failure branch", both([], [empty])).await;
    run.txn("put without a key", then([puts("")])).await;
    run.txn("read without a key", both([], [gets("", "")])).await;
    run.txn("delete without a key", then([deletes("", "")])).await;
    let keep = |key, value| PbPutRequest { ignore_value: true, ..put(key, value) };
    let step = |request| then([puts("z"), op(PbTxnOpRequest::RequestPut(request))]);
    run.txn("ignore_value with a value", step(keep("a", "1"))).await;
    run.txn("ignore_value of a missing key", step(keep("x", ""))).await;
    run.txn(
        "ignore_lease with a lease",
        step(PbPutRequest { ignore_lease: true, lease: 3, ..put("a", "") }),
    )
    .await;
    run.txn("missing lease", step(PbPutRequest { lease: 3, ..put("a", "") })).await;
    run.txn("missing key and missing lease", step(PbPutRequest { lease: 3, ..keep("x", "") }))
        .await;
    let many = |n: usize| (0..n).map(|n| puts(&format!("k{n}"))).collect::<Vec<_>>();
    let compares = |n| vec![compare("a", "", 0, None); n];
    let sized = |compare, success, failure| PbTxnRequest {
        compare: compares(compare),
        success: many(success),
        failure: many(failure),
    };
    for (compare, success, failure) in [(128, 128, 128), (129, 0, 0), (0, 129, 0), (0, 0, 129)] {
        run.txn("many", sized(compare, success, failure)).await;
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
        run.txn("many within", within(outer, inner)).await;
    }
    let within_compare =
        then([nested(PbTxnRequest { compare: compares(128), ..PbTxnRequest::default() })]);
    run.txn("many compares within", within_compare).await;
    run.txn(
        "no key, and too many",
        PbTxnRequest { compare: vec![compare("", "", 0, None)], ..sized(0, 129, 0) },
    )
    .await;
    run.txn("no key, twice the same", then([gets("", ""), puts("a"), puts("a")])).await;
    run.range("no operation was applied", range("z", "")).await;
}

pub(crate) async fn duplicates(run: &mut ScenarioRun) {
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
        ("child: success and failure", vec![nested(both([p()], [p()]))]),
        ("child: success put, failure delete", vec![nested(both([p()], [d()]))]),
        ("read and put", vec![gets("k", ""), p(), gets("k", "")]),
    ] {
        run.txn(what, in_one(steps.clone())).await;
        let other = PbTxnRequest { failure: steps, ..PbTxnRequest::default() };
        run.txn("in the branch that is not taken", other).await;
    }
    run.txn("success and failure", both([p()], [p(), puts("l")])).await;
}

pub(crate) async fn history(run: &mut ScenarioRun) {
    for value in ["1", "2", "3"] {
        run.put("put", put("a", value)).await;
    }
    let at =
        |revision| op(PbTxnOpRequest::RequestRange(PbRangeRequest { revision, ..range("a", "") }));
    for compacted in [0, 3] {
        run.compact("compact", compacted, true).await;
        for revision in [-2, -1, 0, 1, 2, 3, 4, 5, 6] {
            run.txn("read", then([at(revision)])).await;
            run.txn("nested", then([nested(then([at(revision)]))])).await;
        }
    }
    run.txn("put and read its own revision", then([puts("a"), at(5)])).await;
    run.txn("put and read the revision before", then([puts("a"), at(4)])).await;
    run.txn("put and read a past revision", then([puts("a"), at(1)])).await;
    let missing =
        op(PbTxnOpRequest::RequestPut(PbPutRequest { ignore_value: true, ..put("x", "") }));
    run.txn("two errors", then([at(1), missing])).await;
    run.range("all", range("\0", "\0")).await;
}

/// Transactions nested as deeply as the raw client can decode, and one level deeper.
pub(crate) async fn depths(run: &mut ScenarioRun) {
    let deep = |depth| (0..depth).fold(then([puts("a")]), |txn, _| then([nested(txn)]));
    for depth in [10, 40, 49] {
        run.txn("nested", deep(depth)).await;
        run.range("done", range("a", "")).await;
    }
    run.txn("nested too deep", deep(50)).await;
}
