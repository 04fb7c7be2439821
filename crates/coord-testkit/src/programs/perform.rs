//! Runs a program as a real transaction, or as requests of a client without transactions.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_core::kv::KeyRange;
use coord_core::stm::{Retry, StmError, Transaction};
use coord_core::{Client, Error, Result, Stm};

use super::case::Case;
use super::program::{Program, ProgramOperation};
use super::run::{Setup, StartProcess};

/// The value of the initial keys.
const INITIAL: &str = "0";

/// The error of a program: the backend failed, or the program aborts.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProgramError {
    #[error(transparent)]
    Backend(#[from] Error),
    #[error("abort")]
    Abort,
}

/// Whether all puts put values that differ, or all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PutValues {
    /// Values that name the transaction, the attempt and the operation, such as `T1.2.3`.
    #[default]
    Unique,
    /// The value of the initial keys. Then only revisions distinguish versions.
    Equal,
}

impl PutValues {
    fn value(self, name: &str, attempt: u32, operation: usize) -> String {
        match self {
            Self::Unique => format!("{name}.{attempt}.{}", operation + 1),
            Self::Equal => INITIAL.to_owned(),
        }
    }
}

/// The budget of a transaction: some attempts, without pauses.
pub(super) fn retry(attempts_max: u32) -> Retry {
    Retry {
        attempts_max: Some(attempts_max),
        pause_min: Duration::ZERO,
        pause_max: Duration::ZERO,
        seed: Some(0),
        ..Retry::default()
    }
}

/// The setup of a case.
pub(super) fn setup(case: &Case, values: PutValues, attempts_max: u32) -> Setup {
    let initial = case.initial.iter().map(|key| (Bytes::from(key.clone()), Bytes::from(INITIAL)));
    let processes = (1..).zip(&case.programs).map(|(number, program)| -> StartProcess {
        let (name, program) = (format!("T{number}"), Arc::new(program.clone()));
        Rc::new(move |client| {
            let (name, program) = (name.clone(), Arc::clone(&program));
            Box::pin(run(client, program, name, values, attempts_max))
        })
    });
    Setup {
        initial: initial.collect::<BTreeMap<_, _>>(),
        processes: processes.collect(),
        ..Setup::default()
    }
}

/// Runs a program. That a transaction aborts, or has spent its attempts, is no error.
pub(super) async fn run(
    client: Client,
    program: Arc<Program>,
    name: String,
    values: PutValues,
    attempts_max: u32,
) -> Result<(), String> {
    let Some(isolation) = program.isolation else {
        let ran = run_external(&client, &program.operations, &name, values).await;
        return ran.map_err(|error| error.to_string());
    };
    let stm = Stm::new(&client).isolation(isolation).retry(retry(attempts_max));
    let mut attempt = 0;
    // The closure owns what it uses, so that the future can be sent to another thread.
    let ran = stm.run(async move |tx| {
        attempt += 1;
        for number in 0..program.operations.len() {
            let operation = program.operations[number].clone();
            perform(tx, operation, values.value(&name, attempt, number)).await?;
        }
        Ok::<_, ProgramError>(())
    });
    match ran.await {
        Ok(_) | Err(StmError::Aborted(_) | StmError::RetriesExhausted { .. }) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn perform(
    tx: &mut Transaction,
    operation: ProgramOperation,
    value: String,
) -> Result<(), ProgramError> {
    match operation {
        ProgramOperation::Get(key) => drop(tx.get(key).await?),
        ProgramOperation::Put(key) => tx.put(key, value),
        ProgramOperation::Delete(key) => tx.delete(key),
        ProgramOperation::Range(prefix) => drop(tx.range(KeyRange::prefix(prefix)).await?),
        ProgramOperation::RevisionOf(key) => drop(tx.revision_of(key).await?),
        ProgramOperation::Append(key) => {
            let list = tx.get(&key).await?;
            tx.put(key, appended(list.as_deref(), &value));
        }
        ProgramOperation::Abort => return Err(ProgramError::Abort),
    }
    Ok(())
}

/// Sends each operation as a request of its own, and an append as a read and a put, until an abort.
async fn run_external(
    client: &Client,
    operations: &[ProgramOperation],
    name: &str,
    values: PutValues,
) -> Result<()> {
    for (number, operation) in operations.iter().enumerate() {
        let value = values.value(name, 1, number);
        match operation {
            ProgramOperation::Get(key) | ProgramOperation::RevisionOf(key) => {
                drop(client.get(key).await?)
            }
            ProgramOperation::Put(key) => drop(client.put(key, value).await?),
            ProgramOperation::Delete(key) => drop(client.delete(key).await?),
            ProgramOperation::Range(prefix) => drop(client.get_prefix(prefix).await?),
            ProgramOperation::Append(key) => {
                let list = client.get(key).await?.map(|kv| kv.value);
                drop(client.put(key, appended(list.as_deref(), &value)).await?);
            }
            ProgramOperation::Abort => return Ok(()),
        }
    }
    Ok(())
}

fn appended(list: Option<&[u8]>, value: &str) -> Vec<u8> {
    match list {
        Some(list) => [list, b",", value.as_bytes()].concat(),
        None => value.as_bytes().to_vec(),
    }
}
