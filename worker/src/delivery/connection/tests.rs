//! Exchanges over a pipe that holds one byte: each byte of an answer is read before the next comes.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use storm_shared::models::CallbackUrl;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::{Duration, Instant},
};

use super::{Answer, Connection};

/// Reads a request without a body, and then sends `answer` until the client closes.
async fn answer_bytewise(mut stream: DuplexStream, answer: Vec<u8>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    let _ = stream.write_all(&answer).await;
}

/// The status and the body's length of an answer that comes byte by byte.
async fn status_and_length(answer: String) -> (u16, Option<u64>) {
    let (here, there) = duplex(1);
    tokio::spawn(answer_bytewise(there, answer.into_bytes()));
    let url = CallbackUrl::parse("http://test/").unwrap();
    let mut connection = Connection::open(url.origin(), here).await.unwrap();
    let request = Request::get("/").body(Full::<Bytes>::default()).unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    match connection.exchange(request, deadline).await.unwrap() {
        Answer::Head(response) => {
            let length = hyper::body::Body::size_hint(response.body()).exact();
            (response.status().as_u16(), length)
        }
        Answer::StatusOnly(status) => (status.as_u16(), None),
    }
}

#[tokio::test]
async fn an_interim_head_that_parsers_dislike_does_not_end_the_exchange() {
    for interim in [
        "HTTP/1.1 100 Continue\r\n\r\n".to_owned(),
        format!("HTTP/1.1 103 x\r\n{}\r\n", "link: x\r\n".repeat(120)),
        format!("HTTP/1.1 103 x\r\nlink: {}\r\n\r\n", "x".repeat(20_000)),
        "HTTP/1.1 103 Early\x01Hints\r\n\r\n".to_owned(),
        "HTTP/1.1 103 x\r\nlink: a\0b\r\n\r\n".to_owned(),
        "HTTP/1.1 103 x\r\nno colon\r\n\r\n".to_owned(),
        "HTTP/1.7  100\tx\n\n".to_owned(),
        "\r\n".repeat(10_000),
    ] {
        let end = "HTTP/1.1 201 Made\r\ncontent-length: 7\r\n\r\n";
        let got = status_and_length(format!("{interim}{end}")).await;
        assert_eq!(got, (201, Some(7)), "{:?}", &interim[..20]);
    }
}

#[tokio::test]
async fn a_status_line_that_comes_byte_by_byte_decides_whatever_parsers_say() {
    for line in ["HTTP/1.1  200 OK", "HTTP/1.7 200", "HTTP/1.1 200\tOK"] {
        let got = status_and_length(format!("{line}\r\ncontent-length: 7\r\n\r\n")).await;
        assert_eq!(got, (200, None), "{line:?}");
    }
}
