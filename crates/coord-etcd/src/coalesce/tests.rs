//! Who writes, and is polled when it is woken, on a socket that takes what it likes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use proptest::prelude::*;

use super::*;

/// A socket that remembers what it was given, piece by piece, and has nothing to read.
#[derive(Default)]
struct Pieces {
    pieces: Vec<Vec<u8>>,
    /// How much it takes of each piece; then all. Of nothing it takes nothing, for now.
    takes: VecDeque<usize>,
    shut: bool,
}

impl AsyncRead for Pieces {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = self.takes.pop_front().unwrap_or(buf.len()).min(buf.len());
        if taken == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.pieces.push(buf[..taken].to_vec());
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        Poll::Ready(Ok(()))
    }
}

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whoever writes, and is polled when it is woken.
struct Writer {
    socket: Gathering<Pieces>,
    bell: Arc<Bell>,
}

impl Writer {
    fn new(takes: &[usize]) -> Self {
        let takes = takes.iter().copied().collect();
        let socket = Gathering::new(Pieces { takes, ..Pieces::default() });
        Self { socket, bell: Arc::default() }
    }

    fn call<T>(
        &mut self,
        call: impl FnOnce(Pin<&mut Gathering<Pieces>>, &mut Context<'_>) -> T,
    ) -> T {
        let waker = Waker::from(Arc::clone(&self.bell));
        call(Pin::new(&mut self.socket), &mut Context::from_waker(&waker))
    }

    /// Writes what can be written of it.
    fn write(&mut self, what: &[u8]) -> usize {
        match self.call(|socket, cx| socket.poll_write(cx, what)) {
            Poll::Ready(written) => written.expect("the socket works"),
            Poll::Pending => 0,
        }
    }

    fn flush(&mut self) {
        if let Poll::Ready(flushed) = self.call(Gathering::poll_flush) {
            flushed.expect("the socket works");
        }
    }

    fn read(&mut self) {
        let mut space = [0; 8];
        let mut buf = ReadBuf::new(&mut space);
        assert!(self.call(|socket, cx| socket.poll_read(cx, &mut buf)).is_pending());
    }

    /// Whether it has been woken since the last time.
    fn is_woken(&self) -> bool {
        self.bell.0.swap(0, Ordering::Relaxed) > 0
    }

    /// Does `poll` as long as it is woken. How often that was.
    fn run(&mut self, poll: impl Fn(&mut Self)) -> usize {
        (0..100).take_while(|_| self.is_woken().then(|| poll(self)).is_some()).count()
    }

    fn pieces(&self) -> Vec<&str> {
        let pieces = self.socket.socket.pieces.iter();
        pieces.map(|piece| std::str::from_utf8(piece).expect("it was text")).collect()
    }
}

#[test]
fn what_is_written_in_one_poll_and_the_next_leaves_in_one_piece() {
    let mut writer = Writer::new(&[]);
    let message = "message ".repeat(FRAGMENT_BYTES);
    for frame in ["headers ", &message, "end"] {
        assert_eq!(writer.write(frame.as_bytes()), frame.len());
        writer.flush();
        assert!(writer.is_woken(), "to be polled again");
        writer.read();
    }
    assert!(writer.pieces().is_empty(), "it may go on");
    writer.call(|_, cx| cx.waker().wake_by_ref());
    let polls = writer.run(|writer| {
        writer.read();
        writer.flush();
    });
    assert_eq!(writer.pieces(), [format!("headers {message}end")]);
    assert_eq!(polls, 1, "nobody had anything to add");
}

#[test]
fn what_is_no_whole_request_waits_a_little_longer_for_one() {
    for (polls, pieces) in [(3, 1), (4, 2)] {
        let mut writer = Writer::new(&[]);
        writer.write(b"ping ");
        writer.flush();
        for _ in 0..polls {
            writer.read();
            writer.flush();
        }
        writer.write(&[b'x'; FRAGMENT_BYTES]);
        writer.flush();
        writer.run(Writer::flush);
        assert_eq!(writer.pieces().len(), pieces, "after {polls} polls in vain");
    }
}

#[test]
fn what_is_written_and_flushed_once_is_sent_though_nobody_flushes_again() {
    let mut writer = Writer::new(&[]);
    writer.write(b"hello");
    writer.flush();
    writer.read();
    assert_eq!(writer.run(Writer::read), 1);
    assert_eq!(writer.pieces(), ["hello"], "a TLS handshake reads, and no more");
}

#[test]
fn nobody_is_polled_for_nothing() {
    let mut writer = Writer::new(&[]);
    writer.flush();
    writer.read();
    assert!(!writer.is_woken());
    writer.write(b"hello");
    writer.flush();
    writer.run(Writer::flush);
    writer.flush();
    writer.read();
    assert!(!writer.is_woken(), "all is sent");
}

#[test]
fn what_is_kept_is_sent_before_the_socket_is_shut() {
    let mut writer = Writer::new(&[2]);
    writer.write(b"goodbye");
    assert!(writer.call(Gathering::poll_shutdown).is_ready());
    assert_eq!(writer.pieces(), ["go", "odbye"]);
    assert!(writer.socket.socket.shut);
}

#[test]
fn what_is_larger_than_is_kept_is_not_copied() {
    let mut writer = Writer::new(&[]);
    let large = vec![b'x'; KEPT_BYTES + 1];
    writer.write(b"small");
    assert_eq!(writer.write(&large), large.len());
    assert_eq!(
        writer.pieces().iter().map(|piece| piece.len()).collect::<Vec<_>>(),
        [5, large.len()]
    );
}

#[test]
fn socket_that_takes_nothing_more_is_an_error_as_ever() {
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
    let mut socket = Gathering::new(Full);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut socket).poll_write(&mut cx, b"hello").is_ready());
    let Poll::Ready(Err(error)) = Pin::new(&mut socket).poll_shutdown(&mut cx) else {
        panic!("it was not sent")
    };
    assert_eq!(error.kind(), io::ErrorKind::WriteZero);
}

proptest! {
    /// However it is written, flushed and read, and however little the socket takes at a time.
    #[test]
    fn everything_is_sent_in_order(
        steps in prop::collection::vec((0..4_u8, 1..3 * KEPT_BYTES / 2), 1..20),
        takes in prop::collection::vec(0..KEPT_BYTES, 0..20),
        reads_only in any::<bool>(),
    ) {
        let mut writer = Writer::new(&takes);
        let mut wanted = Vec::new();
        for (step, size) in steps {
            match step {
                0 => writer.read(),
                1 => writer.flush(),
                _ => {
                    let numbers = wanted.len()..wanted.len() + size;
                    let what: Vec<u8> = numbers.map(|n| n as u8).collect();
                    let written = writer.write(&what);
                    wanted.extend_from_slice(&what[..written]);
                }
            }
        }
        writer.flush();
        writer.call(|_, cx| cx.waker().wake_by_ref());
        writer.run(if reads_only { Writer::read } else { Writer::flush });
        prop_assert_eq!(writer.socket.socket.pieces.concat(), wanted);
    }
}
