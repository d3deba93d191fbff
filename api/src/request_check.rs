//! The checks that every request passes before authentication, whatever its path.
//!
//! They protect a service that a browser can reach. A web page of another site can make its
//! visitor's browser send a request here (CSRF), and can even read the answer where its own name
//! resolves to this service's address (DNS rebinding). Tokens stop both, but a developer's machine
//! usually has none.

use hyper::{
    HeaderMap, Method, Request,
    header::{HeaderName, HeaderValue, ORIGIN},
};
use storm_shared::services::{
    host_check::{Authority, HostError, HostNames, authority_of},
    marker::CALLBACK_MARKER,
};

/// What a browser says about the page that caused a request (W3C Fetch Metadata).
static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

static MARKER: HeaderName = HeaderName::from_static(CALLBACK_MARKER);

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its host is missing, invalid or not served.
    Host(HostError),
    /// A web page of another origin sent it.
    CrossOrigin,
    /// It is a callback, of this service or of another one of its kind.
    CallbackLoop,
}

/// Checks a request. Its host must be one of `served`, if that is given.
///
/// # Errors
/// The request is refused. Its body was not read.
pub fn check<B>(request: &Request<B>, served: Option<&HostNames>) -> Result<(), Refusal> {
    let host = authority_of(request, served).map_err(Refusal::Host)?;
    if matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    ) {
        return Ok(()); // changes nothing
    }
    let headers = request.headers();
    if headers.contains_key(&MARKER) {
        return Err(Refusal::CallbackLoop);
    }
    if is_of_another_origin(headers, host) || is_of_another_site(headers) {
        return Err(Refusal::CrossOrigin);
    }
    Ok(())
}

/// Whether `Origin` names another origin than the request's host. Browsers send it with every
/// request that can change something. More than one, and `null`, are another origin.
fn is_of_another_origin(headers: &HeaderMap, host: Option<Authority>) -> bool {
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => false,
        (Some(origin), None) => !is_same_origin(origin, host).unwrap_or(false),
        (Some(_), Some(_)) => true,
    }
}

/// Whether an `Origin` has the request's host and port. `None` if it has no host, or the request
/// has none. The scheme of the request is not known here: a proxy may have ended TLS.
fn is_same_origin(origin: &HeaderValue, host: Option<Authority>) -> Option<bool> {
    let origin = origin.to_str().ok()?;
    let (scheme, origin) = origin.split_once("://")?;
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let (origin, host) = (Authority::parse(origin)?, host?);
    let port = |authority: Authority| authority.port().unwrap_or(default_port);
    Some(origin.host().eq_ignore_ascii_case(host.host()) && port(origin) == port(host))
}

/// Whether the browser says that another site's page sent the request. `none` is the user's own
/// doing, such as a bookmark.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all(&SEC_FETCH_SITE).iter();
    sites.any(|site| site != "same-origin" && site != "none")
}

#[cfg(test)]
mod tests {
    use hyper::{Request, header::HOST};
    use storm_shared::services::host_check::HostNames;

    use super::{Refusal, check};

    fn post(host: &str, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut request = Request::post("/").header(HOST, host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap(), None)
    }

    #[test]
    fn the_origin_must_have_the_requests_host_and_port() {
        for (host, origin) in [
            ("localhost:8000", "http://localhost:8000"),
            ("LOCALHOST:8000", "http://localhost:8000"),
            ("api.example", "http://api.example"),
            ("api.example", "https://api.example"),
            ("api.example:443", "https://api.example"),
            ("api.example:80", "http://api.example"),
            ("api.example", "https://api.example:443"),
            ("[::1]:8000", "http://[::1]:8000"),
        ] {
            assert_eq!(post(host, &[("origin", origin)]), Ok(()), "{host} {origin}");
        }
        for (host, origin) in [
            ("localhost:8000", "https://evil.example"),
            ("localhost:8000", "http://localhost"),
            ("localhost:8000", "http://localhost:3000"),
            ("localhost:8000", "http://127.0.0.1:8000"),
            ("localhost:8000", "http://localhost:8000.evil.example"),
            ("localhost:8000", "http://localhost:8000/"),
            ("localhost:8000", "http://a@localhost:8000"),
            (
                "localhost:8000",
                "http://localhost:8000 http://evil.example",
            ),
            ("localhost:8000", "localhost:8000"),
            ("localhost:8000", "//localhost:8000"),
            ("localhost:8000", "null"),
            ("localhost:8000", ""),
            ("localhost:8000", "chrome-extension://localhost:8000"),
            ("localhost:8000", "file://"),
            ("api.example:443", "http://api.example"),
            ("api.example:80", "https://api.example"),
            ("api.example", "http://evil.api.example"),
        ] {
            let refused = Err(Refusal::CrossOrigin);
            assert_eq!(
                post(host, &[("origin", origin)]),
                refused,
                "{host} {origin}"
            );
        }
        let own = ("origin", "http://localhost:8000");
        for several in [[own, own], [own, ("origin", "https://evil.example")]] {
            assert_eq!(post("localhost:8000", &several), Err(Refusal::CrossOrigin));
        }
    }

    #[test]
    fn sec_fetch_site_must_be_same_origin_or_none() {
        let own = ("origin", "http://localhost:8000");
        for (sites, accepted) in [
            (["same-origin"].as_slice(), true),
            (&["none"], true),
            (&["same-site"], false),
            (&["cross-site"], false),
            (&[""], false),
            (&["Cross-Site"], false),
            (&["none", "cross-site"], false),
            (&["none, cross-site"], false),
        ] {
            let mut headers: Vec<_> = sites.iter().map(|site| ("sec-fetch-site", *site)).collect();
            assert_eq!(
                post("localhost:8000", &headers).is_ok(),
                accepted,
                "{sites:?}"
            );
            headers.push(own);
            assert_eq!(
                post("localhost:8000", &headers).is_ok(),
                accepted,
                "{sites:?}"
            );
        }
    }

    #[test]
    fn the_callback_marker_is_refused_whatever_its_value() {
        for value in ["1", "0", ""] {
            let marked = post("localhost", &[("Storm-Callback", value)]);
            assert_eq!(marked, Err(Refusal::CallbackLoop));
        }
    }

    #[test]
    fn only_requests_that_change_nothing_may_come_from_another_origin() {
        let headers = |request: hyper::http::request::Builder| {
            request
                .header(HOST, "localhost")
                .header("origin", "https://evil.example")
                .header("storm-callback", "1")
                .body(())
                .unwrap()
        };
        for (method, accepted) in [
            ("GET", true),
            ("HEAD", true),
            ("OPTIONS", true),
            ("POST", false),
            ("PUT", false),
            ("PATCH", false),
            ("DELETE", false),
            ("TRACE", false),
            ("BREW", false),
        ] {
            let request = headers(Request::builder().method(method));
            let served = HostNames::default();
            assert_eq!(check(&request, Some(&served)).is_ok(), accepted, "{method}");
        }
    }
}
