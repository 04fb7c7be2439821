//! Transactions of the model: evaluate all compares on the current keys, then change a copy.

use coord_core::{
    error::ErrorKind,
    kv::{
        Compare, CompareOp, CompareOperand, Header, KeyValue, LeaseId, Op, OpResponse, Range,
        RangeResponse, Revision, Txn, TxnResponse,
    },
};

use super::range::or_zero;
use super::rules;
use super::state::{Changes, Model, ModelResult};

impl Model {
    pub(super) fn txn(&mut self, txn: &Txn) -> ModelResult<TxnResponse> {
        rules::check_txn(txn, &self.limits)?;
        let executed = self.executed(txn);
        // The order of etcd 3.5: first all puts, then all ranges.
        for op in &executed {
            if let Op::Put(put) = op {
                if (put.ignore_value || put.ignore_lease) && !self.current().contains_key(&put.key)
                {
                    return Err(ErrorKind::KeyNotFound);
                }
                self.check_lease(put)?;
            }
        }
        for op in &executed {
            if let Op::Range(range) = op {
                self.check_revision_in_txn(range)?;
            }
        }
        let mut changes = self.begin();
        // §4, "Requests that damage a real server", first row: a put that still fails would crash
        // etcd.
        let response = self.run(txn, &mut changes).map_err(|_| ErrorKind::Refused)?;
        self.commit(changes);
        Ok(TxnResponse { header: self.header(), ..response })
    }

    /// The branch that the compares choose. They are evaluated on the state before the transaction.
    fn branch<'a>(&self, txn: &'a Txn) -> (bool, &'a [Op]) {
        let succeeded = txn.compares.iter().all(|compare| self.evaluate(compare));
        (succeeded, if succeeded { &txn.success } else { &txn.failure })
    }

    /// All operations that will be executed, in order, including the operations of nested
    /// transactions.
    fn executed<'a>(&self, txn: &'a Txn) -> Vec<&'a Op> {
        let mut executed = Vec::new();
        for op in self.branch(txn).1 {
            match op {
                Op::Txn(nested) => executed.extend(self.executed(nested)),
                other => executed.push(other),
            }
        }
        executed
    }

    fn run(&self, txn: &Txn, changes: &mut Changes) -> ModelResult<TxnResponse> {
        let (succeeded, branch) = self.branch(txn);
        let mut responses = Vec::new();
        for op in branch {
            responses.push(match op {
                Op::Range(range) => OpResponse::Range(self.read_in_txn(range, changes)),
                Op::Put(put) => OpResponse::Put(changes.put(put)?),
                Op::Delete(delete) => OpResponse::Delete(changes.delete(delete)),
                Op::Txn(nested) => OpResponse::Txn(self.run(nested, changes)?),
            });
        }
        Ok(TxnResponse { header: Header::default(), succeeded, responses })
    }

    fn read_in_txn(&self, range: &Range, changes: &Changes) -> RangeResponse {
        self.read(range, &changes.state, changes.header())
    }

    /// In a transaction a negative revision is taken literally: -1 is readable until the first
    /// compaction, and any other is compacted.
    fn check_revision_in_txn(&self, range: &Range) -> ModelResult<()> {
        let revision = or_zero(range.revision);
        if revision > self.revision() {
            return Err(ErrorKind::FutureRevision);
        }
        if revision != Revision::ZERO && revision.0 < self.compacted {
            return Err(ErrorKind::Compacted);
        }
        Ok(())
    }

    fn evaluate(&self, compare: &Compare) -> bool {
        let kvs = rules::keys_in(self.current(), &compare.keys);
        if kvs.is_empty() {
            return evaluate_on(compare, None);
        }
        kvs.iter().all(|kv| evaluate_on(compare, Some(kv)))
    }
}

/// Evaluates a compare on one key, or on an absent key.
fn evaluate_on(compare: &Compare, kv: Option<&KeyValue>) -> bool {
    let absent = KeyValue::default();
    let found = kv.unwrap_or(&absent);
    let number = |lease: Option<LeaseId>| lease.map_or(0, LeaseId::get);
    match &compare.operand {
        CompareOperand::Value(value) => {
            kv.is_some_and(|kv| evaluate_op(compare.op, &kv.value, value))
        }
        CompareOperand::Version(version) => evaluate_op(compare.op, &found.version, version),
        CompareOperand::CreateRevision(at) => evaluate_op(compare.op, &found.create_revision, at),
        CompareOperand::ModRevision(at) => evaluate_op(compare.op, &found.mod_revision, at),
        CompareOperand::Lease(id) => evaluate_op(compare.op, &number(found.lease), &number(*id)),
    }
}

fn evaluate_op<T: PartialOrd>(op: CompareOp, found: &T, operand: &T) -> bool {
    match op {
        CompareOp::Equal => found == operand,
        CompareOp::Greater => found > operand,
        CompareOp::Less => found < operand,
        CompareOp::NotEqual => found != operand,
    }
}
