//! Sends one valid or deliberately invalid request for work, as a worker does for an HTTP handler,
//! and prints the answer's status and body in one line. For tests of endpoints.
//!
//!     HANDLER_SECRETS='whsec_...' cargo run --example send_work URL CASE [ID]

use std::{env, error::Error, net::Ipv4Addr};

use jiff::{SignedDuration, Timestamp};
use storm_shared::{
    models::{CallbackUrl, RequestId},
    services::signature::{ID, SIGNATURE, Signer, TIMESTAMP},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const USAGE: &str =
    "usage: send_work URL good|stale|early|forged|unsigned|tampered|other-key|unusable [ID]";

/// A secret unknown to every endpoint.
const FORGED: &str = "whsec_Zm9yZ2VkIHNlY3JldCBvZiBub2JvZHkgYXQgYWxs";

const BODY: &str = r#"{"text": "one two  three"}"#;
const TAMPERED: &str = r#"{"text": "one"}"#;
const UNUSABLE: &str = r#"{"image": "cat.png"}"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let (url, case, id) = match arguments.as_slice() {
        [url, case] => (url, case.as_str(), RequestId::generate()),
        [url, case, id] => (url, case.as_str(), id.parse()?),
        _ => return Err(USAGE.into()),
    };
    let (mut signer, mut key) = (Signer::parse(&env::var("HANDLER_SECRETS")?)?, id);
    let (mut now, mut content, mut sent) = (Timestamp::now(), BODY, BODY);
    match case {
        "good" => {}
        "stale" => now -= SignedDuration::from_mins(6),
        "early" => now += SignedDuration::from_mins(6),
        "forged" => signer = Signer::parse(FORGED)?,
        "unsigned" => signer = Signer::none(),
        "tampered" => sent = TAMPERED,
        "other-key" => key = RequestId::generate(),
        "unusable" => (content, sent) = (UNUSABLE, UNUSABLE),
        _ => return Err(USAGE.into()),
    }
    let signature = signer
        .sign(&id.to_string(), now, content.as_bytes())
        .map_or_else(String::new, |signature| {
            let seconds = now.as_second();
            format!("{ID}: {id}\r\n{TIMESTAMP}: {seconds}\r\n{SIGNATURE}: {signature}\r\n")
        });
    let url = CallbackUrl::parse(url)?;
    let (port, path) = (url.url().port().ok_or("no port")?, url.url().path());
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\nidempotency-key: {key}\r\n{signature}\r\n{sent}",
        sent.len(),
    );
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let status = head.split(' ').nth(1).ok_or("no status line")?;
    println!("{status} {body}");
    Ok(())
}
