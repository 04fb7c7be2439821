//! A socket that sends in one piece what is written within a moment.
//!
//! A request is three frames: headers, message, end. h2 flushes each before the next is made, and
//! the answer to the ping that etcd sends with each of its own comes before: up to four packets,
//! each of which wakes the member. For requests as short as a lock's that is a good part of what
//! they cost at either end. So what is written here is kept until whoever writes has been polled
//! once more and had nothing to add; or a few times more, while it is no whole request.
//!
//! ```text
//! poll   written            kept
//!    1   ping, flushed      ping
//!    2   flushed            ping
//!    3   headers, flushed   ping, headers
//!    4   message, flushed   ping, headers, message
//!    5   flushed            nothing: all are sent
//! ```
//!
//! In between runs whatever else the runtime has to do, the making of the next frame above all. A
//! poll takes a microsecond, and if nothing else is to be done the next comes at once.
//!
//! A flush says here that it is done before it is. It can, because it has whoever asked woken, who
//! then flushes again: that is how h2 begins and ends each poll. Whoever does not, as a TLS
//! handshake, at least reads, and what is kept when a second read finds nothing is sent as well.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(test)]
mod tests;

/// What is shorter is no whole request: headers whose message is due, or the answer to a ping, for
/// which nobody waits, and which may leave with the next request.
const FRAGMENT_BYTES: usize = 64;

/// How much is kept: about what fits into a packet. Where many requests are made at once they would
/// otherwise wait for each other.
const KEPT_BYTES: usize = 1_400;

/// A socket whose short writes are gathered.
#[derive(Debug)]
pub(crate) struct Gathering<S> {
    socket: S,
    kept: BytesMut,
    /// How many flushes were put off since the last write.
    idle: u8,
    /// Whether there was a flush since the last read.
    flushed: bool,
}

impl<S> Gathering<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self { socket, kept: BytesMut::new(), idle: 0, flushed: false }
    }

    /// How often whoever writes is polled in vain before what is kept is sent.
    fn idle_polls(&self) -> u8 {
        match self.kept.len() {
            0 => 0,
            1..FRAGMENT_BYTES => 4,
            _ => 1,
        }
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.kept))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.kept.advance(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if read.is_pending() && !self.kept.is_empty() {
            if std::mem::take(&mut self.flushed) {
                cx.waker().wake_by_ref();
            } else if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.kept.len() + buf.len() > KEPT_BYTES {
            ready!(self.poll_send(cx))?;
            if buf.len() > KEPT_BYTES {
                return Pin::new(&mut self.socket).poll_write(cx, buf);
            }
        }
        self.kept.extend_from_slice(buf);
        self.idle = 0;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.idle < self.idle_polls() {
            self.idle += 1;
            self.flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
