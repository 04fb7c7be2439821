//! A server under test with two watch streams. Barriers detect when all messages of a step have
//! arrived. The same scenario runs on etcd and on coord's server, and the transcripts of the two
//! are compared.
//!
//! After the requests of a step, a watch of a sentinel key is created on each stream: when it is
//! confirmed, the responses to the earlier requests have arrived. After the changes of a step, the
//! sentinel key is put: when its event arrives, the events of the changes have arrived, because a
//! stream has one queue for events. The history of a watch that starts at an earlier revision comes
//! from etcd's catch-up loop, which serves all waiting watches together, ten times a second. So
//! another watch, the canary, is created on a stream of its own: when it has received its history,
//! the other watches have received theirs:
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

use super::scenario::{
    BARRIER_WATCH_ID, Change, Keys, LARGE_VALUE_BYTES, Op, PUT_MANY_COUNT, Put, SENTINEL_KEY,
};
use super::transcript::Transcript;
use crate::create_watch;
use crate::raw_client::{RawClient, RawWatchStream, rejection};
use crate::test_server::mask_server_ids;

/// The time limit for a message of coord's server that etcd has already sent.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(3);

/// The number of streams.
pub(super) const STREAMS: usize = 2;

/// A server under test and its streams.
pub(super) struct TestedServer {
    client: RawClient,
    streams: Vec<RawWatchStream>,
    canary: RawWatchStream,
    /// The transcript of each stream in the current step.
    pub(super) transcripts: Vec<Transcript>,
    /// The revision of the store at the last barrier.
    pub(super) now: i64,
    /// The revision at which the server loses deletions, if any.
    pub(super) lost_deletions_at: Option<i64>,
}

impl TestedServer {
    pub(super) async fn connect(endpoint: &str) -> Self {
        let client = RawClient::connect(endpoint).await;
        let canary = client.watch().await;
        let transcripts = vec![Transcript::default(); STREAMS];
        Self { client, streams: Vec::new(), canary, transcripts, now: 0, lost_deletions_at: None }
    }

    /// Prepares a scenario: opens new streams, deletes all keys and grants two leases.
    pub(super) async fn begin(&mut self) -> Result<(), String> {
        self.streams.clear();
        for _ in 0..STREAMS {
            self.streams.push(self.client.watch().await);
        }
        self.change(&Change::Delete(Keys("\0", "\0"))).await;
        for lease in 1..3 {
            self.change(&Change::Revoke(lease)).await;
            self.change(&Change::Grant(lease)).await;
        }
        self.settle(false).await?;
        self.transcripts.fill(Transcript::default());
        Ok(())
    }

    pub(super) fn stream(&self, stream: usize) -> &RawWatchStream {
        &self.streams[stream]
    }

    /// Waits until all messages have arrived. With `has_history`, waits for the history too.
    pub(super) async fn settle(&mut self, has_history: bool) -> Result<(), String> {
        for stream in 0..STREAMS {
            self.streams[stream]
                .send_request(create_watch!(SENTINEL_KEY, watch_id: BARRIER_WATCH_ID));
            self.receive_until(stream, |message| message.created).await?;
        }
        if has_history {
            self.canary.send_request(
                create_watch!(SENTINEL_KEY, watch_id: BARRIER_WATCH_ID, start_revision: self.now),
            );
            for _ in ["created", "event"] {
                next(&mut self.canary).await?;
            }
            self.canary.cancel(BARRIER_WATCH_ID);
            next(&mut self.canary).await?;
        }
        let put = PbPutRequest { key: SENTINEL_KEY.into(), ..PbPutRequest::default() };
        let put: Result<PbPutResponse, _> = self.client.unary("/etcdserverpb.KV/Put", put).await;
        let put = put.map_err(|status| rejection(&status))?;
        self.now = put.header.map_or(0, |header| header.revision);
        for stream in 0..STREAMS {
            self.receive_until(stream, |message| !message.events.is_empty()).await?;
            self.streams[stream].cancel(BARRIER_WATCH_ID);
            self.receive_until(stream, |message| message.canceled).await?;
        }
        Ok(())
    }

    /// Waits until a watch is confirmed or refused.
    pub(super) async fn receive_confirmation(&mut self, stream: usize) -> Result<(), String> {
        while self.transcripts[stream].responses.is_empty() {
            let message = next(&mut self.streams[stream]).await?;
            self.transcripts[stream].add(message, self.lost_deletions_at);
        }
        Ok(())
    }

