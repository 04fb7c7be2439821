//! One server, two watch streams on it, and how to know that they have said everything.
//!
//! A watch of a key that nobody else puts is created behind all that a step said: when that is
//! answered, so is everything before it. Then the key is put, behind all that the step did: when
//! that event comes, etcd has said whatever it has to say of changes, for a stream has one queue
//! for events. Not so what had happened before a watch was created: that comes from a loop, which
//! takes all who wait at once, ten times a second. So one more watch is created behind them, on a
//! stream of its own, and when that one has been told of the past, they have:
//!
//! ```text
//! stream   create 0, from 3   create B                              3 4 5           9   cancel B
//! canary                                created   create, from 8    8
//! store                                                                   put @9
//! ```

use std::time::Duration;

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse,
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse,
    PbPutRequest, PbPutResponse, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp, PbTxnResponse,
    PbWatchResponse,
};
use tonic::Status;

use super::heard::Heard;
use super::script::{BARRIER, Change, Keys, LARGE, MANY, Op, Put, SENTINEL};
use crate::bare::{Bare, WatchTalk, refusal};
use crate::create;
use crate::serve::masked;

/// How long something may take that etcd has said, and we have not yet.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many streams there are.
pub(super) const STREAMS: usize = 2;

/// One server, and what is said to it.
pub(super) struct Side {
    bare: Bare,
    talks: Vec<WatchTalk>,
    canary: WatchTalk,
    /// What each stream has said in this step.
    pub(super) heard: Vec<Heard>,
    /// Where the store is: at the last barrier.
    pub(super) now: i64,
    /// At which revision it loses deletions, if it does.
    pub(super) lost: Option<i64>,
}

impl Side {
    pub(super) async fn at(endpoint: &str) -> Self {
        let bare = Bare::at(endpoint).await;
        let canary = bare.watch().await;
        let heard = vec![Heard::default(); STREAMS];
        Self { bare, talks: Vec::new(), canary, heard, now: 0, lost: None }
    }

    /// Without keys, with two leases and with new streams.
    pub(super) async fn begin(&mut self) -> Result<(), String> {
        self.talks.clear();
        for _ in 0..STREAMS {
            self.talks.push(self.bare.watch().await);
        }
        self.change(&Change::Delete(Keys("\0", "\0"))).await;
        for lease in 1..3 {
            self.change(&Change::Revoke(lease)).await;
            self.change(&Change::Grant(lease)).await;
        }
        self.settle(false).await?;
        self.heard.fill(Heard::default());
        Ok(())
    }

    pub(super) fn talk(&self, stream: usize) -> &WatchTalk {
        &self.talks[stream]
    }

    /// Waits until everything is said; the past is, if there is a `past`.
    pub(super) async fn settle(&mut self, past: bool) -> Result<(), String> {
        for stream in 0..STREAMS {
            self.talks[stream].union(create!(SENTINEL, watch_id: BARRIER));
            self.hear_until(stream, |message| message.created).await?;
        }
        if past {
            self.canary.union(create!(SENTINEL, watch_id: BARRIER, start_revision: self.now));
            for _ in ["created", "event"] {
                next(&mut self.canary).await?;
            }
            self.canary.cancel(BARRIER);
            next(&mut self.canary).await?;
        }
        let put = PbPutRequest { key: SENTINEL.into(), ..PbPutRequest::default() };
        let put: Result<PbPutResponse, _> = self.bare.ask("/etcdserverpb.KV/Put", put).await;
        let put = put.map_err(|status| refusal(&status))?;
        self.now = put.header.map_or(0, |header| header.revision);
        for stream in 0..STREAMS {
            self.hear_until(stream, |message| !message.events.is_empty()).await?;
            self.talks[stream].cancel(BARRIER);
            self.hear_until(stream, |message| message.canceled).await?;
        }
        Ok(())
    }

    /// Waits until a watch is created, or refused.
    pub(super) async fn hear_answer(&mut self, stream: usize) -> Result<(), String> {
        while self.heard[stream].answers.is_empty() {
            let message = next(&mut self.talks[stream]).await?;
            self.heard[stream].take(message, self.lost);
        }
        Ok(())
    }

