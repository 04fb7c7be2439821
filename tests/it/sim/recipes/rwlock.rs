//! Read-write locks under every fault: three processes with two tasks each, of which one upgrades
//! and one downgrades.

use coord_core::Session;
use coord_core::error::PrimitiveError;
use coord_core::kv::{Put, Txn};
use coord_core::recipes::{RwLock, UpgradeFailure, WriteGuard};
use coord_testkit::sim::{Process, Sim, Sweep};

use crate::sim::holders::Holders;
use crate::sim::{SEEDS, print};

/// How a holder uses the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usage {
    Read,
    Write,
}

/// Writes the token, if the lock is still held: another write could arrive late.
async fn write(writer: &WriteGuard) -> Result<(), PrimitiveError> {
    let put = Put::new("last", writer.fencing_token().to_string());
    writer.txn(Txn::new().and_then([put])).await.map(drop)
}

/// Locks for reading, and upgrades. If the upgrade is refused, locks for writing.
async fn read_then_write(
    process: Process,
    session: Session,
    inside: Holders<Usage>,
) -> Result<(), PrimitiveError> {
    let lock = RwLock::new(&session, "catalog");
    let reader = lock.read().await?;
    let used = inside.enter(&reader, Usage::Read);
    let read = process.client().get("last").await?;
    drop(used);
    let writer = match reader.upgrade().await {
        Ok(writer) => {
            let used = inside.enter(&writer, Usage::Write);
            let now = process.client().get("last").await?;
            if writer.txn(Txn::new()).await.is_ok() {
                assert_eq!(now, read, "another writer was in between");
            }
            drop(used);
            writer
        }
        Err(error) => match error.cause {
            UpgradeFailure::Refused { .. } => {
                error.held.unlock().await?;
                lock.write().await?
            }
            UpgradeFailure::Primitive(cause) => return Err(cause),
            other => panic!("{other}"),
        },
    };
    let used = inside.enter(&writer, Usage::Write);
    write(&writer).await?;
    drop(used);
    writer.unlock().await?;
    Ok(())
}

/// Locks for writing, downgrades, and reads what it has written.
async fn write_then_read(
    process: Process,
    session: Session,
    inside: Holders<Usage>,
) -> Result<(), PrimitiveError> {
    let lock = RwLock::new(&session, "catalog");
    let writer = match lock.try_write().await? {
        Some(writer) => writer,
        None => lock.write().await?,
    };
    let used = inside.enter(&writer, Usage::Write);
    write(&writer).await?;
    drop(used);
    let reader = writer.downgrade().await?;
    let used = inside.enter(&reader, Usage::Read);
    process.client().get("last").await?;
    drop(used);
    reader.unlock().await?;
    Ok(())
}

/// Two tasks of one process, on one session.
async fn work(process: Process, inside: Holders<Usage>) -> Result<(), PrimitiveError> {
    let session = Session::builder(process.client()).open().await?;
    let first = read_then_write(process.clone(), session.clone(), inside.clone());
    let second = write_then_read(process.clone(), session.clone(), inside);
    let (first, second) = (process.spawn(first), process.spawn(second));
    first.await?;
    second.await?;
    Ok(session.close().await?)
}

async fn catalog(sim: Sim) {
    let inside: Holders<Usage> = Holders::new(&sim, |entering, inside| {
        let is_excluded =
            inside.contains(&Usage::Write) || (*entering == Usage::Write && !inside.is_empty());
        is_excluded.then(|| format!("for {entering:?} beside {inside:?}"))
    });
    for name in ["a", "b", "c"] {
        let inside = inside.clone();
        sim.service(name, move |process| work(process, inside.clone()));
    }
    sim.join().await;
    let left = sim.client().get_prefix("catalog/").await.unwrap();
    sim.sometimes("every task enters", inside.entered() >= 12);
    sim.sometimes("no key is left", left.is_empty());
}

#[test]
fn rwlock_excludes_writers_under_every_fault() {
    let name = "rwlock_excludes_writers_under_every_fault";
    print(name, &Sweep::new(name).seeds(SEEDS).check_store().run(catalog));
}
