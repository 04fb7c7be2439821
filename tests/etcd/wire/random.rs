//! Requests drawn at random, sense and nonsense.
//!
//! Seeds are new every time, and in the name of each line, so that a failure shows its own. What
//! makes a real etcd crash is not drawn: sorts that it does not know, and a transaction that puts
//! what it deletes without end.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use etcd_client::proto::{
    PbCompare, PbDeleteRequest, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbPutRequest,
    PbRangeRequest, PbTargetUnion, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp,
};
use fastrand::Rng;

use crate::play::Play;

/// The same for both plays of a scene.
static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));

const STEPS: usize = 1_500;

pub(crate) async fn requests(play: &mut Play) {
    let seed = *SEED;
    let mut dice = Dice { rng: Rng::with_seed(seed), revision: 1 };
    for step in 0..STEPS {
        let what = format!("seed {seed}, step {step}");
        match dice.rng.u8(0..20) {
            0..6 => play.range(&what, dice.range()).await,
            6..10 => play.put(&what, dice.put()).await,
            10..12 => play.delete(&what, dice.delete(true)).await,
            12..17 => play.txn(&what, dice.txn(2)).await,
            17 => {
                // Long enough not to end under way.
                let ttl = dice.rng.i64(1..4) * 100;
                // What the server chooses is different each time.
                let id = dice.rng.i64(1..4);
                play.grant(&what, id, ttl).await;
            }
            18 => {
                let (id, path) = (dice.lease(), "/etcdserverpb.Lease/LeaseRevoke");
                let request = PbLeaseRevokeRequest { id };
                play.call::<_, PbLeaseRevokeResponse>(&what, path, request).await;
            }
            _ => {
                let revision = dice.revision - 20 + dice.rng.i64(0..22);
                play.compact(&what, revision, true).await;
            }
        }
        dice.revision += 1;
    }
}

struct Dice {
    rng: Rng,
    /// About where the store is by now.
    revision: i64,
}

impl Dice {
    fn key(&mut self) -> Vec<u8> {
        let keys: [&[u8]; 8] = [b"", b"\0", b"a", b"b", b"c", b"d", b"ab", b"e"];
        self.rng.choice(keys).expect("there are keys").to_vec()
    }

    /// Most ranges are a key.
    fn end(&mut self) -> Vec<u8> {
        if self.rng.bool() { Vec::new() } else { self.key() }
    }

    fn lease(&mut self) -> i64 {
        self.rng.i64(-1..4)
    }

    /// Seldom what it should be: mostly none.
    fn seldom<T>(&mut self, other: impl FnOnce(&mut Self) -> T, usual: T) -> T {
        if self.rng.u8(0..4) == 0 { other(self) } else { usual }
    }

    fn range(&mut self) -> PbRangeRequest {
        let revision = |dice: &mut Self| dice.revision / 2 - 10 + dice.rng.i64(0..30);
        let filter = |dice: &mut Self| dice.rng.i64(-1..dice.revision + 1);
        PbRangeRequest {
            key: self.key(),
            range_end: self.end(),
            limit: self.seldom(|dice| dice.rng.i64(-1..4), 0),
            revision: self.seldom(revision, 0),
            sort_order: self.seldom(|dice| dice.rng.i32(0..3), 0),
            sort_target: self.seldom(|dice| dice.rng.i32(0..5), 0),
            serializable: self.rng.bool(),
            keys_only: self.seldom(|_| true, false),
            count_only: self.seldom(|_| true, false),
            min_mod_revision: self.seldom(filter, 0),
            max_mod_revision: self.seldom(filter, 0),
            min_create_revision: self.seldom(filter, 0),
            max_create_revision: self.seldom(filter, 0),
        }
    }

    fn put(&mut self) -> PbPutRequest {
        let value = self.rng.u8(b'0'..b'4');
        PbPutRequest {
            key: self.key(),
            value: self.seldom(|_| Vec::new(), vec![value]),
            lease: self.seldom(Self::lease, 0),
            prev_kv: self.rng.bool(),
            ignore_value: self.seldom(|_| true, false),
            ignore_lease: self.seldom(|_| true, false),
        }
    }

    fn delete(&mut self, may_be_endless: bool) -> PbDeleteRequest {
        let range_end = self.end();
        let range_end = if may_be_endless || range_end != b"\0" { range_end } else { Vec::new() };
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
            target_union: self.seldom(|_| any, fits),
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