    /// Waits until each stream has at least the messages of `others`, up to [`CATCH_UP_TIMEOUT`]
    /// for each message.
    pub(super) async fn catch_up(&mut self, others: &[Transcript]) -> Result<(), String> {
        for (stream, other) in others.iter().enumerate() {
            while !self.transcripts[stream].covers(other) {
                match self.streams[stream].next_within(CATCH_UP_TIMEOUT).await {
                    Some(message) => {
                        self.transcripts[stream].add(message_of(message)?, self.lost_deletions_at);
                    }
                    // The comparison reports the missing messages.
                    None => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// Adds messages to the transcript until the expected message of the barrier arrives.
    async fn receive_until(
        &mut self,
        stream: usize,
        is_expected: impl Fn(&PbWatchResponse) -> bool,
    ) -> Result<(), String> {
        loop {
            let message = next(&mut self.streams[stream]).await?;
            if message.watch_id != BARRIER_WATCH_ID {
                self.transcripts[stream].add(message, self.lost_deletions_at);
            } else if is_expected(&message) {
                return Ok(());
            } else {
                return Err(format!("the barrier received {message:?}"));
            }
        }
    }

    /// Compacts. Returns whether the request succeeded, and its response.
    pub(super) async fn compact(&self, revision: i64) -> (bool, String) {
        // `physical` waits for the compaction. Otherwise the remaining history depends on timing.
        let request = PbCompactionRequest { revision, physical: true };
        let response: Result<PbCompactionResponse, _> =
            self.client.unary("/etcdserverpb.KV/Compact", request).await;
        (response.is_ok(), describe_response(response))
    }

    /// Applies a change, and returns the response.
    pub(super) async fn change(&self, change: &Change) -> String {
        let client = &self.client;
        match change {
            Change::Put(one) => describe_response::<PbPutResponse>(
                client.unary("/etcdserverpb.KV/Put", put(one)).await,
            ),
            Change::Delete(keys) => {
                let response = client.unary("/etcdserverpb.KV/DeleteRange", delete(*keys)).await;
                describe_response::<PbDeleteResponse>(response)
            }
            Change::Txn(ops) => {
                let response = client.unary("/etcdserverpb.KV/Txn", txn(ops.iter().map(op))).await;
                describe_response::<PbTxnResponse>(response)
            }
            Change::Grant(id) => {
                let request = PbLeaseGrantRequest { id: *id, ttl: 1_000 };
                let response = client.unary("/etcdserverpb.Lease/LeaseGrant", request).await;
                describe_response::<PbLeaseGrantResponse>(response)
            }
            Change::Revoke(id) => {
                let request = PbLeaseRevokeRequest { id: *id };
                let response = client.unary("/etcdserverpb.Lease/LeaseRevoke", request).await;
                describe_response::<PbLeaseRevokeResponse>(response)
            }
            Change::PutMany => {
                let mut responses = Vec::new();
                for n in 0..PUT_MANY_COUNT {
                    let key = format!("a{n:02}").into_bytes();
                    let value = vec![b'x'; LARGE_VALUE_BYTES];
                    let put = PbPutRequest { key, value, ..PbPutRequest::default() };
                    let response = client.unary("/etcdserverpb.KV/Put", put).await;
                    responses.push(describe_response::<PbPutResponse>(response));
                }
                responses.join(", ")
            }
        }
    }
}

fn describe_response<A: std::fmt::Debug>(response: Result<A, Status>) -> String {
    match response {
        Ok(response) => mask_server_ids(format!("{response:?}")),
        Err(status) => rejection(&status),
    }
}

/// The next message. The end of the stream, or no message in time, is an error.
async fn next(stream: &mut RawWatchStream) -> Result<PbWatchResponse, String> {
    message_of(stream.next().await.ok_or("a stream sent no message in time")?)
}

fn message_of(message: Result<Option<PbWatchResponse>, Status>) -> Result<PbWatchResponse, String> {
    let message = message.map_err(|status| format!("a stream broke: {}", rejection(&status)))?;
    message.ok_or_else(|| "a stream ended".to_owned())
}

fn put(put: &Put) -> PbPutRequest {
    let value = vec![put.value; if put.large { LARGE_VALUE_BYTES } else { 1 }];
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
        Op::PutAndDelete(key) => {
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
