//! The POST that carries a report.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request,
    header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT},
    http::{self, uri::PathAndQuery},
};
use storm_shared::models::CallbackUrl;
use url::Position;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("request-storm-handler/", env!("CARGO_PKG_VERSION")));

/// The request for `url` in origin form, without the URL's fragment.
///
/// # Errors
/// A URL that HTTP can't carry; no `CallbackUrl` is known to be one.
pub(super) fn post(url: &CallbackUrl, body: Bytes) -> Result<Request<Full<Bytes>>, http::Error> {
    let url = url.url();
    let target: PathAndQuery = url[Position::BeforePath..Position::AfterQuery].parse()?;
    let host = HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort])?;

    let mut headers = HeaderMap::with_capacity(4); // and the content-length that hyper adds
    headers.insert(HOST, host);
    headers.insert(USER_AGENT, AGENT);
    headers.insert(CONTENT_TYPE, JSON);
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.into();
    *request.headers_mut() = headers;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use storm_shared::models::CallbackUrl;

    use super::post;

    fn target_and_host(url: &str) -> (String, String) {
        let url = CallbackUrl::parse(url).unwrap();
        let request = post(&url, Bytes::new()).unwrap();
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
    fn every_character_of_a_path_and_a_query_can_be_sent() {
        for c in (0..=0x2ff)
            .chain([0x3042, 0x1f600])
            .filter_map(char::from_u32)
            .filter(|c| !c.is_control())
        // those are refused
        {
            let (target, _) = target_and_host(&format!("http://example.com/a{c}b?c{c}d"));
            assert!(target.is_ascii(), "{c:?}: {target}");
        }
    }
}
