//! A run of a scenario: a raw client that records the transcript.

use std::fmt::Debug;
use std::ops::Deref;

use coord_etcd_tests::RawClient;
use coord_etcd_tests::raw_client::rejection;
use coord_etcd_tests::test_server::mask_server_ids;
use tonic::Status;

pub(crate) use coord_etcd_tests::raw_client::{RawStream, RawWatchStream};

/// Longer lines are truncated, and their length is recorded.
const MAX_LINE_BYTES: usize = 4_000;

/// One run of a scenario.
pub(crate) struct ScenarioRun {
    client: RawClient,
    /// The label and the text of each line.
    lines: Vec<(String, String)>,
}

impl Deref for ScenarioRun {
    type Target = RawClient;

    fn deref(&self) -> &RawClient {
        &self.client
    }
}

impl ScenarioRun {
    pub(crate) async fn connect(endpoint: &str) -> Self {
        Self { client: RawClient::connect(endpoint).await, lines: Vec::new() }
    }

    /// The label and the text of each line.
    pub(crate) fn transcript(self) -> Vec<(String, String)> {
        self.lines
    }

    /// Records a line with the label `what`.
    pub(crate) fn note(&mut self, what: &str, value: impl Debug) {
        let mut text = mask_server_ids(format!("{value:?}"));
        if text.len() > MAX_LINE_BYTES {
            text = format!("{}… of {}", &text[..200], text.len());
        }
        self.lines.push((what.to_owned(), text));
    }

    /// Records the result of a call.
    pub(crate) fn record<A: Debug>(
        &mut self,
        what: &str,
        response: Result<A, Status>,
    ) -> Option<A> {
        match response {
            Ok(response) => {
                self.note(what, &response);
                Some(response)
            }
            Err(status) => {
                self.note(what, rejection(&status));
                None
            }
        }
    }

    /// Makes a unary call, and records its result.
    pub(crate) async fn call<Q, A>(
        &mut self,
        what: &str,
        path: &'static str,
        request: Q,
    ) -> Option<A>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Debug + Default + 'static,
    {
        let response = self.unary(path, request).await;
        self.record(what, response)
    }

    /// Records the next `count` messages of a stream as one line, sorted.
    pub(crate) async fn next_in_any_order<Q, A>(
        &mut self,
        what: &str,
        stream: &mut RawStream<Q, A>,
        count: usize,
    ) where
        A: Debug + 'static,
    {
        let mut lines = Vec::new();
        for _ in 0..count {
            let next = stream.next().await.unwrap_or_else(|| panic!("{what}: {lines:?}"));
            lines.push(mask_server_ids(format!("{next:?}")));
        }
        lines.sort();
        self.note(what, lines);
    }

    /// Records the next message of a stream.
    pub(crate) async fn next<Q, A>(&mut self, what: &str, stream: &mut RawStream<Q, A>) -> Option<A>
    where
        A: Debug + 'static,
    {
        let next = stream.next().await.unwrap_or_else(|| panic!("{what}: no message"));
        match next {
            Ok(Some(message)) => {
                self.note(what, &message);
                Some(message)
            }
            Ok(None) => {
                self.note(what, "end of the stream");
                None
            }
            Err(status) => {
                self.note(what, rejection(&status));
                None
            }
        }
    }
}
