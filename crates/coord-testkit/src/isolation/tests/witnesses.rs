//! Histories with known anomalies: the name of each, and the levels that it refutes.
//!
//! Source: `docs/guide/isolation.md` for coord's levels; Adya, *Weak Consistency* (1999), for the
//! others.

use coord_core::stm::Isolation;

use super::{Level, Status, assert_all_hold, changed, is_refuted, summary, transaction, verdict};
use crate::history::AttemptEnd;

#[test]
fn serial_history_refutes_nothing() {
    let verdict = verdict([
        transaction(1).span(0, 1).put("x", 2).commit(2).into(),
        transaction(2).span(2, 3).read("x", 2).put("y", 3).commit(3).into(),
        transaction(3).span(4, 5).read("x", 2).read("y", 3).commit(3).into(),
    ]);
    assert_all_hold(&verdict);
    assert_eq!(verdict.coverage().resolved_reads, 3);
}

#[test]
fn lost_update_is_g_single_of_one_key() {
    let verdict = verdict([
        transaction(1).put("x", 1).commit(1).span(0, 1).into(),
        transaction(2).span(2, 9).read("x", 1).put("x", 2).commit(2).into(),
        transaction(3).span(2, 9).read("x", 1).put("x", 3).commit(3).into(),
    ]);
    assert_eq!(
        summary(&verdict),
        "repeatable read, snapshot isolation: lost update (G-single-item)"
    );
    assert_eq!(verdict.status(Level::ReadCommitted), Status::Holds);
}

#[test]
fn write_skew_leaves_snapshot_isolation() {
    let verdict = verdict([
        transaction(1).read("x", 1).read("y", 1).put("x", 2).commit(2).into(),
        transaction(2).read("x", 1).read("y", 1).put("y", 3).commit(3).into(),
    ]);
    assert_eq!(summary(&verdict), "repeatable read: write skew (G2-item)");
    assert_eq!(verdict.status(Level::SnapshotIsolation), Status::Holds);
    assert_eq!(verdict.declared(), Status::Not);
}

#[test]
fn read_skew_is_found_in_a_read_only_transaction() {
    let verdict = verdict([
        transaction(1).read("x", 1).read("y", 2).commit(2).into(),
        transaction(2).put("x", 2).put("y", 2).commit(2).into(),
    ]);
    assert_eq!(summary(&verdict), "repeatable read, snapshot isolation: read skew (G-single-item)");
}

#[test]
fn read_skew_from_another_client_is_found() {
    let verdict = verdict([
        changed(1, &["x", "y"]),
        changed(2, &["x", "y"]),
        transaction(1).read("x", 1).read("y", 2).commit(2).into(),
    ]);
    assert_eq!(summary(&verdict), "repeatable read, snapshot isolation: read skew (G-single-item)");
    assert!(verdict.to_string().contains("T1 -> change 2  rw x: read @1, then written @2"));
}

#[test]
fn long_fork_has_two_readers_that_disagree() {
    let verdict = verdict([
        transaction(1).put("x", 2).commit(2).into(),
        transaction(2).put("y", 3).commit(3).into(),
        transaction(3).read("x", 2).read("y", 1).commit(2).into(),
        transaction(4).read("x", 1).read("y", 3).commit(3).into(),
    ]);
    assert_eq!(
        summary(&verdict),
        "repeatable read, snapshot isolation: long fork (G-nonadjacent-item)"
    );
}

#[test]
fn phantom_refutes_serializable_only() {
    let verdict = verdict([
        changed(1, &["p/a"]),
        changed(2, &["p/b"]),
        changed(3, &["q"]),
        transaction(1).range("p/", &[("p/a", 1)]).read("q", 0).put("p/b", 2).commit(2).into(),
        transaction(2).range("p/", &[("p/a", 1)]).put("q", 3).commit(3).into(),
    ]);
    assert_eq!(summary(&verdict), "serializable: phantom (G2)");
    assert_eq!(verdict.status(Level::RepeatableRead), Status::Holds);
    assert_eq!(verdict.status(Level::CoordRepeatableReads), Status::Holds);
}

#[test]
fn phantom_by_delete_is_an_item_of_the_range() {
    let verdict = verdict([
        changed(1, &["p/a"]),
        changed(2, &["-p/a"]),
        changed(3, &["q"]),
        transaction(1).range("p/", &[("p/a", 1)]).read("q", 0).delete("p/a").commit(2).into(),
        transaction(2).range("p/", &[("p/a", 1)]).put("q", 3).commit(3).into(),
    ]);
    assert_eq!(summary(&verdict), "repeatable read: write skew (G2-item)");
}

