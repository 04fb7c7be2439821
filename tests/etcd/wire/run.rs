//! A transcript of what bare gRPC brings.

use std::fmt::Debug;
use std::ops::Deref;

use coord_etcd_tests::Bare;
use coord_etcd_tests::bare::refusal;
use coord_etcd_tests::serve::masked;
use tonic::Status;

pub(crate) use coord_etcd_tests::bare::{Talk, WatchTalk};

/// Lines beyond this are cut: what matters of a megabyte is how long it is.
const MAX_LINE: usize = 4_000;

/// One play of a scene.
pub(crate) struct Play {
    bare: Bare,
    lines: Vec<(String, String)>,
}

impl Deref for Play {
    type Target = Bare;

    fn deref(&self) -> &Bare {
        &self.bare
    }
}

impl Play {
    pub(crate) async fn at(endpoint: &str) -> Self {
        Self { bare: Bare::at(endpoint).await, lines: Vec::new() }
    }

    pub(crate) fn transcript(self) -> Vec<(String, String)> {
        self.lines
    }

    /// Writes a line.
    pub(crate) fn note(&mut self, what: &str, answer: impl Debug) {
        let mut text = masked(format!("{answer:?}"));
        if text.len() > MAX_LINE {
            text = format!("{}… of {}", &text[..200], text.len());
        }
        self.lines.push((what.to_owned(), text));
    }

    /// Writes down how a call ended.
    pub(crate) fn told<A: Debug>(&mut self, what: &str, answer: Result<A, Status>) -> Option<A> {
        match answer {
            Ok(answer) => {
                self.note(what, &answer);
                Some(answer)
            }
            Err(status) => {
                self.note(what, refusal(&status));
                None
            }
        }
    }

    /// One message, answered with one, which is written down.
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
        let answer = self.ask(path, request).await;
        self.told(what, answer)
    }

    /// So many messages of a stream, written down as one.
    pub(crate) async fn next_in_any_order<Q, A>(
        &mut self,
        what: &str,
        talk: &mut Talk<Q, A>,
        count: usize,
    ) where
        A: Debug + 'static,
    {
        let mut lines = Vec::new();
        for _ in 0..count {
            let next = talk.next().await.unwrap_or_else(|| panic!("{what}: {lines:?}"));
            lines.push(masked(format!("{next:?}")));
        }
        lines.sort();
        self.note(what, lines);
    }

    /// The next message of a stream, written down.
    pub(crate) async fn next<Q, A>(&mut self, what: &str, talk: &mut Talk<Q, A>) -> Option<A>
    where
        A: Debug + 'static,
    {
        let next = talk.next().await.unwrap_or_else(|| panic!("{what}: nothing came"));
        match next {
            Ok(Some(message)) => {
                self.note(what, &message);
                Some(message)
            }
            Ok(None) => {
                self.note(what, "the end");
                None
            }
            Err(status) => {
                self.note(what, refusal(&status));
                None
            }
        }
    }
}
