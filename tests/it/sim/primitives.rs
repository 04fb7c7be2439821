//! Every primitive under every fault: several processes, several tasks each.

use coord_core::error::PrimitiveError;
use coord_core::{Mutex, Session};
use coord_testkit::sim::{Sim, Sweep};

/// Processes that acquire one lock, several times, from two tasks each.
async fn contend_for_a_lock(sim: Sim) {
    let inside = sim.exclusive("printer");
    for name in ["a", "b", "c"] {
        let inside = inside.clone();
        sim.service(name, move |process| {
            let inside = inside.clone();
            async move {
                let session = Session::builder(process.client()).open().await?;
                let worker = |session: Session| {
                    let (inside, process) = (inside.clone(), process.clone());
                    async move {
                        for _ in 0..3 {
                            let guard = Mutex::new(&session, "printer").lock().await?;
                            let alone = inside.enter(&process, &guard);
                            process.client().put("last", process.name().to_owned()).await?;
                            drop(alone);
                            guard.unlock().await?;
                        }
                        Ok::<_, PrimitiveError>(())
                    }
                };
                let (first, second) = (
                    process.spawn(worker(session.clone())),
                    process.spawn(worker(session.clone())),
                );
                first.await?;
                second.await?;
                session.close().await?;
                Ok::<_, PrimitiveError>(())
            }
        });
    }
    sim.join().await;
    sim.sometimes("every worker acquires three times", inside.entered() >= 18);
}

#[test]
fn lock_excludes_under_every_fault() {
    let report = Sweep::new("lock_excludes_under_every_fault").seeds(2_000).run(contend_for_a_lock);
    println!("{report}");
}
