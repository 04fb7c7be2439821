//! Histories that do not fit the store's version order, commits with unknown outcome, and coverage.

use coord_core::kv::Revision;

use super::{
    Level, Status, Values, assert_all_hold, changed, summary, transaction, verdict, verdict_with,
};
use crate::history::{AttemptEnd, Event};

fn unique(events: impl IntoIterator<Item = Event>) -> super::Verdict {
    verdict_with(events.into_iter().collect(), Values::Unique)
}

#[test]
fn read_of_a_version_that_never_was_is_garbage() {
    let verdict = verdict([
        changed(1, &["x"]),
        changed(5, &["x"]),
        transaction(1).read("x", 3).commit(5).into(),
    ]);
    assert_eq!(summary(&verdict), "read committed: garbage read");
    assert!(verdict.to_string().contains("  T1: x@3\n"), "{verdict}");
}

#[test]
fn read_of_another_value_is_garbage() {
    let mut event: Event = transaction(1).read("x", 1).commit(1).into();
    if let crate::history::EventKind::Attempt(attempt) = &mut event.kind {
        attempt.reads[0].found = Some((coord_core::kv::Revision(1), "other".into()));
    }
    let verdict = verdict([changed(1, &["x"]), event]);
    assert_eq!(summary(&verdict), "read committed: garbage read");
}

#[test]
fn committed_write_that_the_store_lacks_is_lost() {
    let verdict = verdict([
        changed(1, &["x"]),
        changed(2, &["x"]),
        transaction(1).put("x", 2).put("y", 2).commit(2).into(),
    ]);
    assert_eq!(summary(&verdict), "read uncommitted: lost write");
}

#[test]
fn deletion_of_a_key_that_stays_is_lost() {
    let verdict = verdict([
        changed(1, &["x"]),
        changed(2, &["y"]),
        transaction(1).delete("x").commit(2).into(),
    ]);
    assert_eq!(summary(&verdict), "read uncommitted: lost write");
}

#[test]
fn retried_commit_that_was_applied_twice_is_doubled() {
    let mut second = changed(2, &["x"]);
    if let crate::history::EventKind::Changed(change) = &mut second.kind {
        change.writes[0].value = Some("x1".into());
    }
    let events = [changed(1, &["x"]), second, transaction(1).put("x", 1).commit(1).into()];
    assert_eq!(summary(&unique(events.clone())), "read uncommitted: doubled write");
    // Another client may have put the same value.
    assert_all_hold(&verdict(events));
}

#[test]
fn read_between_doubled_writes_is_intermediate() {
    let mut second = changed(2, &["x"]);
    if let crate::history::EventKind::Changed(change) = &mut second.kind {
        change.writes[0].value = Some("x1".into());
    }
    let verdict = unique([
        changed(1, &["x"]),
        second,
        transaction(1).put("x", 1).commit(1).into(),
        transaction(2).read("x", 1).commit(1).into(),
    ]);
    let names = "read uncommitted: doubled write; intermediate read (G1b); \
                 read skew (G-single-item)";
    assert_eq!(summary(&verdict), names);
}

#[test]
fn interleaved_split_commits_are_g0() {
    let put = |revision, key: &'static str, value: &'static str| {
        let mut event = changed(revision, &[key]);
        if let crate::history::EventKind::Changed(change) = &mut event.kind {
            change.writes[0].value = Some(value.into());
        }
        event
    };
    // T1 commits at 2 and 5, T2 at 3 and 4: T2 overwrites x of T1, and T1 overwrites y of T2.
    let verdict = unique([
        put(2, "x", "x2"),
        put(3, "x", "x4"),
        put(4, "y", "y4"),
        put(5, "y", "y2"),
        transaction(1).put("x", 2).put("y", 2).commit(2).into(),
        transaction(2).put("x", 4).put("y", 4).commit(4).into(),
    ]);
    assert_eq!(summary(&verdict), "read uncommitted: G0; split commit");
}

#[test]
fn write_of_an_aborted_attempt_is_found_if_values_are_unique() {
    let events = [
        changed(1, &["x"]),
        transaction(1).put("x", 1).end(AttemptEnd::Aborted).into(),
        transaction(2).read("x", 1).commit(1).into(),
    ];
    let names = "read committed: aborted read (G1a); aborted write";
    assert_eq!(summary(&unique(events.clone())), names);
    assert_all_hold(&verdict(events));
}

#[test]
fn unknown_commit_is_matched_by_its_writes() {
    let events = [
        changed(1, &["x", "y"]),
        changed(2, &["x"]),
        changed(3, &["-y"]),
        transaction(1).read("x", 1).put("x", 2).end(AttemptEnd::Unknown).into(),
        transaction(2).delete("y").end(AttemptEnd::Unknown).into(),
        transaction(3).put("z", 9).end(AttemptEnd::Unknown).into(),
        transaction(4).span(101, 102).read("x", 2).read("z", 0).read("y", 0).commit(3).into(),
    ];
    for verdict in [verdict(events.clone()), unique(events)] {
        assert_all_hold(&verdict);
        let coverage = verdict.coverage();
        assert_eq!((coverage.matched_unknown, coverage.unmatched_unknown), (2, 1));
        assert_eq!(coverage.transactions, 3);
    }
}

#[test]
fn unknown_commit_with_two_candidates_stays_unmatched() {
    let put = |number| transaction(number).put("x", 2).end(AttemptEnd::Unknown).into();
    let verdict = verdict([
        changed(1, &["x"]),
        changed(2, &["x"]),
        put(1),
        put(2),
        transaction(3).read("x", 2).commit(2).into(),
    ]);
    assert_eq!(verdict.coverage().unmatched_unknown, 2);
    assert_all_hold(&verdict);
}

