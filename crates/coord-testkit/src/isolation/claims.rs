//! Which transaction wrote which revision.
//!
//! A committed attempt names the revision of its writes, and owns it if a write of the attempt is
//! in it. Two transactions claim one revision if one of them received a wrong revision, or if a
//! deletion without effect was recorded: a deletion of an absent key changes nothing, and its
//! response has the revision of the change before it. coord's own records do not have such
//! deletions; files of other programs may.
//!
//! ```text
//! revision 5   x is put
//! revision 6   T1 deletes x
//!              T2 deletes x: it is absent, so no revision; the store is at 6
//! ```
//!
//! The transaction that has read what the revision deleted, x@5, owns it, otherwise the transaction
//! that began first. The other transaction is placed like a read-only transaction that found x
//! absent.

use coord_core::kv::Revision;

use super::anomaly::AnomalyKind;
use super::log::{NONE, WriteRow, length, rows};
use super::resolved::{Finding, Node, ReadSet, Resolved};
use super::unknown::Match;
use super::versions::Versions;
use crate::history::AttemptEnd;

/// A claim of a revision by a node.
#[derive(Clone, Copy, Debug)]
struct Claim {
    revision: i64,
    began: u64,
    node: u32,
    /// Whether a put of the transaction is in the revision.
    has_put: bool,
    /// Whether a deletion of the transaction is in the revision.
    has_delete: bool,
}

/// Adds a node for each transaction that has committed, or whose unknown outcome is resolved by a
/// match with a revision.
pub(super) fn add_transactions(resolved: &mut Resolved, matches: &[Match]) {
    let begins = resolved.first_begins();
    let mut claims = Vec::new();
    let mut matches = matches.iter().peekable();
    let mut cursors = vec![0; resolved.log.keys.len()];
    for number in 0..length(&resolved.log.attempts) {
        let attempt = &resolved.log.attempts[number as usize];
        let matched = matches.next_if(|matched| matched.attempt == number);
        let (revision, ended) = match (attempt.end, matched) {
            (AttemptEnd::Committed { revision }, _) => (revision, attempt.ended),
            (_, Some(matched)) => (Revision(matched.revision), u64::MAX),
            _ => continue,
        };
        let began = match begins.get(&attempt.transaction) {
            Some(first) => attempt.began.min(*first),
            None => attempt.began,
        };
        let node = length(&resolved.nodes);
        let writes = attempt.writes.clone();
        let writes = &mut resolved.log.writes[writes.start as usize..writes.end as usize];
        let (has_put, has_delete) =
            link_writes(&resolved.versions, writes, revision.0, &mut cursors);
        let attempt = &resolved.log.attempts[number as usize];
        if !attempt.writes.is_empty() && !attempt.lacks_revision() {
            claims.push(Claim { revision: revision.0, began, node, has_put, has_delete });
        }
        let read_set = if matched.is_none_or(|matched| matched.is_certain) {
            let (reads, ranges) = (attempt.reads.clone(), attempt.ranges.clone());
            ReadSet { reads, ranges, no_op_deletes: 0..0 }
        } else {
            ReadSet::default()
        };
        resolved.nodes.push(Node {
            attempt: number,
            commit: 0,
            began,
            ended,
            process: attempt.process,
            isolation: Some(attempt.isolation),
            read_set,
            is_split: false,
        });
    }
    report_repeated_commits(resolved);
    claims.sort_unstable_by_key(|claim| (claim.revision, claim.began, claim.node));
    for claims in claims.chunk_by(|a, b| a.revision == b.revision) {
        assign(resolved, claims);
    }
}

/// Links writes to their versions in a revision. Returns whether it has puts of them, and whether
/// it has deletions.
fn link_writes(
    versions: &Versions,
    writes: &mut [WriteRow],
    revision: i64,
    cursors: &mut [u32],
) -> (bool, bool) {
    let mut has = (false, false);
    for write in writes {
        let found = versions.find_near(write.key, revision, &mut cursors[write.key as usize]);
        let Some(version) = found else { continue };
        let written = versions.get(version);
        if written.is_put == (write.value != 0) && written.value == write.value {
            write.version = version;
            has.0 |= written.is_put;
            has.1 |= !written.is_put;
        }
    }
    has
}

