//! The clauses of the contract of [`KvBackend`](coord_core::KvBackend), each with its cases.
//!
//! Tests compare this list with the trait's documentation and with the table of cases. They fail if
//! a clause or the name of a case has changed there but not here.

/// A clause of the contract, and the cases that check it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Clause {
    /// The clause, word for word as in the documentation of the trait.
    pub text: &'static str,
    /// The names of the cases that check the clause. Empty if no call of the trait can check it,
    /// such as a clause on broken connections: the tests of each backend cover such clauses.
    pub cases: &'static [&'static str],
}

const fn clause(text: &'static str, cases: &'static [&'static str]) -> Clause {
    Clause { text, cases }
}

/// The contract, clause by clause.
///
/// ```
/// use coord_testkit::conformance::CONTRACT;
///
/// for clause in CONTRACT {
///     println!("{} ({} cases)", clause.text, clause.cases.len());
/// }
/// ```
pub const CONTRACT: &[Clause] = &[
    clause(
        "A transaction that changes a key creates exactly one revision, and so does the end of \
         a lease that has keys; nothing else creates a revision.",
        &[
            "put_makes_exactly_one_revision",
            "put_of_the_same_value_makes_a_revision",
            "delete_of_many_keys_makes_exactly_one_revision",
            "delete_of_nothing_makes_no_revision",
            "read_makes_no_revision",
            "txn_of_several_changes_makes_exactly_one_revision",
            "txn_that_only_reads_makes_no_revision",
            "refused_txn_makes_no_revision",
            "compaction_makes_no_revision",
            "watch_makes_no_revision",
            "lease_without_keys_makes_no_revision",
        ],
    ),
    clause(
        "All changes of a transaction share its revision, and no other transaction has that \
         revision.",
        &["all_changes_of_a_txn_share_its_revision", "concurrent_changes_get_a_revision_each"],
    ),
    clause(
        "A read at a revision always returns the same keys, until that revision is compacted.",
        &[
            "historic_read_is_repeatable",
            "historic_range_read_shows_historic_keys_in_order",
            "compaction_keeps_reads_at_its_revision_unchanged",
            "compaction_keeps_every_later_revision",
            "read_below_the_compact_revision_is_refused",
        ],
    ),
    clause(
        "All compares, also those of nested transactions, are evaluated before any operation.",
        &[
            "nested_compare_does_not_see_earlier_writes_of_the_same_txn",
            "nested_compare_does_not_see_earlier_deletes_of_the_same_txn",
            "deeply_nested_compares_are_evaluated_before_any_op",
        ],
    ),
    clause(
        "Operations are applied in order, and a range reads the changes of earlier operations.",
        &[
            "txn_returns_op_responses_in_order",
            "range_op_sees_earlier_puts",
            "range_op_sees_earlier_deletes",
            "range_op_does_not_see_later_puts",
            "nested_range_sees_earlier_writes_of_the_same_txn",
            "range_after_a_nested_txn_sees_its_writes",
        ],
    ),
    clause(
        "A transaction that fails changes nothing.",
        &[
            "txn_with_a_missing_key_changes_nothing",
            "txn_with_a_missing_lease_changes_nothing",
            "txn_with_a_future_range_changes_nothing",
            "txn_with_a_compacted_range_changes_nothing",
            "error_of_a_nested_txn_undoes_the_outer_ops",
            "refused_duplicate_changes_nothing",
            "txn_with_too_many_ops_changes_nothing",
            "refused_txn_delivers_nothing",
        ],
    ),
    clause(
        "`watch` returns once the watch is registered, with the revision of the registration. \
         Every later change is delivered.",
        &[
            "watch_header_carries_the_registration_revision",
            "watch_delivers_every_change_after_its_registration",
            "watch_without_start_skips_earlier_changes",
            "waiting_watch_is_woken_by_a_change",
        ],
    ),
    clause(
        "Batches arrive in order, one per revision, none missing and none twice.",
        &[
            "every_revision_is_a_batch_of_its_own",
            "changes_of_a_txn_arrive_in_one_batch",
            "unread_watch_misses_nothing",
            "concurrent_changes_arrive_in_order_and_complete",
            "dropped_next_future_loses_nothing",
            "replay_continues_with_live_changes_without_gap",
            "replay_of_more_than_a_thousand_revisions_is_complete",
        ],
    ),
    clause(
        "After a lost connection the backend resumes the watch by itself, from the revision after \
         the last one that was delivered.",
        &[],
    ),
    clause(
        "If events that were not delivered yet are compacted, the stream yields `Compacted` and \
         ends.",
        &[
            "watch_from_a_compacted_revision_fails_and_ends",
            "watch_of_unchanged_keys_from_compacted_revision_fails",
            "watch_from_now_survives_compaction",
        ],
    ),
    clause(
        "Dropping the stream cancels the watch.",
        &[
            "dropped_watch_leaves_other_watches_alone",
            "dropped_watch_request_leaves_other_watches_alone",
        ],
    ),
    clause(
        "A lease lives at least for its granted TTL, counted from the last keep-alive.",
        &[
            "lease_does_not_expire_before_its_ttl",
            "kept_alive_lease_lives_for_its_whole_ttl",
            "long_lease_lives_for_its_whole_ttl",
            "lease_kept_alive_for_hours_does_not_expire",
        ],
    ),
    clause(
        "When it ends, its keys are deleted in one revision, in key order.",
        &[
            "expiry_deletes_keys_in_one_revision_in_key_order",
            "leases_that_expire_together_get_a_revision_each",
            "lease_overdue_after_a_clock_jump_has_no_keys",
            "revoke_deletes_all_keys_in_one_revision",
            "revoked_lease_delivers_its_deletions_in_one_batch",
        ],
    ),
    clause(
        "Every error reports whether the request was surely not applied, or may have been.",
        &[
            "refused_put_leaves_the_key_unchanged",
            "refused_grant_leaves_the_lease_unchanged",
            "refused_compaction_keeps_history",
            "refusals_leave_the_backend_usable",
        ],
    ),
    clause("A backend never repeats a mutation whose first attempt may have been applied.", &[]),
    clause(
        "A request that every store would reject is refused before it is sent.",
        &[
            "put_of_an_empty_key_is_refused",
            "ignore_value_with_a_value_is_refused",
            "ignore_lease_with_a_lease_is_refused",
            "invalid_put_on_the_branch_not_taken_is_refused",
            "duplicate_on_the_branch_not_taken_is_refused",
            "too_many_ops_on_the_branch_not_taken_is_refused",
            "fractional_ttl_is_refused",
            "watch_of_an_inverted_range_is_refused",
            "watch_from_a_negative_revision_is_refused",
        ],
    ),
    clause(
        "Any future may be dropped at any time. It is then unknown whether its request was \
         applied.",
        &[
            "dropped_txn_is_applied_whole_or_not_at_all",
            "dropped_put_leaves_the_backend_usable",
            "dropped_grant_of_a_chosen_id_is_resolved_by_a_retry",
            "dropped_next_future_loses_nothing",
        ],
    ),
];
