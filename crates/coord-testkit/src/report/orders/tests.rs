//! Tests that the serial orders and the missing guards of a report are true, on random small
//! anomalies: the orders are replayed, and the guards are compared with the order of the commits.

use std::collections::BTreeMap;

use coord_core::kv::Revision;
use coord_core::stm::Isolation;

use super::*;
use crate::history::{AttemptEnd, EventKind, History};
use crate::isolation::{Status, Verdict};
use crate::programs::{Explorer, Schedule, Search};
use crate::report::Report;
use crate::report::participants::records;

/// Calls `check` with the histories of random cases at each level.
fn random_runs(mut check: impl FnMut(&History, &Verdict)) {
    let mut rng = fastrand::Rng::with_seed(0);
    for isolation in Isolation::ALL {
        for _ in 0..150 {
            let (programs, operations) = (rng.usize(2..5), rng.usize(1..4));
            let case = Search::new(isolation).size(programs, operations).random_case(&mut rng);
            let explorer = Explorer::new().stale_window(2);
            explorer.random(&case, rng.u64(..), 20, |checked| {
                check(checked.history(), &checked.verdict);
                std::ops::ControlFlow::Continue(())
            });
        }
    }
}

/// The committed attempts by transaction, with their commits and the positions of their events.
fn commits(history: &History) -> BTreeMap<u64, (usize, Revision, &Attempt)> {
    let events = history.0.iter().enumerate();
    let commits = events.filter_map(|(position, event)| match &event.kind {
        EventKind::Attempt(attempt) => match attempt.end {
            AttemptEnd::Committed { revision } => {
                Some((attempt.transaction, (position, revision, &**attempt)))
            }
            _ => None,
        },
        _ => None,
    });
    commits.collect()
}

#[test]
fn serial_order_has_the_version_that_a_replay_has() {
    let (mut compared, mut overwritten) = (0, 0);
    random_runs(|history, verdict| {
        let commits = commits(history);
        for anomaly in verdict.anomalies().iter().filter(|anomaly| !anomaly.steps.is_empty()) {
            let records = records(history, anomaly);
            let participants: Vec<_> = records.iter().map(|record| record.participant).collect();
            if participants.len() > ALL_ORDERS_MAX {
                continue;
            }
            for order in permutations(&participants) {
                let step = broken_step(anomaly, &order).unwrap();
                if !step.kind.is_anti_dependency() {
                    continue;
                }
                let key = step.key.as_ref().unwrap();
                // The replay: the last version of the key before the reader.
                let mut replayed = None;
                for participant in order.iter().take_while(|other| **other != step.from) {
                    let (revision, is_writer) = match participant {
                        Participant::Transaction(number) => {
                            let (_, revision, attempt) = commits[number];
                            (revision, attempt.writes.iter().any(|write| write.key == *key))
                        }
                        // The initial keys.
                        Participant::Change(revision) => (*revision, true),
                    };
                    if is_writer {
                        replayed = Some(revision);
                    }
                }
                let claimed = version_to_read(step, &order, &records).unwrap().0;
                assert_eq!(
                    claimed,
                    replayed,
                    "{order:?}\n{}{history}",
                    Report::new(history, verdict)
                );
                let words = why(step, &order, &records);
                let must = words.split(',').next().unwrap();
                let is_named = must.contains(&format!("@{} = ", replayed.unwrap()));
                assert!(is_named || must.contains("must find no"), "{words}");
                compared += 1;
                overwritten += usize::from(claimed != step.after);
            }
        }
    });
    assert!(compared > 100 && overwritten > 0, "{compared}, {overwritten}");
}

#[test]
fn guard_is_missing_only_where_it_would_fail() {
    let mut compared = 0;
    random_runs(|history, verdict| {
        let commits = commits(history);
        for anomaly in verdict.anomalies() {
            let records = records(history, anomaly);
            for record in &records {
                let Some(attempt) = record.attempt else { continue };
                let (reader, commit, _) = commits[&attempt.transaction];
                // The versions of the store when the commit would have compared them: those of the
                // writers whose events come before. Each attempt ends in a turn of its own.
                let mut versions = BTreeMap::new();
                for event in &history.0 {
                    let EventKind::Changed(change) = &event.kind else { continue };
                    let is_before = commits.values().all(|(position, revision, attempt)| {
                        attempt.writes.is_empty()
                            || *revision != change.revision
                            || *position < reader
                    });
                    for write in change.writes.iter().filter(|_| is_before) {
                        let version = write.value.as_ref().map(|_| change.revision);
                        versions.insert(&write.key, version);
                    }
                }
                for step in late_changes(history, anomaly, record, &records) {
                    let version = versions.get(step.key.as_ref().unwrap()).copied().flatten();
                    let report = Report::new(history, verdict);
                    assert_ne!(version, step.before, "{step}, commit {commit}\n{history}{report}");
                    compared += 1;
                }
            }
        }
    });
    assert!(compared > 100, "{compared}");
}

#[test]
fn store_or_client_is_wrong_only_if_its_level_is_refuted() {
    random_runs(|history, verdict| {
        let report = Report::new(history, verdict).to_string().replace("\n      ", " ");
        if verdict.declared() != Status::Not {
            assert!(!report.contains("client is wrong"), "{report}");
        }
    });
}

#[test]
fn reader_of_current_data_lacks_no_guard() {
    let case = "initial: x y z
        T1 read-committed: r(z) w(x)
        T2 read-committed: r(x) r(y)
        T3 read-committed: w(z) w(y)";
    let schedule: Schedule = "T1 T3 T2 T2 T1".parse().unwrap();
    let checked = Explorer::new().replay(&case.parse().unwrap(), &schedule);
    let report = Report::new(checked.history(), &checked.verdict).to_string();
    let report = report.replace("\n      ", " ");
    assert!(report.contains("T1's commit needed mod(z) == 2;"), "{report}");
    assert!(!report.contains("T2's commit needed"), "{report}");
}
