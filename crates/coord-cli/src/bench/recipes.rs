//! The workloads of the recipes: read-write lock, barriers and semaphore.

use clap::Subcommand;
use coord_core::Session;
use coord_core::recipes::{RwLock, Semaphore};

use super::flags::{
    BarrierFlags, DoubleBarrierFlags, Flags, HoldTimeFlags, MixedFlags, SemaphoreFlags,
};
use super::run_and_print;
use super::workload::barrier::BarrierWorkload;
use super::workload::double_barrier::DoubleBarrierWorkload;
use super::workload::lock_cycle::{LockCycle, Sharing};
use super::workload::rwlock::{MixedWorkload, Reader, Writer};
use crate::exit::ExitError;

/// The workloads and their flags.
#[derive(Debug, Subcommand)]
pub(crate) enum RecipeCommand {
    /// Lock for reading and unlock, one lock for all workers, one session each
    RwlockRead(Flags<HoldTimeFlags>),
    /// Lock for writing and unlock, one lock for each worker
    RwlockWrite(Flags<HoldTimeFlags>),
    /// Lock and unlock, 90 % for reading, one lock for all workers, one session each
    RwlockMixed(Flags<MixedFlags>),
    /// Acquire a permit and release it, one semaphore with a permit for each worker
    Semaphore(Flags<HoldTimeFlags>),
    /// Acquire a permit and release it, one semaphore with `--limit` permits for all workers
    SemaphoreContended(Flags<SemaphoreFlags>),
    /// Hold a barrier, release it, and let `--waiters` waiters pass, one barrier for each worker
    Barrier(Flags<BarrierFlags>),
    /// Enter a round and leave it with `--parties` parties, one double barrier for each worker
    DoubleBarrier(Flags<DoubleBarrierFlags>),
}

impl RecipeCommand {
    /// Runs the workload and prints its report.
    pub(super) async fn run(self) -> Result<(), ExitError> {
        match self {
            Self::RwlockRead(Flags { run, own }) => {
                let create = |session: &_, name, _| Reader(RwLock::new(session, name));
                run_and_print("rwlock-read", &run, LockCycle::new(Sharing::Shared, &own, create))
                    .await
            }
            Self::RwlockWrite(Flags { run, own }) => {
                let create = |session: &_, name, _| Writer(RwLock::new(session, name));
                let cycle = LockCycle::new(Sharing::PerWorker, &own, create);
                run_and_print("rwlock-write", &run, cycle).await
            }
            Self::RwlockMixed(Flags { run, own }) => {
                run_and_print("rwlock-mixed", &run, MixedWorkload::new(own)).await
            }
            Self::Semaphore(Flags { run, own }) => {
                let limit = u32::try_from(run.workers.get()).unwrap_or(u32::MAX);
                let cycle = LockCycle::new(Sharing::Shared, &own, semaphore(limit));
                run_and_print("semaphore", &run, cycle).await
            }
            Self::SemaphoreContended(Flags { run, own }) => {
                let holders = own.limit.get();
                let sharing = Sharing::Contended { holders };
                let cycle = LockCycle::new(sharing, &own.hold, semaphore(holders));
                run_and_print("semaphore-contended", &run, cycle).await
            }
            Self::Barrier(Flags { run, own }) => {
                run_and_print("barrier", &run, BarrierWorkload { flags: own }).await
            }
            Self::DoubleBarrier(Flags { run, own }) => {
                run_and_print("double-barrier", &run, DoubleBarrierWorkload { flags: own }).await
            }
        }
    }
}

/// Creates the semaphores of a workload, with this limit.
fn semaphore(limit: u32) -> impl Fn(&Session, String, usize) -> Semaphore + Send + Sync {
    move |session, name, _| Semaphore::new(session, name, limit)
}
