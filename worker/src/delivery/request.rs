//! The POST request that carries a callback.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request,
    header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT},
    http::{self, uri::PathAndQuery},
};
use jiff::Timestamp;
use storm_shared::{
    live::Live,
    models::{CallbackUrl, RequestId},
    services::{
        marker::CALLBACK_MARKER,
        signature::{self, Signer},
    },
};
use url::{Position, Url};

use super::message::Message;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("request-storm-handler/", env!("CARGO_PKG_VERSION")));

/// Tells the API, and any proxy on the way, that the request is a callback.
const MARKER: HeaderName = HeaderName::from_static(CALLBACK_MARKER);

/// From W3C Trace Context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The source of the current time.
pub(crate) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Builds the request of each attempt: its signer and its clock.
#[derive(Clone)]
pub(super) struct Post {
    pub(super) signer: Live<Signer>,
    pub(super) clock: Clock,
}

impl Post {
    /// Unsigned, with the system clock.
    pub(super) fn unsigned() -> Self {
        Self {
            signer: Live::new(Signer::none()),
            clock: Arc::new(Timestamp::now),
        }
    }

    /// The request of an attempt that starts now.
    ///
    /// # Errors
    /// The URL is not valid in HTTP. No `CallbackUrl` is known to be such a URL.
    pub(super) fn request(
        &self,
        url: &CallbackUrl,
        message: &Message,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut headers = HeaderMap::with_capacity(9); // hyper adds the content-length
        headers.insert(MARKER, HeaderValue::from_static("1"));
        headers.insert(TRACEPARENT, message.traceparent.to_string().try_into()?);
        // Signed anew for each attempt: receivers reject a timestamp that is more than five minutes
        // off.
        let (signer, now) = (self.signer.get(), (self.clock)());
        sign(&signer, message.id, now, &message.body, &mut headers)?;
        post(url.url(), headers, message.body.clone())
    }
}

/// A POST of `body`, which is JSON, to `url` with `headers`. The target is in origin form and
/// without the URL's fragment.
///
/// # Errors
/// The URL is not valid in HTTP.
pub(crate) fn post(
    url: &Url,
    mut headers: HeaderMap,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, http::Error> {
    // Origin form (RFC 9112, section 3.2.1): the request goes to the receiver, never to a proxy.
    let target: PathAndQuery = url[Position::BeforePath..Position::AfterQuery].parse()?;
    // `Url` has dropped a default port, so it is left out here as well (RFC 9110, section 7.2).
    let host = HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort])?;
    headers.insert(HOST, host);
    headers.insert(USER_AGENT, AGENT);
    headers.insert(CONTENT_TYPE, JSON);
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.into();
    *request.headers_mut() = headers;
    Ok(request)
}

/// Adds the Standard Webhooks headers for a message that is sent at `now`.
///
/// # Errors
/// None is known: all three are ASCII.
pub(crate) fn sign(
    signer: &Signer,
    id: RequestId,
    now: Timestamp,
    body: &[u8],
    headers: &mut HeaderMap,
) -> Result<(), http::Error> {
    let id = id.to_string();
    if let Some(signatures) = signer.sign(&id, now, body) {
        headers.insert(signature::SIGNATURE, signatures.try_into()?);
    }
    headers.insert(signature::ID, id.try_into()?);
    headers.insert(signature::TIMESTAMP, now.as_second().into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use jiff::Timestamp;
    use storm_shared::{
        live::Live,
        models::{CallbackUrl, RequestId, Traceparent},
        services::signature::Signer,
    };

    use super::{Message, Post};

    fn message() -> Message {
        Message {
            id: RequestId::generate(),
            body: Bytes::from_static(b"{}"),
            traceparent: Traceparent::of(RequestId::generate()),
        }
    }

    fn target_and_host(url: &str) -> (String, String) {
        let url = CallbackUrl::parse(url).unwrap();
        let request = Post::unsigned().request(&url, &message()).unwrap();
        let host = request.headers()["host"].to_str().unwrap();
        (request.uri().to_string(), host.to_owned())
    }

    #[test]
    fn the_target_is_path_and_query_and_the_host_is_the_urls() {
        for (url, target, host) in [
            ("http://example.com", "/", "example.com"),
            ("http://example.com/a/./b?c=d#e", "/a/b?c=d", "example.com"),
            ("https://EXAMPLE.com:443?q", "/?q", "example.com"),
            ("http://[::1]:8080/hook", "/hook", "[::1]:8080"),
        ] {
            assert_eq!(
                target_and_host(url),
                (target.to_owned(), host.to_owned()),
                "{url}"
            );
        }
    }

    #[test]
    fn the_headers_carry_the_request_id_the_timestamp_the_trace_and_the_marker() {
        let (url, message) = (CallbackUrl::parse("http://example.com").unwrap(), message());
        let post = Post {
            signer: Live::new(Signer::none()),
            clock: Arc::new(|| Timestamp::from_millisecond(1_674_087_231_999).unwrap()),
        };
        let request = post.request(&url, &message).unwrap();
        let header = |name| request.headers()[name].to_str().unwrap();
        assert_eq!(header("webhook-id"), message.id.to_string());
        assert_eq!(header("webhook-timestamp"), "1674087231");
        assert_eq!(header("traceparent"), message.traceparent.to_string());
        assert_eq!(header("storm-callback"), "1");
        assert!(!request.headers().contains_key("webhook-signature"));
    }

    #[test]
    fn every_character_of_a_path_and_a_query_can_be_sent() {
        for c in (0..=0x2ff)
            .chain([0x3042, 0x1f600])
            .filter_map(char::from_u32)
            .filter(|c| !c.is_control())
        // CallbackUrl refuses control characters
        {
            let (target, _) = target_and_host(&format!("http://example.com/a{c}b?c{c}d"));
            assert!(target.is_ascii(), "{c:?}: {target}");
        }
    }
}
