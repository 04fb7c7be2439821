//! Tests of write coalescing, over an inner stream that records writes and accepts them in parts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use proptest::prelude::*;

use super::*;

/// An inner stream that records each write, and has nothing to read.
#[derive(Default)]
struct Recorded {
    writes: Vec<Vec<u8>>,
    /// How many bytes each of the next writes accepts; 0 means that the write returns `Pending`.
    /// Later writes accept everything.
    accepts: VecDeque<usize>,
    is_shut_down: bool,
}

impl AsyncRead for Recorded {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let accepted = self.accepts.pop_front().unwrap_or(buf.len()).min(buf.len());
        if accepted == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.writes.push(buf[..accepted].to_vec());
        Poll::Ready(Ok(accepted))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut_down = true;
        Poll::Ready(Ok(()))
    }
}

/// A waker that counts how many times it is woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A task that writes to a coalescing stream.
struct Writer {
    stream: Coalescing<Recorded>,
    wakes: Arc<Wakes>,
}

impl Writer {
    fn new(accepts: &[usize]) -> Self {
        let accepts = accepts.iter().copied().collect();
        let stream = Coalescing::new(Recorded { accepts, ..Recorded::default() });
        Self { stream, wakes: Arc::default() }
    }

    fn call<T>(
        &mut self,
        call: impl FnOnce(Pin<&mut Coalescing<Recorded>>, &mut Context<'_>) -> T,
    ) -> T {
        let waker = Waker::from(Arc::clone(&self.wakes));
        call(Pin::new(&mut self.stream), &mut Context::from_waker(&waker))
    }

    /// Returns how many bytes were accepted.
    fn write(&mut self, bytes: &[u8]) -> usize {
        match self.call(|stream, cx| stream.poll_write(cx, bytes)) {
            Poll::Ready(written) => written.expect("the inner stream works"),
            Poll::Pending => 0,
        }
    }

    /// Returns whether the flush is done.
    fn flush(&mut self) -> bool {
        match self.call(Coalescing::poll_flush) {
            Poll::Ready(flushed) => flushed.map(|()| true).expect("the inner stream works"),
            Poll::Pending => false,
        }
    }

    /// Whether the task was woken since the last call.
    fn is_woken(&self) -> bool {
        self.wakes.0.swap(0, Ordering::Relaxed) > 0
    }

    /// Polls the flush again after each wake until it is done. Returns the number of polls.
    fn flush_when_woken(&mut self) -> usize {
        for polls in 1..100 {
            if self.flush() {
                return polls;
            }
            assert!(self.is_woken(), "a pending flush wakes the task");
        }
        panic!("the flush is never done");
    }

    fn writes(&self) -> Vec<&str> {
        let writes = self.stream.inner.writes.iter();
        writes.map(|bytes| std::str::from_utf8(bytes).expect("the test writes text")).collect()
    }
}

#[test]
fn frames_of_consecutive_polls_leave_in_one_write() {
    let mut writer = Writer::new(&[]);
    let message = "message ".repeat(MIN_REQUEST_BYTES);
    for frame in ["headers ", &message, "end"] {
        assert_eq!(writer.write(frame.as_bytes()), frame.len());
        assert!(!writer.flush(), "another frame may follow");
        assert!(writer.is_woken());
    }
    assert!(writer.writes().is_empty());
    assert!(writer.flush(), "no frame followed");
    assert_eq!(writer.writes(), [format!("headers {message}end")]);
}

#[test]
fn incomplete_request_waits_four_polls_for_the_rest() {
    for (polls, writes) in [(4, 1), (5, 2)] {
        let mut writer = Writer::new(&[]);
        writer.write(b"ping ");
        for _ in 0..polls {
            writer.flush();
        }
        writer.write(&[b'x'; MIN_REQUEST_BYTES]);
        writer.flush_when_woken();
        assert_eq!(writer.writes().len(), writes, "after {polls} polls");
    }
}

#[test]
fn flush_of_an_empty_buffer_is_done_without_a_wake() {
    let mut writer = Writer::new(&[]);
    assert!(writer.flush() && !writer.is_woken());
    writer.write(b"hello");
    assert_eq!(writer.flush_when_woken(), 5);
    assert!(writer.flush() && !writer.is_woken(), "everything was sent");
}

#[test]
fn flush_that_began_to_send_is_not_deferred_again() {
    let mut writer = Writer::new(&[MIN_REQUEST_BYTES, 0]);
    writer.write(&[b'x'; MIN_REQUEST_BYTES + 1]);
    assert!(!writer.flush(), "deferred");
    assert!(!writer.flush(), "the inner stream accepts no more");
    assert!(writer.flush(), "the rest is short, and is not deferred");
}

#[test]
fn shutdown_sends_the_buffer_first() {
    let mut writer = Writer::new(&[2]);
    writer.write(b"goodbye");
    assert!(writer.call(Coalescing::poll_shutdown).is_ready());
    assert_eq!(writer.writes(), ["go", "odbye"]);
    assert!(writer.stream.inner.is_shut_down);
}

#[test]
fn write_larger_than_the_buffer_is_not_copied() {
    let mut writer = Writer::new(&[]);
    let large = vec![b'x'; MAX_BUFFERED_BYTES + 1];
    writer.write(b"small");
    assert_eq!(writer.write(&large), large.len());
    let sizes: Vec<_> = writer.writes().iter().map(|bytes| bytes.len()).collect();
    assert_eq!(sizes, [5, large.len()]);
    assert!(writer.flush(), "nothing is buffered");
}

#[test]
fn inner_stream_that_accepts_nothing_is_an_error() {
    struct Full;
    impl AsyncWrite for Full {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(0))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    let mut stream = Coalescing::new(Full);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut stream).poll_write(&mut cx, b"hello").is_ready());
    let Poll::Ready(Err(error)) = Pin::new(&mut stream).poll_shutdown(&mut cx) else {
        panic!("the shutdown did not fail")
    };
    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
}

proptest! {
    /// The contract of `AsyncWrite`, for any number of bytes that the inner stream accepts at a
    /// time: bytes keep their order, a finished flush has sent all of them, and a pending flush
    /// wakes the task.
    #[test]
    fn flush_is_done_only_when_everything_was_sent(
        steps in prop::collection::vec((0..3_u8, 1..3 * MAX_BUFFERED_BYTES / 2), 1..20),
        accepts in prop::collection::vec(0..MAX_BUFFERED_BYTES, 0..20),
    ) {
        let mut writer = Writer::new(&accepts);
        let mut accepted = Vec::new();
        for (step, size) in steps {
            if step == 0 {
                let is_done = writer.flush();
                let sent = writer.stream.inner.writes.concat();
                prop_assert!(accepted.starts_with(&sent));
                prop_assert_eq!(is_done, sent == accepted);
                prop_assert_eq!(is_done, !writer.is_woken());
            } else {
                let numbers = accepted.len()..accepted.len() + size;
                let bytes: Vec<u8> = numbers.map(|n| n as u8).collect();
                let written = writer.write(&bytes);
                accepted.extend_from_slice(&bytes[..written]);
                // The inner stream may have woken the task.
                writer.is_woken();
            }
        }
        writer.flush_when_woken();
        prop_assert_eq!(writer.stream.inner.writes.concat(), accepted);
    }
}
