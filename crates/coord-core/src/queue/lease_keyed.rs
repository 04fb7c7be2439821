//! Lease-keyed contenders: contenders that are identified by their lease, as in Go's package
//! `concurrency`.
//!
//! A contender usually has a key with a suffix of its own. Two callers have only a lease: a server
//! for clients that use Go's key names, and an adopter that resumes the contender of a former
//! process on its lease.

use super::key_guard::KeyGuard;
use super::position::Position;
use super::{Contender, WaitQueue};
use crate::error::PrimitiveError;
use crate::kv::{Compare, IntoBytes, KeyValue, Op, OpResponse, Put, Range, Txn};
use crate::retry_request::retry_request;

impl WaitQueue {
    /// Enqueues a contender with the key `name/<lease>`, which Go's package uses for a lease. If
    /// the key exists already, its state is returned too.
    ///
    /// All contenders of one lease share this key and its position, and the release or drop of one
    /// deletes the key for all of them. With [`enqueue`](Self::enqueue), each contender has a key
    /// of its own. While the store is unavailable, the request is retried: a second request finds
    /// the key that the first has created.
    ///
    /// ```
    /// use coord_core::{Client, Session, queue::WaitQueue};
    /// use coord_mem::MemBackend;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = Session::builder(&Client::new(MemBackend::new())).open().await?;
    /// let printer = WaitQueue::new(&session, "printer");
    ///
    /// let (report, found) = printer.enqueue_by_lease("report.pdf").await?;
    /// assert_eq!(report.key(), &format!("printer/{}", session.lease_id()));
    /// assert!(found.is_none());
    /// let (again, found) = printer.enqueue_by_lease("photo.png").await?;
    /// assert_eq!(again.fencing_token(), report.fencing_token());
    /// assert_eq!(found.expect("the first contender's key").value, "report.pdf");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - `Lost` if the session is lost.
    /// - The error of the backend, if it is not retryable. If its outcome is unknown, the key may
    ///   be in the queue, and the next contender of the lease uses it.
    ///
    /// # Cancel safety
    /// If the future is dropped, the key may stay in the queue as long as the lease lives, because
    /// it cannot be distinguished from a key in use.
    ///
    /// Source: etcd 3.5 `client/v3/concurrency/mutex.go`, `tryAcquire`.
    pub async fn enqueue_by_lease(
        &self,
        value: impl IntoBytes + Send,
    ) -> Result<(Contender, Option<KeyValue>), PrimitiveError> {
        let lease = self.session.lease_id();
        let key = self.keys.go_key(lease);
        let put = Put::new(&key, value.into_bytes()).lease(lease);
        let enqueue = Txn::new()
            .when([Compare::absent(&key)])
            .and_then([Op::Put(put), Op::Range(self.keys.read_newest())])
            .or_else([Range::new(&key)]);
        let backend = self.session.backend();
        let sent = async { Ok(retry_request(|| backend.txn(enqueue.clone())).await?) };
        let enqueued = self.session.while_held(sent).await?;
        let header = enqueued.header;
        let Some(OpResponse::Range(mut read)) = enqueued.responses.into_iter().next_back() else {
            unreachable!("the last operation of either branch is a range");
        };
        if enqueued.succeeded {
            let mut guard = KeyGuard::existing(&self.session, key, header.revision);
            guard.set_armed(true);
            let position = Position::read(&self.keys, &guard.ownership().entry(), &read);
            let position = position.unwrap_or(Position::Unknown);
            return Ok((Contender::new(self.clone(), guard, header, position), None));
        }
        let Some(found) = read.kvs.pop() else {
            unreachable!("the key exists, and is read in the same transaction");
        };
        let existing = Contender::existing(self.clone(), &found, header);
        Ok((self.session.while_held(existing).await?, Some(found)))
    }

    /// Resumes the contender of a former process on the lease that this session has adopted; `None`
    /// if there is none, the oldest if there are several. Call it once: a second call finds the
    /// same contender again.
    ///
    /// # Errors
    /// - `Lost` if the session is lost.
    /// - The error of the backend, if it is not retryable.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn resume(&self) -> Result<Option<Contender>, PrimitiveError> {
        self.session.while_held(self.find_former()).await
    }

    async fn find_former(&self) -> Result<Option<Contender>, PrimitiveError> {
        let lease = self.session.lease_id();
        let request = self.keys.read_of_lease(lease);
        let read = retry_request(|| self.session.backend().range(request.clone())).await?;
        // A key that was created after the adoption belongs to this session, or was created by a
        // late request of the former owner.
        let is_former = |kv: &&KeyValue| self.keys.owns(&kv.key) && self.session.has_adopted(kv);
        match read.kvs.iter().find(is_former) {
            Some(kv) => Ok(Some(Contender::existing(self.clone(), kv, read.header).await?)),
            None => Ok(None),
        }
    }
}
