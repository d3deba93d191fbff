//! What hyper is given of the bytes that come, however they are cut into reads.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::{ExchangeState, TappedStream};

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\r\nok";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";

/// A peer whose bytes come in these pieces, each after a read that finds nothing, and then the end.
struct Pieces {
    left: VecDeque<Vec<u8>>,
    is_there: bool,
}

impl Pieces {
    fn new<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self {
            left: pieces.into_iter().map(<[u8]>::to_vec).collect(),
            is_there: false,
        }
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.is_there = !self.is_there;
        if self.is_there {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(mut piece) = self.left.pop_front() {
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                self.left.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// What hyper gets of `pieces` after its request, with reads of at most `most` bytes, and the final
/// status.
async fn given<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, most: usize) -> (String, u16) {
    given_if(true, pieces, most).await
}

async fn given_if<'a>(
    is_sent: bool,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    most: usize,
) -> (String, u16) {
    let state = ExchangeState::default();
    state.lock().sent = is_sent;
    let mut tapped = TappedStream::new(Pieces::new(pieces), state.clone());
    let (mut all, mut some) = (Vec::new(), vec![0; most]);
    loop {
        let read = tapped.read(&mut some).await.unwrap();
        if read == 0 {
            break;
        }
        all.extend_from_slice(&some[..read]);
    }
    let status = state.status().map_or(0, |status| status.as_u16());
    (String::from_utf8(all).unwrap(), status)
}

#[tokio::test]
async fn hyper_is_given_the_final_head_and_its_body_however_the_bytes_are_cut() {
    let odd = "HTTP/1.7  100\tO\x01K\r\nno colon\r\na: \0\r\n\r\n";
    for before in [
        "",
        "\r\n\n",
        HINTS,
        odd,
        &format!("{HINTS}\r\n{odd}{HINTS}"),
    ] {
        let text = format!("{before}{ANSWER}");
        let expected = (ANSWER.to_owned(), 200);
        for most in [1, 3, 8192] {
            let bytes = text.as_bytes();
            assert_eq!(given(bytes.chunks(1), most).await, expected, "{text:?}");
            for cut in 0..bytes.len() {
                let (one, other) = bytes.split_at(cut);
                let pieces = [one, other].into_iter().filter(|piece| !piece.is_empty());
                assert_eq!(given(pieces, most).await, expected, "{text:?} at {cut}");
            }
        }
    }
}

#[tokio::test]
async fn switching_protocols_is_a_final_head_to_hyper() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    for size in [1, 8192] {
        let got = given(switching.as_bytes().chunks(size), 8192).await;
        assert_eq!(got, (switching.to_owned(), 101));
    }
}

#[tokio::test]
async fn hyper_is_given_what_is_no_http_and_judges_it() {
    for garbage in [
        "220 mail\r\n",
        "HTTP/1.1 2000 x\r\n",
        "HTTP/2 200\r\n",
        "HTTP/1.1  \r\n",
    ] {
        for size in [1, 8192] {
            let text = format!("{HINTS}{garbage}");
            let got = given(text.as_bytes().chunks(size), 8192).await;
            assert_eq!(got, (garbage.to_owned(), 0));
        }
    }
}

#[tokio::test]
async fn hyper_is_given_every_byte_that_comes_before_its_request() {
    let text = format!("\r\n{HINTS}{ANSWER}");
    for size in [1, 8192] {
        let got = given_if(false, text.as_bytes().chunks(size), 8192).await;
        assert_eq!(got, (text.clone(), 200));
    }
}

/// A peer that takes no bytes, not even the alert with which TLS ends.
struct Full;

impl AsyncWrite for Full {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

#[test]
fn the_end_of_a_connection_waits_for_no_peer() {
    let mut stream = TappedStream::new(Full, ExchangeState::default());
    let ended = stream.shutdown().now_or_never();
    assert!(matches!(ended, Some(Ok(()))), "{ended:?}");
}
