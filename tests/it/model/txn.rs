//! Transactions: decide everything on the keys as they are, then change a copy.

use coord_core::{
    error::ErrorKind,
    kv::{
        Compare, CompareOp, CompareOperand, Header, KeyValue, LeaseId, Op, OpResponse, Range,
        RangeResponse, Revision, Txn, TxnResponse,
    },
};

use super::range::number;
use super::rules;
use super::state::{Answer, Changes, Model};

impl Model {
    pub(super) fn txn(&mut self, txn: &Txn) -> Answer<TxnResponse> {
        rules::check_txn(txn, &self.limits)?;
        let taken = self.taken(txn);
        // As etcd 3.5: first all puts, then all ranges.
        for op in &taken {
            if let Op::Put(put) = op {
                if (put.ignore_value || put.ignore_lease) && !self.current().contains_key(&put.key)
                {
                    return Err(ErrorKind::KeyNotFound);
                }
                self.check_lease(put)?;
            }
        }
        for op in &taken {
            if let Op::Range(range) = op {
                self.check_revision_within(range)?;
            }
        }
        let mut changes = self.begin();
        // §4, "Fuzzer must avoid" (i): what still fails now would panic in etcd.
        let response = self.run(txn, &mut changes).map_err(|_| ErrorKind::Refused)?;
        self.commit(changes);
        Ok(TxnResponse { header: self.header(), ..response })
    }

    /// The branch that the compares choose. They never see what the transaction does.
    fn branch<'a>(&self, txn: &'a Txn) -> (bool, &'a [Op]) {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        (succeeded, if succeeded { &txn.success } else { &txn.failure })
    }

    /// All steps that will be taken, in order, without the nesting.
    fn taken<'a>(&self, txn: &'a Txn) -> Vec<&'a Op> {
        let mut taken = Vec::new();
        for op in self.branch(txn).1 {
            match op {
                Op::Txn(nested) => taken.extend(self.taken(nested)),
                other => taken.push(other),
            }
        }
        taken
    }

    fn run(&self, txn: &Txn, changes: &mut Changes) -> Answer<TxnResponse> {
        let (succeeded, branch) = self.branch(txn);
        let mut responses = Vec::new();
        for op in branch {
            responses.push(match op {
                Op::Range(range) => OpResponse::Range(self.read_within(range, changes)),
                Op::Put(put) => OpResponse::Put(changes.put(put)?),
                Op::Delete(delete) => OpResponse::Delete(changes.delete(delete)),
                Op::Txn(nested) => OpResponse::Txn(self.run(nested, changes)?),
            });
        }
        Ok(TxnResponse { header: Header::default(), succeeded, responses })
    }

    fn read_within(&self, range: &Range, changes: &Changes) -> RangeResponse {
        self.read(range, &changes.state, changes.header())
    }

    /// Within a transaction a negative revision is not "now", but long ago.
    fn check_revision_within(&self, range: &Range) -> Answer<()> {
        let revision = number(range.revision);
        if revision > self.revision() {
            return Err(ErrorKind::FutureRevision);
        }
        if revision != Revision::ZERO && revision.0 < self.compacted {
            return Err(ErrorKind::Compacted);
        }
        Ok(())
    }

    fn holds(&self, compare: &Compare) -> bool {
        let kvs = rules::keys_in(self.current(), &compare.keys);
        if kvs.is_empty() {
            return holds_for(compare, None);
        }
        kvs.iter().all(|kv| holds_for(compare, Some(kv)))
    }
}

fn holds_for(compare: &Compare, kv: Option<&KeyValue>) -> bool {
    let absent = KeyValue::default();
    let there = kv.unwrap_or(&absent);
    let number = |lease: Option<LeaseId>| lease.map_or(0, LeaseId::get);
    match &compare.operand {
        CompareOperand::Value(value) => kv.is_some_and(|kv| judge(compare.op, &kv.value, value)),
        CompareOperand::Version(version) => judge(compare.op, &there.version, version),
        CompareOperand::CreateRevision(at) => judge(compare.op, &there.create_revision, at),
        CompareOperand::ModRevision(at) => judge(compare.op, &there.mod_revision, at),
        CompareOperand::Lease(id) => judge(compare.op, &number(there.lease), &number(*id)),
    }
}

fn judge<T: PartialOrd>(op: CompareOp, found: &T, operand: &T) -> bool {
    match op {
        CompareOp::Equal => found == operand,
        CompareOp::Greater => found > operand,
        CompareOp::Less => found < operand,
        CompareOp::NotEqual => found != operand,
    }
}
