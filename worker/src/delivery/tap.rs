//! A tap on the connection, between hyper and the socket: it records the exchange, and filters out
//! interim (1xx) responses.
//!
//! hyper gives no status for an answer whose head it cannot parse, or whose head does not end in
//! time. The status line decides an attempt, so the tap keeps it. It also knows what hyper does not
//! tell: whether any byte of a request has gone out, and whether any of an answer has come.
//!
//! hyper fails at an interim head that it cannot parse, and would not read the final one. The tap
//! gives it none of them, nor the empty lines before a status line.

mod head;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use hyper::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use head::Head;

use super::detail::is_closed;

/// What one exchange has seen so far. Clones share it.
#[derive(Clone, Default)]
pub(super) struct ExchangeState(Arc<Mutex<Exchange>>);

#[derive(Default)]
struct Exchange {
    sent: bool,
    head: Head,
}

impl ExchangeState {
    /// Forgets the last exchange on the connection; the next one begins.
    pub(super) fn begin(&self) {
        *self.lock() = Exchange::default();
    }

    /// The final status, once its status line has come.
    pub(super) fn status(&self) -> Option<StatusCode> {
        StatusCode::from_u16(self.lock().head.status()?).ok()
    }

    /// Whether part of the request has gone out.
    pub(super) fn sent(&self) -> bool {
        self.lock().sent
    }

    /// Whether part of an answer has come. Empty lines before it are none.
    pub(super) fn received(&self) -> bool {
        self.lock().head.has_begun()
    }

    /// Whether the message framing is ambiguous: parsers may disagree on where the answer ends
    /// (response desynchronisation).
    pub(super) fn is_ambiguous(&self) -> bool {
        self.lock().head.is_ambiguous()
    }

    /// Whether the answer has more interim (1xx) heads than are followed.
    pub(super) fn is_endless(&self) -> bool {
        self.lock().head.is_endless()
    }

    fn lock(&self) -> MutexGuard<'_, Exchange> {
        // Nothing under this lock can panic halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that records what passes through it.
pub(super) struct TappedStream<T> {
    io: T,
    state: ExchangeState,
    /// Bytes that were read and not given to hyper: an undecided beginning of a status line, or
    /// what follows bytes that were skipped.
    held: BytesMut,
    /// The error of a write after which the peer takes no more bytes. Returned at the end of what
    /// it has sent.
    write_error: Option<io::Error>,
}

impl<T> TappedStream<T> {
    pub(super) fn new(io: T, state: ExchangeState) -> Self {
        Self {
            io,
            state,
            held: BytesMut::new(),
            write_error: None,
        }
    }

    /// Fills `buf` with held bytes. False if there are none for hyper.
    fn give_held(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.held.is_empty() || self.state.lock().head.is_undecided() {
            return false;
        }
        let given = self.held.len().min(buf.remaining());
        buf.put_slice(&self.held[..given]);
        self.held.advance(given);
        true
    }

    /// Follows the bytes that were read, `buf`'s from `before` on. Leaves them there if they are
    /// for hyper, which is so unless there is an interim head or the status line is cut. Otherwise
    /// takes them out, and holds those that are not skipped. True if they were left.
    fn follow(&mut self, buf: &mut ReadBuf<'_>, before: usize) -> io::Result<bool> {
        let mut exchange = self.state.lock();
        let read = &buf.filled()[before..];
        let skipped = exchange.head.read(read);
        if exchange.head.is_endless() {
            return Err(io::Error::other(
                "more than 16 interim (1xx) responses, or more than 64 KiB of them",
            ));
        }
        let all_for_hyper = skipped == 0 && self.held.is_empty() && !exchange.head.is_undecided();
        // Before the request, hyper closes the connection at any byte.
        if all_for_hyper || !exchange.sent {
            return Ok(true);
        }
        if skipped > 0 {
            self.held.clear(); // it was the beginning of an interim head
        }
        self.held.extend_from_slice(&read[skipped..]);
        buf.set_filled(before);
        Ok(false)
    }

    /// Holds back the error of a peer that takes no more bytes, because it may have answered before
    /// it closed, or have sent a TLS alert; hyper would not read any more. The end of the
    /// connection, which follows what the peer has sent, brings the error.
    fn wrote(&mut self, written: io::Result<usize>, length: usize) -> io::Result<usize> {
        match written {
            Ok(written) => {
                if written > 0 {
                    self.state.lock().sent = true;
                }
                Ok(written)
            }
            Err(error) if is_closed(&error) => {
                self.write_error = Some(error);
                Ok(length)
            }
            Err(error) => Err(error),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for TappedStream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        // To hyper, a read of nothing is the end of the connection, so this goes on while
        // everything is skipped or held. The bytes before a final head are bounded.
        while !this.give_held(buf) {
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            if buf.filled().len() == before {
                return Poll::Ready(this.write_error.take().map_or(Ok(()), Err));
            }
            if this.follow(buf, before)? {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for TappedStream<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.write_error.is_some() {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, buf));
        Poll::Ready(this.wrote(written, buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if this.write_error.is_some() {
            return Poll::Ready(Ok(length));
        }
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs));
        Poll::Ready(this.wrote(written, length))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.write_error.is_some() {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut this.io).poll_flush(cx));
        // TLS may write only now.
        Poll::Ready(this.wrote(flushed.map(|()| 0), 0).map(drop))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS ends with an alert. A peer that reads nothing would keep the socket open by that.
        match Pin::new(&mut self.get_mut().io).poll_shutdown(cx) {
            Poll::Pending => Poll::Ready(Ok(())),
            ended @ Poll::Ready(_) => ended,
        }
    }
}
