//! Replay on a real store: the faults of a list of deviations, as a rule of an
//! [`Intercept`](crate::Intercept).
//!
//! A real store has its own schedule. But a failure that needs only lost, delayed or rejected
//! messages of one client happens there too, if the same messages are lost:
//!
//! ```text
//! sim                                   real store
//! a.request#3=5/11   "request 3 lost"   the third call of the client is not sent
//! a.response#2=6/7   "response 2 lost"  the second call that is sent is applied, and fails
//! ```

use std::collections::BTreeMap;
use std::sync::Mutex;

use coord_core::sync;

use super::choice::{Deviation, Deviations};
use super::faults::{latency, rejection};
use crate::call::Call;
use crate::intercept::{Action, Rule};

/// The error of a list with a deviation that cannot be replayed on a real store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{deviation} cannot be replayed on a real store: only requests and responses of one client can \
     be lost, delayed or rejected there"
)]
pub struct NotReplayableError {
    deviation: Deviation,
}

/// Injects the faults of one process. Created by [`Deviations::rule`].
#[derive(Debug)]
pub struct ReplayRule {
    requests: BTreeMap<u32, u16>,
    responses: BTreeMap<u32, u16>,
    counts: Mutex<Counts>,
}

/// How many requests the process has sent, and how many the store has processed.
#[derive(Debug, Default)]
struct Counts {
    sent: u32,
    processed: u32,
}

impl Deviations {
    /// Returns the rule that injects the faults of the process `process` on a real store. The
    /// deviations of other processes are ignored, so each process gets a rule of its own.
    ///
    /// The caller of a lost request waits for the timeout of the
    /// [`Intercept`](crate::Intercept::timeout), unless the connection broke.
    ///
    /// ```
    /// use coord_core::{Client, error::Outcome};
    /// use coord_mem::MemBackend;
    /// use coord_testkit::{Intercept, sim::Deviations};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let list: Deviations = "a.response#2=6/7".parse()?;
    /// let store = MemBackend::new();
    /// let client = Client::new(Intercept::new(store.clone(), list.rule("a")?));
    /// client.put("x", "1").await?;
    /// let second = client.put("x", "2").await.unwrap_err();
    /// assert_eq!(second.outcome(), Outcome::Unknown);
    /// assert_eq!(Client::new(store).get("x").await?.expect("it was put").value, "2");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the list has a deviation of any process that is neither a lost, delayed or rejected
    /// request nor a response that is lost or later than the timeout.
    pub fn rule(&self, process: &str) -> Result<ReplayRule, NotReplayableError> {
        let (mut requests, mut responses) = (BTreeMap::new(), BTreeMap::new());
        for deviation in &self.0 {
            let lane = deviation.lane.rsplit_once('.');
            let messages = match lane {
                Some((_, "request")) => &mut requests,
                // A response that is later than the timeout is lost for the caller.
                Some((_, "response")) if deviation.value >= 4 => &mut responses,
                _ => return Err(NotReplayableError { deviation: deviation.clone() }),
            };
            if lane.is_some_and(|(owner, _)| owner == process) {
                messages.insert(deviation.number, deviation.value);
            }
        }
        Ok(ReplayRule { requests, responses, counts: Mutex::default() })
    }
}

impl Rule for ReplayRule {
    fn action(&self, call: &Call) -> Action {
        let mut counts = sync::lock(&self.counts);
        counts.sent += 1;
        let delay = self.requests.get(&counts.sent).copied();
        match delay {
            Some(5) => return Action::Hang,
            Some(6) => return Action::DropRequest,
            value => {
                let reason = "replayed from a simulated run";
                if let Some(error) = value.and_then(|value| rejection(value, call, reason)) {
                    return Action::Fail(error);
                }
            }
        }
        counts.processed += 1;
        match (self.responses.get(&counts.processed), delay) {
            (Some(_), _) => Action::DropResponse,
            (None, Some(value)) => Action::Delay(latency(value)),
            (None, None) => Action::Pass,
        }
    }
}
