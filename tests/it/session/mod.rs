//! Sessions and supervisors: their life, their losses, and their logs and metrics.

mod cancellation_token;
mod close;
mod keep_alive;
mod lock_delay;
mod open;
mod orphan;
mod retry_after_loss;
mod session_run;
mod stale_member;
mod supervisor;
mod supervisor_run;
mod suspension;
pub(crate) mod telemetry;

use std::sync::Arc;

use coord_core::{Client, Session, kv::LeaseId};
use coord_testkit::{Intercept, Rule};

use crate::support::{secs, separate_client};

/// A client of `store` with `rule` in between, whose requests time out after 2 s.
fn client_with_timeout(store: &Client, rule: impl Rule) -> Client {
    Client::new(Intercept::new(Arc::clone(store.backend()), rule).timeout(secs(2)))
}

/// A session of another client that adopts `lease`.
async fn adopt(store: &Client, lease: LeaseId) -> Session {
    Session::builder(&separate_client(store)).lease(lease).open().await.unwrap()
}
