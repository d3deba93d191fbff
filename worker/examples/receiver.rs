//! A callback receiver that uses hyper and ring, and no code of this project.
//!
//!     WEBHOOK_SECRETS='whsec_...' cargo run --example receiver
//!
//! `WEBHOOK_SECRETS`: one or more secrets (`whsec_`) or public keys (`whpk_`), separated by spaces.
//! `PORT`: default 8001; 0 selects a free port. `INBOX`: a folder that stores each callback once, as
//! `ID.json` (receivers deduplicate by id).

use std::{
    convert::Infallible,
    env,
    error::Error,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, body::Incoming, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use ring::{
    hmac,
    signature::{ED25519, UnparsedPublicKey},
};
use tokio::net::TcpListener;

const TOLERANCE: Duration = Duration::from_mins(5);
const MAX_BODY: usize = 64 * 1024;

enum Key {
    Hmac(hmac::Key),
    Ed25519(UnparsedPublicKey<Vec<u8>>),
}

impl Key {
    fn read(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once('_')?;
        let bytes = STANDARD.decode(rest).ok()?;
        match kind {
            "whsec" => Some(Self::Hmac(hmac::Key::new(hmac::HMAC_SHA256, &bytes))),
            "whpk" => Some(Self::Ed25519(UnparsedPublicKey::new(&ED25519, bytes))),
            _ => None,
        }
    }

    fn verifies(&self, content: &[u8], version: &str, signature: &[u8]) -> bool {
        match self {
            // In constant time: an early exit would reveal how much of a guess is correct.
            Self::Hmac(key) => version == "v1" && hmac::verify(key, content, signature).is_ok(),
            Self::Ed25519(key) => version == "v1a" && key.verify(content, signature).is_ok(),
        }
    }
}

/// Verifies the signature. Returns the callback's id, or the reason for refusal. `body` must be the
/// exact received bytes.
fn verify<'a>(
    keys: &[Key],
    headers: &'a HeaderMap,
    body: &[u8],
    now: Duration,
) -> Result<&'a str, &'static str> {
    let header = |name| headers.get(name)?.to_str().ok();
    let (Some(id), Some(timestamp), Some(signatures)) = (
        header("webhook-id"),
        header("webhook-timestamp"),
        header("webhook-signature"),
    ) else {
        return Err("a header is missing, or is none");
    };
    let sent = timestamp.parse().map(Duration::from_secs);
    let sent = sent.map_err(|_| "a header is missing, or is none")?;
    if now.abs_diff(sent) > TOLERANCE {
        return Err("it is too old, or a clock is wrong");
    }
    let content = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
    let is_right = |signature: &str| {
        let (version, signature) = signature.split_once(',')?;
        let signature = STANDARD.decode(signature).ok()?;
        let mut keys = keys.iter();
        keys.find(|key| key.verifies(&content, version, &signature))
    };
    if signatures
        .split(' ')
        .any(|signature| is_right(signature).is_some())
    {
        Ok(id)
    } else {
        Err("no signature is right")
    }
}

/// Stores the callback durably. False if it was already stored (a duplicate).
fn keep(reader: &Path, id: &str, body: &[u8]) -> io::Result<bool> {
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if id.is_empty() || id.len() > 100 || !id.bytes().all(is_name) {
        return Err(io::Error::other("its id is no file's name"));
    }
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let draft = reader.join(format!(".draft-{}-{number}", process::id()));
    let mut file = File::create(&draft)?;
    file.write_all(body)?;
    file.sync_all()?;
    let linked = fs::hard_link(&draft, reader.join(format!("{id}.json")));
    fs::remove_file(&draft)?;
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

async fn receive(keys: &[Key], reader: &Path, request: Request<Incoming>) -> StatusCode {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return StatusCode::PAYLOAD_TOO_LARGE;
    };
    let body = body.to_bytes();
    if head.uri.path() != "/webhook" {
        return StatusCode::NOT_FOUND;
    }
    if head.method != Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED;
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let id = match verify(keys, &head.headers, &body, now) {
        Ok(id) => id,
        Err(why) => {
            println!("refused: {why}");
            return StatusCode::UNAUTHORIZED;
        }
    };
    match keep(reader, id, &body) {
        Ok(is_new) => {
            println!("{} {id}", if is_new { "accepted" } else { "repeated" });
            // Processing happens later, from the stored file: a slow response causes a retry.
            StatusCode::NO_CONTENT
        }
        Err(error) => {
            eprintln!("{error}");
            StatusCode::INTERNAL_SERVER_ERROR // it is called again
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let secrets = env::var("WEBHOOK_SECRETS").unwrap_or_default();
    let keys = secrets.split_whitespace().map(Key::read);
    let keys: Arc<[Key]> = keys
        .collect::<Option<_>>()
        .filter(|keys: &Arc<[Key]>| !keys.is_empty())
        .ok_or("WEBHOOK_SECRETS: expected keys that begin with whsec_ or whpk_")?;
    let reader: Arc<Path> = env::var_os("INBOX")
        .map_or_else(|| "reader".into(), PathBuf::from)
        .into();
    fs::create_dir_all(&reader)?;
    let port = env::var("PORT").map_or(Ok(8001), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening at http://{}/webhook", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let (keys, reader) = (keys.clone(), reader.clone());
        tokio::spawn(async move {
            let service = service_fn(async |request| {
                let mut response = Response::new(Empty::<Bytes>::new());
                *response.status_mut() = receive(&keys, &reader, request).await;
                Ok::<_, Infallible>(response)
            });
            let mut http = http1::Builder::new();
            let http = http
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10));
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