#[test]
fn stale_read_only_transaction_refutes_strict_only() {
    let events = [
        transaction(1).span(0, 1).put("x", 1).commit(1).into(),
        transaction(2).span(2, 3).put("x", 2).commit(2).into(),
        transaction(3).isolation(Isolation::RepeatableReads).span(4, 5).read("x", 1).into(),
    ];
    let verdict = verdict(events);
    let name = "strict serializable: stale read-only transaction (G-single-item-realtime)";
    assert_eq!(summary(&verdict), name);
    assert_eq!(verdict.status(Level::CoordRepeatableReads), Status::Holds);
    assert_eq!(verdict.declared(), Status::Holds);
}

#[test]
fn stale_read_in_one_process_has_the_process_suffix() {
    let verdict = verdict([
        transaction(1).process("a").span(0, 1).put("x", 1).commit(1).into(),
        transaction(2).process("a").span(2, 3).put("x", 2).commit(2).into(),
        transaction(3).process("a").span(4, 5).read("x", 1).into(),
    ]);
    let names = "strict serializable: stale read-only transaction (G-single-item-process)";
    assert_eq!(summary(&verdict), names);
}

#[test]
fn stale_writer_refutes_coord_repeatable_reads() {
    let verdict = verdict([
        transaction(1).span(0, 1).put("x", 1).commit(1).into(),
        transaction(2).span(2, 3).put("x", 2).commit(2).into(),
        transaction(3).span(4, 5).read("x", 1).put("y", 3).commit(3).into(),
    ]);
    let name = "strict serializable, coord repeatable-reads: stale read (G-single-item-realtime)";
    assert_eq!(summary(&verdict), name);
    assert_eq!(verdict.status(Level::Serializable), Status::Holds);
}

/// A read-only transaction shows that a write in flight is visible: the next one must see it.
#[test]
fn observation_of_a_write_in_flight_counts_in_real_time() {
    let verdict = verdict([
        transaction(2).span(1, 2).read("x", 2).commit(2).into(),
        transaction(3).span(3, 4).read("x", 1).commit(1).into(),
        transaction(1).span(0, 9).put("x", 2).commit(2).into(),
        transaction(4).span(0, 9).read("x", 1).into(),
    ]);
    assert!(is_refuted(&verdict, Level::StrictSerializable), "{verdict}");
    assert_eq!(verdict.status(Level::Serializable), Status::Holds);
}

#[test]
fn transactions_at_equal_times_are_concurrent() {
    let verdict = verdict([
        transaction(1).span(5, 5).put("x", 1).commit(1).into(),
        transaction(2).span(5, 5).put("x", 2).commit(2).into(),
        transaction(3).span(5, 5).read("x", 1).into(),
    ]);
    assert_all_hold(&verdict);
}

#[test]
fn circular_information_flow_is_g1c() {
    let verdict = verdict([
        transaction(1).put("x", 2).read("y", 3).commit(2).into(),
        transaction(2).put("y", 3).read("x", 2).commit(3).into(),
    ]);
    assert_eq!(summary(&verdict), "read committed: G1c");
    assert_eq!(verdict.status(Level::ReadUncommitted), Status::Holds);
}

/// The trap of absent keys: every deletion leaves a key without a revision, so a read that found no
/// key does not show which deletion it saw. Resolving it to the first gap reports a cycle here.
#[test]
fn absent_read_is_satisfied_by_every_gap() {
    let verdict = verdict([
        transaction(1).put("x", 2).commit(2).into(),
        transaction(2).read("x", 2).delete("x").commit(3).into(),
        transaction(3).read("x", 0).put("x", 4).commit(4).into(),
    ]);
    assert_all_hold(&verdict);
}

/// The gap that is nearest to the revision of T3 starts at 3, and T2 put w there, which T3 has not
/// seen. In the gap before revision 2 there is no cycle.
#[test]
fn absent_read_in_a_cycle_is_tried_in_every_gap() {
    let verdict = verdict([
        transaction(1).put("x", 2).commit(2).into(),
        transaction(2).delete("x").put("w", 3).commit(3).into(),
        transaction(4).put("x", 4).commit(4).into(),
        transaction(3).read("x", 0).read("w", 1).put("z", 5).commit(5).into(),
    ]);
    assert_all_hold(&verdict);
    assert_eq!(verdict.coverage().unplaced, 1);
}

