//! Sends one valid or deliberately invalid callback and prints the response status. For tests of
//! receivers.
//!
//!     CALLBACK_SIGNING_SECRETS='whsec_...' cargo run --example send_callback URL CASE [ID]

use std::{env, error::Error, net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use hyper::StatusCode;
use jiff::{SignedDuration, Timestamp};
use storm_shared::{
    models::{CallbackUrl, RequestId, Traceparent},
    services::{
        signature::{ID, SIGNATURE, Signer, TIMESTAMP},
        ssrf::Policy,
    },
};
use storm_worker::delivery::{CallbackClient, Message, Network};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const USAGE: &str = "usage: send_callback URL good|stale|early|forged|unsigned|tampered [ID]";

/// A secret unknown to every receiver.
const FORGED: &str = "whsec_Zm9yZ2VkIHNlY3JldCBvZiBub2JvZHkgYXQgYWxs";

const BODY: &[u8] = br#"{"request_id":"0","status":"completed","records":10}"#;
const TAMPERED: &[u8] = br#"{"request_id":"0","status":"completed","records":99}"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let (url, case, id) = match arguments.as_slice() {
        [url, case] => (url, case, RequestId::generate()),
        [url, case, id] => (url, case, id.parse()?),
        _ => return Err(USAGE.into()),
    };
    let secrets = env::var("CALLBACK_SIGNING_SECRETS")?;
    let (signer, url) = (Signer::parse(&secrets)?, CallbackUrl::parse(url)?);
    let message = Message {
        id,
        body: Bytes::from_static(BODY),
        traceparent: Traceparent::of(id),
    };
    let minutes = SignedDuration::from_mins;
    let status = match case.as_str() {
        "good" => send(&url, &message, signer, minutes(0)).await?,
        "stale" => send(&url, &message, signer, minutes(-6)).await?,
        "early" => send(&url, &message, signer, minutes(6)).await?,
        "forged" => send(&url, &message, Signer::parse(FORGED)?, minutes(0)).await?,
        "unsigned" => send(&url, &message, Signer::none(), minutes(0)).await?,
        "tampered" => send_tampered(&url, &message, &signer).await?,
        _ => return Err(USAGE.into()),
    };
    println!("{}", status.as_u16());
    Ok(())
}

/// Signs as a worker does, with the timestamp shifted by this offset.
async fn send(
    url: &CallbackUrl,
    message: &Message,
    signer: Signer,
    distance: SignedDuration,
) -> Result<StatusCode, Box<dyn Error>> {
    let policy = Policy::parse("127.0.0.1/32")?;
    let client = CallbackClient::new(policy, Network::system(), Duration::from_secs(10), None)?
        .signing_with(signer)
        .by_clock(move || Timestamp::now() + distance);
    match client.attempt(url, message).await {
        Ok(status) => Ok(status),
        Err(error) => Ok(error.status().ok_or(error)?),
    }
}

/// The headers of one body with another body, as after tampering in transit.
async fn send_tampered(
    url: &CallbackUrl,
    message: &Message,
    signer: &Signer,
) -> Result<StatusCode, Box<dyn Error>> {
    let (id, now) = (message.id.to_string(), Timestamp::now());
    let signatures = signer.sign(&id, now, &message.body).ok_or("no secret")?;
    let (port, path) = (url.url().port().ok_or("no port")?, url.url().path());
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n{ID}: {id}\r\n{TIMESTAMP}: {}\r\n\
         {SIGNATURE}: {signatures}\r\n\r\n",
        TAMPERED.len(),
        now.as_second()
    );
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream
        .write_all(&[head.as_bytes(), TAMPERED].concat())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).ok_or("no status line")?;
    Ok(status.parse()?)
}