    /// Waits until everything is said that `others` have said, or for a long time.
    pub(super) async fn catch_up(&mut self, others: &[Heard]) -> Result<(), String> {
        for (stream, other) in others.iter().enumerate() {
            while !self.heard[stream].covers(other) {
                match self.talks[stream].next_within(PATIENCE).await {
                    Some(message) => self.heard[stream].take(lives(message)?, self.lost),
                    // What is missing is a difference.
                    None => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// Takes down what comes until this message for the barrier does.
    async fn hear_until(
        &mut self,
        stream: usize,
        is_it: impl Fn(&PbWatchResponse) -> bool,
    ) -> Result<(), String> {
        loop {
            let message = next(&mut self.talks[stream]).await?;
            if message.watch_id != BARRIER {
                self.heard[stream].take(message, self.lost);
            } else if is_it(&message) {
                return Ok(());
            } else {
                return Err(format!("the barrier was told {message:?}"));
            }
        }
    }

    /// Compacts, and tells whether it did.
    pub(super) async fn compact(&self, revision: i64) -> (bool, String) {
        // Where it is not waited for, what is left of the past is a matter of time.
        let request = PbCompactionRequest { revision, physical: true };
        let answer: Result<PbCompactionResponse, _> =
            self.bare.ask("/etcdserverpb.KV/Compact", request).await;
        (answer.is_ok(), told(answer))
    }

    /// What is answered to a change.
    pub(super) async fn change(&self, change: &Change) -> String {
        let bare = &self.bare;
        match change {
            Change::Put(one) => {
                told::<PbPutResponse>(bare.ask("/etcdserverpb.KV/Put", put(one)).await)
            }
            Change::Delete(keys) => {
                let answer = bare.ask("/etcdserverpb.KV/DeleteRange", delete(*keys)).await;
                told::<PbDeleteResponse>(answer)
            }
            Change::Txn(ops) => {
                let answer = bare.ask("/etcdserverpb.KV/Txn", txn(ops.iter().map(op))).await;
                told::<PbTxnResponse>(answer)
            }
            Change::Grant(id) => {
                let request = PbLeaseGrantRequest { id: *id, ttl: 1_000 };
                let answer = bare.ask("/etcdserverpb.Lease/LeaseGrant", request).await;
                told::<PbLeaseGrantResponse>(answer)
            }
            Change::Revoke(id) => {
                let request = PbLeaseRevokeRequest { id: *id };
                let answer = bare.ask("/etcdserverpb.Lease/LeaseRevoke", request).await;
                told::<PbLeaseRevokeResponse>(answer)
            }
            Change::PutMany => {
                let mut answers = Vec::new();
                for n in 0..MANY {
                    let key = format!("a{n:02}").into_bytes();
                    let value = vec![b'x'; LARGE];
                    let put = PbPutRequest { key, value, ..PbPutRequest::default() };
                    let answer = bare.ask("/etcdserverpb.KV/Put", put).await;
                    answers.push(told::<PbPutResponse>(answer));
                }
                answers.join(", ")
            }
        }
    }
}

fn told<A: std::fmt::Debug>(answer: Result<A, Status>) -> String {
    match answer {
        Ok(answer) => masked(format!("{answer:?}")),
        Err(status) => refusal(&status),
    }
}

/// The next message. That none comes is a difference like others.
async fn next(talk: &mut WatchTalk) -> Result<PbWatchResponse, String> {
    lives(talk.next().await.ok_or("a stream fell silent")?)
}

fn lives(message: Result<Option<PbWatchResponse>, Status>) -> Result<PbWatchResponse, String> {
    let message = message.map_err(|status| format!("a stream broke: {}", refusal(&status)))?;
    message.ok_or_else(|| "a stream ended".to_owned())
}

fn put(put: &Put) -> PbPutRequest {
    let value = vec![put.value; if put.large { LARGE } else { 1 }];
    PbPutRequest { key: put.key.into(), value, lease: put.lease, ..PbPutRequest::default() }
}

fn delete(Keys(key, end): Keys) -> PbDeleteRequest {
    PbDeleteRequest { key: key.into(), range_end: end.into(), prev_kv: false }
}

fn txn(success: impl IntoIterator<Item = PbTxnOpRequest>) -> PbTxnRequest {
    let op = |request| PbTxnRequestOp { request: Some(request) };
    let success = success.into_iter().map(op).collect();
    PbTxnRequest { success, ..PbTxnRequest::default() }
}

fn op(op: &Op) -> PbTxnOpRequest {
    match op {
        Op::Put(one) => PbTxnOpRequest::RequestPut(put(one)),
        Op::Delete(keys) => PbTxnOpRequest::RequestDeleteRange(delete(*keys)),
        Op::Flash(key) => {
            let put = PbPutRequest { key: (*key).into(), ..PbPutRequest::default() };
            let steps = [
                PbTxnOpRequest::RequestPut(put),
                PbTxnOpRequest::RequestDeleteRange(delete(Keys(key, ""))),
            ];
            let nested = steps.map(|step| PbTxnOpRequest::RequestTxn(txn([step])));
            PbTxnOpRequest::RequestTxn(txn(nested))
        }
    }
}