/// T2 has read the future, and T3 found no c. With c absent after the deletion by T2, T3 reads what
/// T2 wrote: G1c. With c absent before the put by T1, there is a cycle of another kind. Each gap
/// has a cycle, but read committed permits one of them. The G1c was counted as if it did not.
#[test]
fn cycle_of_one_gap_refutes_nothing_by_its_kind() {
    let verdict = verdict([
        transaction(1).put("b", 1).put("c", 1).commit(1).into(),
        transaction(2).read("b", 3).delete("c").commit(2).into(),
        transaction(3).read("c", 0).put("b", 3).commit(3).into(),
    ]);
    assert_eq!(verdict.status(Level::ReadCommitted), Status::Holds, "{verdict}");
    assert!(is_refuted(&verdict, Level::Serializable), "{verdict}");
}

/// Before the put at 1 there is a cycle of data. After the deletion at 3 there is one with real
/// time: the deletion began after T2 ended. Only together they refute a level.
#[test]
fn absent_read_with_a_cycle_in_each_gap_has_an_example() {
    let verdict = verdict([
        transaction(2).span(2, 2).read("a", 0).read("c", 0).put("c", 2).commit(2).into(),
        transaction(1).span(0, 5).put("a", 1).delete("c").commit(1).into(),
        transaction(3).span(4, 5).delete("a").put("b", 3).commit(3).into(),
    ]);
    assert_eq!(summary(&verdict), "strict serializable, coord repeatable-reads: G1c-realtime");
    assert_eq!(verdict.status(Level::Serializable), Status::Holds);
}

/// T5 has read y@4, which was put together with x.
#[test]
fn absent_read_without_a_possible_gap_is_read_skew() {
    let verdict = verdict([
        transaction(1).put("x", 2).put("y", 2).commit(2).into(),
        transaction(2).delete("x").commit(3).into(),
        transaction(4).put("y", 4).put("x", 4).commit(4).into(),
        transaction(3).read("x", 0).read("y", 2).commit(2).into(),
        transaction(5).read("x", 0).read("y", 4).commit(4).into(),
    ]);
    assert_eq!(summary(&verdict), "repeatable read, snapshot isolation: read skew (G-single-item)");
    assert!(!verdict.to_string().contains("T3"), "{verdict}");
}

#[test]
fn serializable_order_other_than_the_revisions_holds() {
    // T1 comes before T2 although its revision is later: no transaction can see the difference.
    let verdict = verdict([
        transaction(1).read("x", 1).put("y", 3).commit(3).into(),
        transaction(2).put("x", 2).commit(2).into(),
    ]);
    assert_all_hold(&verdict);
    assert_eq!(verdict.coverage().unplaced, 1);
}

#[test]
fn inconsistent_attempt_refutes_the_strong_levels() {
    let events = |isolation| {
        [
            changed(1, &["x", "y"]),
            changed(2, &["x", "y"]),
            transaction(1)
                .isolation(isolation)
                .read("x", 1)
                .read("y", 2)
                .end(AttemptEnd::Conflict)
                .into(),
            transaction(2).put("x", 2).put("y", 2).commit(2).into(),
        ]
    };
    let strong = verdict(events(Isolation::Serializable));
    assert_eq!(summary(&strong), "coord serializable: inconsistent attempt");
    assert_eq!(strong.status(Level::StrictSerializable), Status::Holds);
    assert_eq!(strong.declared(), Status::Not);
    let weak = verdict(events(Isolation::RepeatableReads));
    assert_eq!(weak.declared(), Status::Holds);
}

#[test]
fn mixed_levels_are_checked_by_what_each_was_promised() {
    let events = |isolation| {
        [
            transaction(1).isolation(isolation).read("x", 1).put("x", 3).commit(3).into(),
            transaction(2).read("x", 1).put("x", 2).commit(2).into(),
        ]
    };
    // T2 kept its level; T1 lost the update of T2, which only `ReadCommitted` permits.
    assert_eq!(verdict(events(Isolation::ReadCommitted)).declared(), Status::Holds);
    assert_eq!(verdict(events(Isolation::RepeatableReads)).declared(), Status::Not);
}

#[test]
fn retry_begins_with_its_first_attempt() {
    let verdict = verdict([
        transaction(3).span(0, 4).read("x", 1).end(AttemptEnd::Conflict).into(),
        transaction(1).span(0, 1).put("x", 1).commit(1).into(),
        transaction(2).span(2, 3).put("x", 2).commit(2).into(),
        {
            let mut second = transaction(3).span(5, 6).read("x", 1);
            second.attempt.number = 2;
            second.into()
        },
    ]);
    assert_all_hold(&verdict);
}
