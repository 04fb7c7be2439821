//! Write coalescing: a stream that sends small consecutive writes in one packet.
//!
//! A gRPC request is up to three HTTP/2 frames (headers, message, end of stream), and h2 flushes
//! each before hyper has produced the next one. etcd sends a ping with its responses, and h2
//! flushes the acknowledgement too. Without coalescing that is up to four packets per request, and
//! each packet wakes the member. [`Coalescing`] buffers writes and defers the flush: it returns
//! `Pending`, wakes the task, and sends when the task polls again without having written more. The
//! flush of a buffer without a complete request is deferred up to four times.
//!
//! ```text
//! poll   written    poll_flush       buffered afterwards
//!    1   ping ack   Pending, woken   ping ack
//!    2   -          Pending, woken   ping ack
//!    3   headers    Pending, woken   ping ack, headers
//!    4   message    Pending, woken   ping ack, headers, message
//!    5   -          Ready            nothing: one packet was sent
//! ```
//!
//! Between two polls the runtime runs the other ready tasks, among them the task that produces the
//! next frame. A poll costs about a microsecond and a packet more than ten. No timer is involved:
//! if no other task is ready, the next poll follows at once.
//!
//! [`Coalescing`] keeps the contract of [`AsyncWrite`]: `poll_flush` returns `Ready` only after
//! every byte was written to the inner stream and that stream was flushed. It wraps the encrypted
//! stream if there is TLS, so that h2 is its only user, and all buffered writes are one TLS record.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(test)]
mod tests;

/// A buffer with fewer bytes counts as an incomplete request. It usually holds headers, whose
/// message follows soon, or the acknowledgement of a ping, which can wait for the next request.
const MIN_REQUEST_BYTES: usize = 64;

/// How many times a flush is deferred while the buffer holds no complete request.
const MAX_DEFERRALS_OF_FRAGMENT: u8 = 4;

/// How many times a flush is deferred while the buffer may hold a complete request.
const MAX_DEFERRALS_OF_REQUEST: u8 = 1;

/// The size of the buffer, about what fits into one packet. The limit keeps concurrent requests
/// from waiting for each other.
const MAX_BUFFERED_BYTES: usize = 1_400;

/// A byte stream whose small writes are coalesced.
#[derive(Debug)]
pub(crate) struct Coalescing<S> {
    inner: S,
    buffered: BytesMut,
    /// How many times the flush was deferred since the last write.
    deferrals: u8,
}

impl<S> Coalescing<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, buffered: BytesMut::new(), deferrals: 0 }
    }

    /// Whether to wait for another write before the buffer is sent.
    fn defers_flush(&self) -> bool {
        let max = match self.buffered.len() {
            0 => 0,
            1..MIN_REQUEST_BYTES => MAX_DEFERRALS_OF_FRAGMENT,
            _ => MAX_DEFERRALS_OF_REQUEST,
        };
        self.deferrals < max
    }
}

impl<S: AsyncWrite + Unpin> Coalescing<S> {
    /// Writes the buffer to the inner stream.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffered.is_empty() {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.buffered))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffered.advance(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalescing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalescing<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.buffered.len() + buf.len() > MAX_BUFFERED_BYTES {
            ready!(self.poll_send(cx))?;
            if buf.len() > MAX_BUFFERED_BYTES {
                return Pin::new(&mut self.inner).poll_write(cx, buf);
            }
        }
        self.buffered.extend_from_slice(buf);
        self.deferrals = 0;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.defers_flush() {
            self.deferrals += 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // The flush is not deferred again before the next write, even if it sends only a part.
        self.deferrals = u8::MAX;
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