/// A deletion of an absent key changes nothing. With an unknown outcome it was taken for an earlier
/// deletion of that key by a client that is not recorded, so a later transaction seemed to come
/// before one that had ended.
#[test]
fn unknown_deletion_is_not_matched_before_it_began() {
    let verdict = verdict([
        changed(1, &["w", "x"]),
        changed(2, &["-x"]),
        changed(3, &["y"]),
        transaction(1).span(0, 10).read("w", 1).read("x", 0).put("y", 3).commit(3).into(),
        transaction(2).span(20, 30).delete("x").end(AttemptEnd::Unknown).into(),
    ]);
    assert_all_hold(&verdict);
    let coverage = verdict.coverage();
    assert_eq!((coverage.matched_unknown, coverage.unmatched_unknown), (0, 1));
}

/// Regression: a commit of unknown outcome that deletes two keys was matched with the deletion of
/// one of them by a client that is not recorded, although the other key existed.
#[test]
fn unknown_deletion_needs_the_deletion_of_each_existing_key() {
    for (unknown_keys, matched) in [(["x", "z"], 0), (["x", "y"], 1)] {
        let [first, second] = unknown_keys;
        let verdict = verdict([
            changed(1, &["x"]),
            changed(2, &["z"]),
            changed(3, &["-x"]),
            transaction(1).delete(first).delete(second).end(AttemptEnd::Unknown).into(),
            transaction(2).span(101, 102).read("z", 2).read("x", 0).commit(3).into(),
        ]);
        assert_all_hold(&verdict);
        assert_eq!(verdict.coverage().matched_unknown, matched);
    }
}

#[test]
fn unknown_commit_is_matched_by_a_read_without_changes() {
    let verdict = unique([
        transaction(1).put("x", 2).put("y", 2).end(AttemptEnd::Unknown).into(),
        transaction(2).read("x", 2).read("y", 1).commit(2).into(),
    ]);
    let names = "repeatable read, snapshot isolation: read skew (G-single-item)";
    assert_eq!(summary(&verdict), names);
}

#[test]
fn two_deletions_of_one_revision_have_one_owner() {
    for (first, second) in [(1, 0), (0, 1)] {
        let verdict = verdict([
            transaction(1).put("x", 1).commit(1).into(),
            transaction(2).read("x", first).delete("x").commit(2).into(),
            transaction(3).read("x", second).delete("x").commit(2).into(),
        ]);
        assert_all_hold(&verdict);
    }
}

#[test]
fn absent_read_of_a_key_with_other_writers_is_unresolved() {
    let verdict = verdict([
        transaction(1).put("y", 2).commit(2).into(),
        transaction(2).read("x", 3).read("y", 2).commit(3).into(),
        transaction(3).read("x", 0).read("y", 2).commit(9).into(),
    ]);
    assert_all_hold(&verdict);
    assert_eq!((verdict.coverage().reads, verdict.coverage().resolved_reads), (4, 2));
}

#[test]
fn history_without_resolved_reads_is_unknown() {
    let verdict = verdict([
        transaction(1).put("y", 2).commit(2).into(),
        transaction(2).read("x", 3).commit(3).into(),
    ]);
    assert!(verdict.levels().all(|(_, status)| status == Status::Unknown), "{verdict}");
    assert_eq!(verdict.declared(), Status::Unknown);
}

#[test]
fn empty_history_is_unknown() {
    let verdict = verdict([]);
    assert_eq!(verdict.status(Level::ReadUncommitted), Status::Unknown);
}

#[test]
fn verdict_text_has_levels_anomalies_and_coverage() {
    let verdict = verdict([
        transaction(1).read("x", 1).read("y", 1).put("x", 2).commit(2).into(),
        transaction(2).read("x", 1).read("y", 1).put("y", 3).commit(3).into(),
    ]);
    let text = "\
not: repeatable read
also not: serializable, strict serializable, coord repeatable-reads,
  coord serializable, coord serializable-snapshot
still holds: read uncommitted, read committed, snapshot isolation,
  coord read-committed
level of each transaction: broken
write skew (G2-item)
  T2 -> T1  rw x: read @1, then written @2
  T1 -> T2  rw y: read @1, then written @3
checked 2 transactions, 2 attempts
  4 of 4 reads resolved (100 %)
  1 transaction without a place
  4 edges searched
  1 change by other clients
";
    assert_eq!(verdict.to_string(), text);
}

/// A version of which only the value was known counted as an absent key, and a transaction without
/// a revision as read-only: the stale read of T3 was no anomaly, and all levels held.
#[test]
fn history_without_revisions_is_unknown() {
    let mut read = transaction(3).span(30, 40).read("x", 1);
    read.attempt.reads[0].found = Some((Revision::ZERO, "x1".into()));
    let history: Vec<Event> = vec![
        transaction(1).span(0, 10).put("x", 1).into(),
        transaction(2).span(15, 20).put("x", 2).into(),
        read.into(),
    ];
    let verdict = verdict(history);
    assert_eq!((verdict.coverage().without_revision, verdict.coverage().resolved_reads), (2, 0));
    for (level, status) in verdict.levels() {
        assert_eq!(status, Status::Unknown, "{level}:\n{verdict}");
    }
    assert!(verdict.to_string().contains("  2 transactions without a revision\n"), "{verdict}");
}
