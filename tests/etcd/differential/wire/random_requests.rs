//! Random requests, valid and invalid.
//!
//! Each run of the tests uses a new seed, which is in the label of each line, so that a failure
//! reports it. Requests that crash a real etcd are not generated: unknown sort options, and
//! transactions that put a key after an unbounded delete of it.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use etcd_client::proto::{
    PbCompare, PbDeleteRequest, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbPutRequest,
    PbRangeRequest, PbTargetUnion, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp,
};
use fastrand::Rng;

use crate::scenario_run::ScenarioRun;

/// The seed, which both runs of the scenario use.
static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));

/// The number of requests.
const REQUESTS: usize = 1_500;

pub(crate) async fn random_sequence(run: &mut ScenarioRun) {
    let seed = *SEED;
    let mut generator = RequestGenerator { rng: Rng::with_seed(seed), revision: 1 };
    for step in 0..REQUESTS {
        let what = format!("seed {seed}, step {step}");
        match generator.rng.u8(0..20) {
            0..6 => run.range(&what, generator.range()).await,
            6..10 => run.put(&what, generator.put()).await,
            10..12 => run.delete(&what, generator.delete(true)).await,
            12..17 => run.txn(&what, generator.txn(2)).await,
            17 => {
                // Leases must not expire during the test.
                let ttl = generator.rng.i64(1..4) * 100;
                // Ids chosen by the servers would differ.
                let id = generator.rng.i64(1..4);
                run.grant(&what, id, ttl).await;
            }
            18 => {
                let (id, path) = (generator.lease(), "/etcdserverpb.Lease/LeaseRevoke");
                let request = PbLeaseRevokeRequest { id };
                run.call::<_, PbLeaseRevokeResponse>(&what, path, request).await;
            }
            _ => {
                let revision = generator.revision - 20 + generator.rng.i64(0..22);
                run.compact(&what, revision, true).await;
            }
        }
        generator.revision += 1;
    }
}

struct RequestGenerator {
    rng: Rng,
    /// The approximate revision of the store.
    revision: i64,
}

impl RequestGenerator {
    fn key(&mut self) -> Vec<u8> {
        let keys: [&[u8]; 8] = [b"", b"\0", b"a", b"b", b"c", b"d", b"ab", b"e"];
        self.rng.choice(keys).unwrap().to_vec()
    }

    /// The end of a range. More than half of the ranges are a single key.
    fn end(&mut self) -> Vec<u8> {
        if self.rng.bool() { Vec::new() } else { self.key() }
    }

    fn lease(&mut self) -> i64 {
        self.rng.i64(-1..4)
    }

    /// `usual`, or in one of four cases `other`.
    fn rarely<T>(&mut self, other: impl FnOnce(&mut Self) -> T, usual: T) -> T {
        if self.rng.u8(0..4) == 0 { other(self) } else { usual }
    }

    fn range(&mut self) -> PbRangeRequest {
        let revision =
            |generator: &mut Self| generator.revision / 2 - 10 + generator.rng.i64(0..30);
        let filter = |generator: &mut Self| generator.rng.i64(-1..generator.revision + 1);
        PbRangeRequest {
            key: self.key(),
            range_end: self.end(),
            limit: self.rarely(|generator| generator.rng.i64(-1..4), 0),
            revision: self.rarely(revision, 0),
            sort_order: self.rarely(|generator| generator.rng.i32(0..3), 0),
            sort_target: self.rarely(|generator| generator.rng.i32(0..5), 0),
            serializable: self.rng.bool(),
            keys_only: self.rarely(|_| true, false),
            count_only: self.rarely(|_| true, false),
            min_mod_revision: self.rarely(filter, 0),
            max_mod_revision: self.rarely(filter, 0),
            min_create_revision: self.rarely(filter, 0),
            max_create_revision: self.rarely(filter, 0),
        }
    }

    fn put(&mut self) -> PbPutRequest {
        let value = self.rng.u8(b'0'..b'4');
        PbPutRequest {
            key: self.key(),
            value: self.rarely(|_| Vec::new(), vec![value]),
            lease: self.rarely(Self::lease, 0),
            prev_kv: self.rng.bool(),
            ignore_value: self.rarely(|_| true, false),
            ignore_lease: self.rarely(|_| true, false),
        }
    }

    fn delete(&mut self, may_be_unbounded: bool) -> PbDeleteRequest {
        let range_end = self.end();
        let range_end = if may_be_unbounded || range_end != b"\0" { range_end } else { Vec::new() };
        PbDeleteRequest { key: self.key(), range_end, prev_kv: self.rng.bool() }
    }

    fn compare(&mut self) -> PbCompare {
        let number = self.rng.i64(0..self.revision + 2);
        let operands = [
            PbTargetUnion::Version(self.rng.i64(-1..3)),
            PbTargetUnion::CreateRevision(number),
            PbTargetUnion::ModRevision(number),
            PbTargetUnion::Value(vec![self.rng.u8(b'0'..b'4')]),
            PbTargetUnion::Lease(self.lease()),
        ];
        let target = self.rng.i32(0..6);
        let fits = operands.get(usize::try_from(target).unwrap_or_default()).cloned();
        let any = self.rng.choice(operands);
        PbCompare {
            result: self.rng.i32(0..5),
            target,
            key: self.key(),
            range_end: self.end(),
            target_union: self.rarely(|_| any, fits),
        }
    }

    fn txn(&mut self, depth: u8) -> PbTxnRequest {
        let compares = self.rng.usize(0..3);
        PbTxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.steps(depth),
            failure: self.steps(depth),
        }
    }

    fn steps(&mut self, depth: u8) -> Vec<PbTxnRequestOp> {
        let steps = self.rng.usize(0..4);
        (0..steps).map(|_| PbTxnRequestOp { request: self.step(depth) }).collect()
    }

    fn step(&mut self, depth: u8) -> Option<PbTxnOpRequest> {
        Some(match self.rng.u8(0..32) {
            0 => return None,
            1..12 => PbTxnOpRequest::RequestPut(self.put()),
            12..20 => PbTxnOpRequest::RequestRange(self.range()),
            20..26 => PbTxnOpRequest::RequestDeleteRange(self.delete(false)),
            _ if depth == 0 => PbTxnOpRequest::RequestPut(self.put()),
            _ => PbTxnOpRequest::RequestTxn(self.txn(depth - 1)),
        })
    }
}
