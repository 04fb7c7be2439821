//! `coord lock --slots N`: the lock is a semaphore with N permits, of which each command holds one.

use coord_core::Session;
use coord_core::queue::{Contender, Held as _};
use coord_core::recipes::semaphore::{Semaphore, SemaphoreError, limit_key};

use super::progress;
use super::request::{
    FAILED_STATUS, HoldRequest, TAKEN_STATUS, WaitMode, failure, primitive_failure,
};
use crate::exit::ExitError;
use crate::queue::QueueKeys;
use crate::text;

/// Waits for a slot. Without a wait, fails if all slots are taken.
pub(super) async fn acquire(
    session: &Session,
    request: &HoldRequest,
    slots: u32,
) -> Result<Contender, ExitError> {
    let name = &request.name;
    let semaphore = Semaphore::new(session, name.clone(), slots);
    let acquired = match request.wait_mode {
        WaitMode::Try => semaphore.try_acquire(1).await,
        WaitMode::Wait => {
            let keys = QueueKeys::new(&format!("{name}/permits"));
            tokio::select! {
                biased;
                acquired = semaphore.acquire(1) => acquired.map(Some),
                never = progress::show_contenders_ahead(session, &keys) => match never {},
            }
        }
    };
    match acquired {
        Ok(Some(permits)) => Ok(permits.into_contender()),
        Ok(None) => {
            let message = format!("{name} is taken{}", describe_taken(slots));
            Err(ExitError::new(TAKEN_STATUS, message))
        }
        Err(SemaphoreError::Primitive(error)) => {
            Err(primitive_failure(error, || format!("wait for a slot of {name}")))
        }
        Err(SemaphoreError::LimitDiffers { stored, given, .. }) => {
            let message = format!(
                "{name} has {stored} slots, not {given}: give --slots {stored}, or put {given} as \
                 the value of the key {}",
                text::escape(&limit_key(name.clone()))
            );
            Err(ExitError::new(FAILED_STATUS, message))
        }
        Err(error) => Err(failure(error)),
    }
}

/// Why no slot was acquired, for a message.
pub(super) fn describe_taken(slots: u32) -> String {
    match slots {
        1 => ": its only slot is taken".to_owned(),
        slots => format!(": its {slots} slots are taken, or contenders wait for them"),
    }
}