/// Assigns a revision to one of the transactions that claim it.
fn assign(resolved: &mut Resolved, claims: &[Claim]) {
    let has_read = |claim: &&Claim| claim.has_delete && has_read_what_is_deleted(resolved, claim);
    let owner = claims.iter().find(|claim| claim.has_put);
    let owner = owner.or_else(|| claims.iter().find(has_read));
    let owner = owner.or_else(|| claims.iter().find(|claim| claim.has_delete)).copied();
    for claim in claims {
        let is_owner = owner.is_some_and(|owner| owner.node == claim.node);
        if is_owner || claim.has_put {
            if !is_owner {
                let attempt = resolved.nodes[claim.node as usize].attempt;
                let key = resolved.log.writes[first_write(resolved, claim)].key;
                resolved.findings.push(Finding {
                    kind: AnomalyKind::DoubledWrite,
                    attempt,
                    key,
                    revision: claim.revision,
                    writer: owner.map_or(NONE, |owner| resolved.nodes[owner.node as usize].attempt),
                });
            }
            resolved.nodes[claim.node as usize].commit = claim.revision;
        }
        join_writes(resolved, claim, is_owner || claim.has_put);
    }
}

fn first_write(resolved: &Resolved, claim: &Claim) -> usize {
    let attempt = resolved.nodes[claim.node as usize].attempt;
    resolved.log.attempts[attempt as usize].writes.start as usize
}

/// Whether the transaction of a claim has read a key in the version that the revision deleted.
fn has_read_what_is_deleted(resolved: &Resolved, claim: &Claim) -> bool {
    let node = &resolved.nodes[claim.node as usize];
    let writes = resolved.attempt(node).map(|attempt| attempt.writes.clone()).unwrap_or_default();
    let writes = rows(&resolved.log.writes, &writes);
    let is_deleted = |key| writes.iter().any(|write| write.key == key);
    let change = resolved.change(claim.revision);
    change.iter().all(|write| is_deleted(write.key))
        && rows(&resolved.log.reads, &node.read_set.reads).iter().any(|read| {
            read.version != NONE
                && resolved.versions.valid_until(read.version) == claim.revision - 1
                && is_deleted(read.key)
        })
}

/// Joins the writes of a transaction to the versions of its revision. A write that is not there is
/// lost, except for the deletion of an absent key.
fn join_writes(resolved: &mut Resolved, claim: &Claim, is_owner: bool) {
    let attempt = resolved.nodes[claim.node as usize].attempt;
    let writes = resolved.log.attempts[attempt as usize].writes.clone();
    let first_no_op = length(&resolved.no_op_deletes);
    for i in writes.start..writes.end {
        let write = resolved.log.writes[i as usize];
        let exists_after = || {
            let version = resolved.versions.at(write.key, claim.revision);
            version.is_some_and(|version| resolved.versions.get(version).is_put)
        };
        if is_owner && write.version != NONE {
            resolved.versions.all[write.version as usize].writer = claim.node;
        } else if write.value == 0 && !exists_after() {
            resolved.no_op_deletes.push(write.key);
        } else {
            resolved.findings.push(Finding {
                kind: AnomalyKind::LostWrite,
                attempt,
                key: write.key,
                revision: claim.revision,
                writer: NONE,
            });
        }
    }
    let no_ops = first_no_op..length(&resolved.no_op_deletes);
    resolved.nodes[claim.node as usize].read_set.no_op_deletes = no_ops;
}

/// Reports transactions that have committed more than once.
fn report_repeated_commits(resolved: &mut Resolved) {
    let transaction = |node: &Node| resolved.log.attempts[node.attempt as usize].transaction;
    let mut sorted: Vec<(u64, u32)> =
        resolved.nodes.iter().map(|node| (transaction(node), node.attempt)).collect();
    sorted.sort_unstable();
    let repeated = sorted.windows(2).filter(|pair| pair[0].0 == pair[1].0);
    for pair in repeated {
        let (first, second) = (pair[0].1, pair[1].1);
        let attempt = &resolved.log.attempts[second as usize];
        let key =
            rows(&resolved.log.writes, &attempt.writes).first().map_or(NONE, |write| write.key);
        let AttemptEnd::Committed { revision } = attempt.end else { continue };
        resolved.findings.push(Finding {
            kind: AnomalyKind::DoubledWrite,
            attempt: second,
            key,
            revision: revision.0,
            writer: first,
        });
    }
}
