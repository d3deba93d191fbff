//! The bounded read of a response body, so that no receiver can make it expensive.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;

/// The body of a response. It is read and discarded only to reuse the connection; the status line
/// has already decided the attempt.
pub(crate) struct AnswerBody<B> {
    body: B,
    /// The bytes that may still be read.
    left: usize,
}

impl<B> AnswerBody<B> {
    /// The most bytes that are read.
    const MAX_BYTES: usize = 64 * 1024;

    pub(crate) const fn new(body: B) -> Self {
        Self {
            body,
            left: Self::MAX_BYTES,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> AnswerBody<B> {
    /// Reads the body to its end and discards it. False if it is cut or too long. Cancel-safe.
    pub(crate) async fn drain(&mut self) -> bool {
        while let Some(frame) = self.body.frame().await {
            let Ok(frame) = frame else { return false };
            let length = frame.data_ref().map_or(0, Bytes::len);
            let Some(left) = self.left.checked_sub(length) else {
                return false;
            };
            self.left = left;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::AnswerBody;

    async fn drains(lengths: &[usize]) -> bool {
        let frames = lengths
            .iter()
            .map(|length| Frame::data(Bytes::from(vec![b'x'; *length])));
        let frames = stream::iter(frames.map(Ok::<_, Infallible>));
        AnswerBody::new(StreamBody::new(frames)).drain().await
    }

    #[tokio::test]
    async fn a_body_is_read_to_64_kib_and_no_further() {
        assert!(drains(&[]).await);
        assert!(drains(&[65536]).await);
        assert!(drains(&[65535, 0, 1]).await);
        assert!(!drains(&[65537]).await);
        assert!(!drains(&[32768, 32768, 1]).await);
    }
}
