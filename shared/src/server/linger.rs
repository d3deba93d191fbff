//! Closes a connection so that the client can still read the last answer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How much unread input is discarded, in bytes: more than the largest request has.
const DISCARDED: usize = 5 << 20;

/// A stream whose shutdown discards unread input, within limits of size and time.
///
/// A request that is refused by its head leaves the rest of it unread. Closing a socket with unread
/// input resets the connection, and the client may then lose the answer (RFC 9112, section 9.6).
/// A connection without unread input closes at once.
pub(super) struct Lingering<S> {
    stream: S,
    /// Time for the client to send the rest and to close its side.
    time: Duration,
    /// Set once the write side is shut down.
    closing: Option<Closing>,
}

#[derive(Default)]
struct Closing {
    discarded: usize,
    /// Set once there was unread input.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Lingering<S> {
    pub(super) const fn new(stream: S, time: Duration) -> Self {
        Self {
            stream,
            time,
            closing: None,
        }
    }
}

impl Closing {
    /// Discards input until its end, an error, a limit, or until there was none.
    fn poll_discard<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        time: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut discard = [0; 4096];
        while self.discarded <= DISCARDED {
            let mut part = ReadBuf::new(&mut discard);
            match Pin::new(&mut *stream).poll_read(cx, &mut part) {
                Poll::Ready(Ok(())) if !part.filled().is_empty() => {
                    self.discarded += part.filled().len();
                    self.deadline.get_or_insert_with(|| Box::pin(sleep(time)));
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    return match &mut self.deadline {
                        Some(deadline) => deadline.as_mut().poll(cx),
                        None => Poll::Ready(()),
                    };
                }
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        part: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, part)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        part: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, part)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self {
            stream,
            time,
            closing,
        } = &mut *self;
        if closing.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        let closing = closing.get_or_insert_default();
        closing.poll_discard(stream, *time, cx).map(Ok)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
