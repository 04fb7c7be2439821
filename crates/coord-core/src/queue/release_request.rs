//! Release requests: another client requests the release from the holder of a queue.
//!
//! A request is a key of its own, beside the queue, on the lease of the holder. It is advisory: the
//! holder decides whether and when it releases.
//!
//! ```text
//! holder                          another client                   store
//! holds jobs/a1-7@12                                               jobs/a1-7@12
//! watches coord/release/jobs/a1-7
//!                                 reads the first contender
//!                                 if jobs/a1-7 is still @12:       coord/release/jobs/a1-7
//!                                   puts the request                 = "12 maintenance"
//! event: a request for token 12
//! release: deletes both keys                                       (none)
//! ```
//!
//! The key is not under the name of the queue: contenders of Go's package wait for every key there.
//! The value begins with the fencing token of the holder that the request is for, because a session
//! uses the name of a released key again.
//!
//! A release deletes the request if the holder has received it. Otherwise, and when the holder is
//! dropped instead of released, the request stays until the session of the holder ends. It has no
//! effect on later holders.

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::WaitQueue;
use super::foreign::is_foreign;
use super::key_guard::Ownership;
use crate::client::Client;
use crate::error::{PrimitiveError, Result};
use crate::follow::{CurrentKeys, FollowedKey};
use crate::kv::{Compare, CompareOp, FencingToken, KeyValue, Put, Revision, Txn};
use crate::session::SessionState;

/// The prefix of all requests.
const PREFIX: &[u8] = b"coord/release/";

/// A request of another client to release a lock or leadership.
///
/// Source: Apache Curator's `Revoker`, with a condition on the holder.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReleaseRequest {
    /// The reason that the other client gave, for a log line. Bytes that are not UTF-8 are
    /// replaced.
    pub reason: String,
    /// The revision of the request.
    pub revision: Revision,
}

impl ReleaseRequest {
    /// Sends a request to the holder with the queue key `holder`. Returns whether the request was
    /// stored: not if the key has changed hands since it was read, if it is a
    /// [foreign key](is_foreign), or if it does not exist any more.
    ///
    /// To send a request to the current holder of a lock, call
    /// [`Mutex::request_release`](crate::Mutex::request_release), which reads its key.
    ///
    /// # Errors
    /// The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the request was stored.
    pub async fn send(client: &Client, holder: &KeyValue, reason: &str) -> Result<bool> {
        let (key, lease, created) = (&holder.key, holder.lease, holder.create_revision);
        if is_foreign(key, lease) {
            return Ok(false);
        }
        let is_held = Compare::create_revision(key, CompareOp::Equal, created);
        let value = format!("{} {reason}", FencingToken(created));
        let request = Put::new(Self::key(key), value).lease(lease);
        match client.txn(Txn::new().when([is_held]).and_then([request])).await {
            // The lease has ended since, and with it the key.
            Err(crate::Error::LeaseNotFound { .. }) => Ok(false),
            response => Ok(response?.succeeded),
        }
    }

    /// The key of the requests to the holder with the queue key `holder`.
    pub(super) fn key(holder: &[u8]) -> Bytes {
        [PREFIX, holder].concat().into()
    }

    /// The request in a key; `None` if it is for a holder with another token.
    fn read(kv: &KeyValue, token: FencingToken) -> Option<Self> {
        let text = String::from_utf8_lossy(&kv.value);
        let (requested, reason) = text.split_once(' ')?;
        let is_own = requested == token.to_string();
        is_own.then(|| Self { reason: reason.to_owned(), revision: kv.mod_revision })
    }
}

impl WaitQueue {
    /// Requests the release from the holder, which is the first contender. Returns the fencing
    /// token of the holder that the request is for; `None` if there is no holder, or if the first
    /// key is a [foreign key](is_foreign).
    ///
    /// The request is advisory. The holder receives it in
    /// [`release_requested`](Ownership::release_requested), and decides what to do.
    ///
    /// Cost: 2 requests; 2 more each time the holder changes in between.
    ///
    /// # Errors
    /// The error of the backend, with its own outcome.
    ///
    /// # Cancel safety
    /// If the future is dropped, it is unknown whether the request was stored.
    pub async fn request_release(&self, reason: &str) -> Result<Option<FencingToken>> {
        let client = self.session().client();
        loop {
            let (_, holder) = self.keys.read_first(client).await?;
            let Some(holder) = holder.filter(|kv| !is_foreign(&kv.key, kv.lease)) else {
                return Ok(None);
            };
            if ReleaseRequest::send(client, &holder, reason).await? {
                return Ok(Some(FencingToken(holder.create_revision)));
            }
        }
    }
}

impl Ownership {
    /// Waits until another client requests the release, and returns the request. If there is one
    /// already, it returns at once.
    ///
    /// Cost: 1 read and a watch, and 1 or 2 reads each 55 s, so that a watch that has fallen silent
    /// delays the request by a minute at most; without a request also a new watch then, if the old
    /// one reports no progress.
    ///
    /// # Errors
    /// - `Lost` if the session is lost. A deleted key is not detected: see [`lost`](Self::lost).
    /// - The error of the backend, if it is not retryable.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn release_requested(&self) -> Result<ReleaseRequest, PrimitiveError> {
        let followed = FollowedKey {
            client: self.session().client().clone(),
            key: ReleaseRequest::key(self.key()),
        };
        let token = self.fencing_token();
        let requested = async {
            let mut items = Box::pin(CurrentKeys::stream(followed));
            while let Some(item) = items.next().await {
                let request = item?.kv.and_then(|kv| ReleaseRequest::read(&kv, token));
                if let Some(request) = request {
                    self.note_release_request();
                    return Ok(request);
                }
            }
            unreachable!("the stream ends only with an error")
        };
        if let SessionState::Lost(reason) = self.session().state() {
            return Err(reason.into());
        }
        self.session().while_held(requested).await
    }
}
