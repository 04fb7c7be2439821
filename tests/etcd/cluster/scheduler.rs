//! The failure of the example `scheduler` that a sweep has found, replayed on a real etcd with the
//! list of the simulation.

#[path = "../../examples/scheduler/config.rs"]
mod config;
#[path = "../../examples/scheduler/jobs.rs"]
mod jobs;
#[path = "../../examples/scheduler/leader.rs"]
mod leader;
#[path = "../../it/sim/scheduler/without_simulation.rs"]
mod without_simulation;
#[path = "../../examples/scheduler/worker.rs"]
mod worker;

use std::sync::Arc;

use coord_core::Client;
use coord_core::layer::PrefixLayer;
use coord_testkit::sim::Deviations;

use crate::support::{client, single_member};
use without_simulation::{SHRUNK_LIST, TOTAL, TOTAL_WITH_A_JOB_TWICE, run_jobs_on};
use worker::Recording;

/// The late commit counts a job twice on etcd too. The fix, and a run without the fault, count it
/// once.
#[tokio::test]
async fn shrunk_list_counts_a_job_twice_on_etcd_too() {
    let cluster = single_member().await;
    let store = client(&cluster.endpoints()).await;
    let (list, no_fault) = (SHRUNK_LIST.parse().unwrap(), Deviations::default());
    let total = async |namespace: &str, list: &Deviations, recording| {
        let backend = PrefixLayer::new(Arc::clone(store.backend()), namespace.to_owned());
        run_jobs_on(&Client::new(backend), list, recording).await
    };
    let totals = tokio::join!(
        total("bug/", &list, Recording::Always),
        total("fix/", &list, Recording::WhileHeld),
        total("none/", &no_fault, Recording::Always),
    );
    assert_eq!(totals, (TOTAL_WITH_A_JOB_TWICE, TOTAL, TOTAL));
}
