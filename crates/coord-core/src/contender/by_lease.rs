//! Contenders that are known by their lease.
//!
//! Usually a contender is known by a key that no other has. Here are the two who know no more than
//! the lease: whoever serves clients that have Go's keys, and whoever comes after a process that is
//! gone, with its lease.

use super::standing::{Place, Standing};
use super::ticket::Ticket;
use super::{Contender, WaitingLine};
use crate::kv::{Compare, IntoBytes, KeyValue, Op, OpResponse, Put, Range, Txn};
use crate::loss::PrimitiveError;
use crate::retry::patiently;

impl WaitingLine {
    /// Joins the line under `name/<lease>`, the one key that Go's package has for a lease: one
    /// request, or two if the key is there already, which is then given back as it was found.
    ///
    /// This is for whoever serves clients that expect Go's keys; [`join`](Self::join) has a key for
    /// each contender. Here those of one lease share their key and their place, and whoever leaves,
    /// or is dropped, removes the key for all of them. While the store is unavailable the request
    /// is repeated: sent again, it finds what it has done.
    ///
    /// ```
    /// use coord_core::{Session, contender::WaitingLine};
    /// use coord_mem::MemBackend;
    /// use std::sync::Arc;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = Session::builder(Arc::new(MemBackend::new())).open().await?;
    /// let printer = WaitingLine::new(&session, "printer");
    ///
    /// let (report, found) = printer.join_by_lease("report.pdf").await?;
    /// assert_eq!(report.key(), &format!("printer/{}", session.lease_id()));
    /// assert!(found.is_none());
    /// let (again, found) = printer.join_by_lease("photo.png").await?;
    /// assert_eq!(again.fencing_token(), report.fencing_token());
    /// assert_eq!(found.expect("it is the report's").value, "report.pdf");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Lost` when the session is; otherwise what the backend answered. If nobody knows what became
    /// of the request, the key may be in the line, for the next one on the lease to find.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the key in the line, as long as the lease lives: nobody can
    /// tell it from one that is used.
    ///
    /// Source: etcd 3.5 `client/v3/concurrency/mutex.go`, `tryAcquire`.
    pub async fn join_by_lease(
        &self,
        value: impl IntoBytes + Send,
    ) -> Result<(Contender, Option<KeyValue>), PrimitiveError> {
        let lease = self.session.lease_id();
        let key = self.keys.key_of_go(lease);
        let put = Put::new(&key, value.into_bytes()).lease(lease);
        let join = Txn::new()
            .when([Compare::absent(&key)])
            .and_then([Op::Put(put), Op::Range(self.keys.last())])
            .or_else([Range::new(&key)]);
        let backend = self.session.backend();
        let sent = async { Ok(patiently(|| backend.txn(join.clone())).await?) };
        let joined = self.session.while_held(sent).await?;
        let (header, created) = (joined.header, joined.header.revision);
        let Some(OpResponse::Range(mut read)) = joined.responses.into_iter().next_back() else {
            unreachable!("a range comes last in either branch");
        };
        if joined.succeeded {
            let place = Place::new(key, created);
            let standing = Standing::read(&self.keys, &place, &read);
            let mut ticket = Ticket::found(self.session.clone(), &place);
            ticket.arm();
            return Ok((Contender::new(self.clone(), ticket, place, header, standing), None));
        }
        let Some(found) = read.kvs.pop() else {
            unreachable!("what is not absent can be read in the same step");
        };
        let looking = Contender::found(self.clone(), Place::of(&found), header);
        Ok((self.session.while_held(looking).await?, Some(found)))
    }

    /// Finds the contender that a former process left in the line on the lease which this session
    /// has adopted: two requests. `None` if there is none. If there are several, the one that came
    /// first. Call it once: a second call finds the same contender again.
    ///
    /// # Errors
    /// `Lost` when the session is; otherwise what the backend answered.
    ///
    /// # Cancel safety
    /// Safe: nothing is changed.
    pub async fn resume(&self) -> Result<Option<Contender>, PrimitiveError> {
        self.session.while_held(self.find()).await
    }

    async fn find(&self) -> Result<Option<Contender>, PrimitiveError> {
        let lease = self.session.lease_id();
        let request = self.keys.of_lease(lease);
        let read = patiently(|| self.session.backend().range(request.clone())).await?;
        // What was created since is not a former process's: a request of it that came late.
        let until = self.session.left_until();
        let is_mine = |kv: &&KeyValue| {
            self.keys.owns(&kv.key) && kv.lease == Some(lease) && kv.create_revision <= until
        };
        let mine = read.kvs.iter().find(is_mine);
        let Some(kv) = mine else { return Ok(None) };
        Ok(Some(Contender::found(self.clone(), Place::of(kv), read.header).await?))
    }
}
