//! An endpoint of an HTTP handler: it counts words. It uses hyper and ring, and no code of this
//! project.
//!
//!     HANDLER_SECRETS='whsec_...' cargo run --example endpoint
//!
//! * `HANDLER_SECRETS`: one or more secrets, separated by spaces: the handler's `secret`.
//! * `PORT`: the port on loopback, 9100 by default; 0 takes a free one.
//! * `RESULTS`: the folder that stores each result once, as `ID.json`; `results` by default.
//! * `WORK_SECONDS`: how long the work takes, 2 by default.

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
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use ring::hmac;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

const TOLERANCE: Duration = Duration::from_mins(5);
const MAX_BODY: usize = 256 * 1024; // the handler's `max_payload`

struct Endpoint {
    secrets: Vec<hmac::Key>,
    results: PathBuf,
    duration: Duration,
}

#[derive(Deserialize)]
struct Payload {
    text: String,
}

#[derive(Serialize)]
struct Answer {
    words: usize,
}

fn read_secret(text: &str) -> Option<hmac::Key> {
    let bytes = STANDARD.decode(text.strip_prefix("whsec_")?).ok()?;
    Some(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

/// Returns the request's id, or why it is refused. `body` is the raw request body.
fn verify<'a>(
    secrets: &[hmac::Key],
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
        return Err("a header is missing or malformed");
    };
    // The signature covers webhook-id, and not idempotency-key. It also becomes a file's name.
    let is_id = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
    if header("idempotency-key") != Some(id) || id.len() != 36 || !id.bytes().all(is_id) {
        return Err("the idempotency key is not the signed id");
    }
    let sent = timestamp.parse().map(Duration::from_secs);
    let sent = sent.map_err(|_| "a header is missing or malformed")?;
    if now.abs_diff(sent) > TOLERANCE {
        return Err("the timestamp is more than five minutes off");
    }
    let content = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
    for signature in signatures.split(' ') {
        let encoded = signature.strip_prefix("v1,").unwrap_or_default();
        let signature = STANDARD.decode(encoded).unwrap_or_default();
        // In constant time: a comparison that stops early reveals how much of a guess is right.
        let mut keys = secrets.iter();
        if keys.any(|key| hmac::verify(key, &content, &signature).is_ok()) {
            return Ok(id);
        }
    }
    Err("no signature matches")
}

impl Endpoint {
    /// Does the work, unless its result is stored. `None` for a payload that no attempt could work
    /// on.
    ///
    /// Two attempts at the same moment can both work; one result stays. If yours must not, lock the
    /// key first: insert it into a table where it is unique, in the transaction that does the work.
    async fn do_once(&self, key: &str, body: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let path = self.results.join(format!("{key}.json"));
        let is_new = if path.exists() {
            false
        } else {
            let Ok(Payload { text }) = serde_json::from_slice(body) else {
                return Ok(None);
            };
            tokio::time::sleep(self.duration).await;
            let words = text.split_whitespace().count();
            self.keep(&path, &serde_json::to_vec(&Answer { words })?)?
        };
        println!("{} {key}", if is_new { "done" } else { "repeated" });
        fs::read(path).map(Some)
    }

    /// Stores the result durably. Returns false if there is one: the first one stays.
    fn keep(&self, path: &Path, result: &[u8]) -> io::Result<bool> {
        static DRAFTS: AtomicU64 = AtomicU64::new(0);
        let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
        let draft = format!(".draft-{}-{number}", process::id());
        let draft = self.results.join(draft);
        let mut file = File::create(&draft)?;
        file.write_all(result)?;
        file.sync_all()?;
        // A link is atomic and fails if the name exists: a crash leaves no partial file.
        let linked = fs::hard_link(&draft, path);
        fs::remove_file(&draft)?;
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        if head.method != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "expected POST");
        }
        let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "the payload is too large");
        };
        let body = body.to_bytes();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let key = match verify(&self.secrets, &head.headers, &body, now.unwrap_or_default()) {
            Ok(key) => key,
            Err(why) => {
                println!("refused: {why}");
                return text(StatusCode::UNAUTHORIZED, "not authentic");
            }
        };
        match self.do_once(key, &body).await {
            Ok(Some(result)) => {
                let mut answer = Response::new(result.into());
                let json = HeaderValue::from_static("application/json");
                answer.headers_mut().insert(CONTENT_TYPE, json);
                answer
            }
            Ok(None) => text(
                StatusCode::UNPROCESSABLE_ENTITY,
                r#"expected {"text": "..."}"#,
            ),
            Err(error) => {
                eprintln!("{error}");
                text(StatusCode::INTERNAL_SERVER_ERROR, "") // the worker retries
            }
        }
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let secrets = env::var("HANDLER_SECRETS").unwrap_or_default();
    let secrets = secrets.split_whitespace().map(read_secret);
    let secrets: Vec<_> = secrets
        .collect::<Option<_>>()
        .filter(|secrets: &Vec<_>| !secrets.is_empty())
        .ok_or("HANDLER_SECRETS: expected whsec_ and base64")?;
    let seconds = env::var("WORK_SECONDS").map_or(Ok(2.0), |seconds| seconds.parse())?;
    let endpoint = Arc::new(Endpoint {
        secrets,
        results: env::var_os("RESULTS").map_or_else(|| "results".into(), PathBuf::from),
        duration: Duration::try_from_secs_f64(seconds)?,
    });
    fs::create_dir_all(&endpoint.results)?;
    let port = env::var("PORT").map_or(Ok(9100), |port| port.parse::<u16>())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening at http://{}/", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let endpoint = endpoint.clone();
        tokio::spawn(async move {
            // If the worker closes the connection, the attempt is over, and its work is dropped.
            let service =
                service_fn(async |request| Ok::<_, Infallible>(endpoint.answer(request).await));
            let mut http = http1::Builder::new();
            let http = http
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10));
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
