//! The `Host` of a request: whether it is valid, and whether this service answers to it.
//!
//! DNS rebinding lets a web page read a service of its visitor's machine or network: the page's own
//! name comes to resolve to the service's address, and the browser then takes both for one origin.
//! The request still has the page's name as its `Host`. A service without tokens therefore answers
//! only to hosts that no page elsewhere can have: [`HostNames`].

mod authority;
mod names;

use hyper::{Request, Response, StatusCode, Version, header::HOST};

pub use self::{
    authority::Authority,
    names::{HostNameError, HostNames},
};
use super::problem::problem;

/// Why a request is refused for its host. Each has an answer of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// HTTP/1.1 without `Host`.
    Missing,
    /// More than one `Host`.
    Repeated,
    /// The value of `Host`, or the host of an absolute target, is not `host[:port]`.
    Invalid,
    /// The host is valid, but not one that this listener answers to.
    Misdirected,
}

/// The host and port that a request is for. `None` for HTTP/1.0 without `Host`, which old health
/// checks send and browsers do not.
///
/// If `served` is given, the host must be one that it serves.
///
/// # Errors
/// The request has no valid host (RFC 9112, section 3.2), or one that is not served.
pub fn authority_of<'a, B>(
    request: &'a Request<B>,
    served: Option<&HostNames>,
) -> Result<Option<Authority<'a>>, HostError> {
    let mut values = request.headers().get_all(HOST).iter();
    let host = match (values.next(), values.next()) {
        (Some(value), None) => {
            let value = value.to_str().map_err(|_| HostError::Invalid)?;
            Some(Authority::parse(value).ok_or(HostError::Invalid)?)
        }
        (Some(_), Some(_)) => return Err(HostError::Repeated),
        (None, _) if request.version() == Version::HTTP_10 => None,
        (None, _) => return Err(HostError::Missing),
    };
    // The host of an absolute target replaces that of `Host` (RFC 9112, section 3.2.2).
    let authority = match request.uri().authority() {
        Some(target) => Some(Authority::parse(target.as_str()).ok_or(HostError::Invalid)?),
        None => host,
    };
    match (authority, served) {
        (Some(authority), Some(names)) if !names.serve(authority.host()) => {
            Err(HostError::Misdirected)
        }
        _ => Ok(authority),
    }
}

impl HostError {
    /// The name of the problem's `type`, after `urn:storm:problem:`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing | Self::Repeated | Self::Invalid => "bad-host",
            Self::Misdirected => "misdirected",
        }
    }

    /// The answer's status: `400` or `421`.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Missing | Self::Repeated | Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        }
    }

    /// The problem's title.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Missing | Self::Repeated | Self::Invalid => "Bad host",
            Self::Misdirected => "Misdirected request",
        }
    }

    /// What to change.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Missing => "HTTP/1.1 needs the header `host`, such as `host: localhost:8000`.",
            Self::Repeated => "Send the header `host` once.",
            Self::Invalid => {
                "The header `host`, and the host of the target, must be a host name or an IP \
                 address, and optionally a port, such as localhost:8000 or [::1]:8000."
            }
            Self::Misdirected => {
                "While no token is required, this service answers only to localhost, to IP \
                 addresses, and to the names in the setting API_HOSTS. Use one of these, or add the \
                 name to API_HOSTS."
            }
        }
    }

    /// The answer as `application/problem+json`.
    pub fn response(self) -> Response<String> {
        problem(self.status(), self.name(), self.title(), self.detail())
    }
}

#[cfg(test)]
mod tests {
    use hyper::{Request, Version, header::HOST};

    use super::{HostError, HostNames, authority_of};

    fn host(target: &str, hosts: &[&str], version: Version) -> Result<Option<String>, HostError> {
        let mut request = Request::builder().uri(target).version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let request = request.body(()).unwrap();
        let authority = authority_of(&request, Some(&HostNames::default()))?;
        Ok(authority.map(|authority| authority.host().to_owned()))
    }

    #[test]
    fn http_1_1_needs_one_host_and_http_1_0_at_most_one() {
        let both = ["localhost", "localhost"];
        for (version, missing) in [
            (Version::HTTP_11, Err(HostError::Missing)),
            (Version::HTTP_10, Ok(None)),
        ] {
            assert_eq!(host("/", &[], version), missing);
            assert_eq!(host("/", &both[..1], version), Ok(Some("localhost".into())));
            assert_eq!(host("/", &both, version), Err(HostError::Repeated));
            assert_eq!(host("/", &["a b"], version), Err(HostError::Invalid));
            assert_eq!(host("/", &["a"], version), Err(HostError::Misdirected));
        }
    }

    #[test]
    fn the_host_of_an_absolute_target_replaces_the_header_which_must_still_be_valid() {
        let host = |target, hosts| host(target, hosts, Version::HTTP_11);
        let (here, there) = ("http://localhost:1/x", "http://evil.example/x");
        assert_eq!(host(here, &["evil.example"]), Ok(Some("localhost".into())));
        assert_eq!(host(there, &["localhost"]), Err(HostError::Misdirected));
        assert_eq!(host(here, &[]), Err(HostError::Missing));
        assert_eq!(host(here, &["a/b"]), Err(HostError::Invalid));
        let user = "http://user@localhost/x";
        assert_eq!(host(user, &["localhost"]), Err(HostError::Invalid));
    }
}
