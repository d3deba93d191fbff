//! The origin of a callback URL: which receiver it is.

use std::{fmt, str::FromStr, sync::Arc};

use thiserror::Error;
use url::{Position, Url};

use super::{CallbackUrl, CallbackUrlError};

/// Scheme, host and port of a callback URL in its normal form, such as `https://example.com:8443`.
/// A default port is omitted. Only this part of a callback URL may be logged. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin(Arc<str>);

/// Why a text is not an origin, and what is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OriginError {
    /// It would be one, but for this.
    #[error("{0}")]
    Url(CallbackUrlError),
    /// It has more or less than an origin.
    #[error("must be {}", Self::ACCEPTED)]
    Form,
}

impl OriginError {
    /// What is accepted.
    pub const ACCEPTED: &str = "scheme, host and port, such as `https://hooks.example`";
}

impl Origin {
    /// The origin of an http or https URL. A user name and a password are no part of it.
    pub fn of(url: &Url) -> Self {
        let authority = &url[Position::BeforeHost..Position::AfterPort];
        Self([url.scheme(), "://", authority].concat().into())
    }

    /// The origin that [`Origin::as_str`] has returned as text.
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The origin as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Parses the origin of any callback URL, in any spelling that such a URL may have.
impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = CallbackUrl::parse(text).map_err(|error| match error {
            CallbackUrlError::Malformed(_) | CallbackUrlError::Scheme => OriginError::Form,
            error => OriginError::Url(error),
        })?;
        let origin = url.origin();
        let path = url.target().strip_prefix(origin.as_str());
        if path == Some("/") && !text.contains(['?', '#']) {
            Ok(origin.clone())
        } else {
            Err(OriginError::Form)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::{Origin, OriginError};

    #[test]
    fn an_origin_is_parsed_to_the_form_that_callbacks_have() {
        for (text, origin) in [
            ("https://example.com", "https://example.com"),
            ("HTTPS://Example.COM:443/", "https://example.com"),
            ("http://example.com:8080", "http://example.com:8080"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            let parsed: Origin = text.parse().unwrap();
            assert_eq!(parsed.as_str(), origin);
        }
    }

    #[test]
    fn the_origin_of_a_url_has_no_user_name_and_no_password() {
        let url = Url::parse("http://user:secret@example.com:8080/a?b").unwrap();
        assert_eq!(Origin::of(&url).as_str(), "http://example.com:8080");
    }

    #[test]
    fn a_text_with_more_or_less_than_an_origin_is_refused() {
        for text in [
            "https://example.com/hook",
            "https://example.com/?a=1",
            "https://example.com/?",
            "https://example.com/#",
            "",
            "everything",
            "example.com",
            "example.com:8080",
            "ftp://example.com",
        ] {
            assert_eq!(text.parse::<Origin>(), Err(OriginError::Form), "{text}");
        }
        for text in ["https://a:b@example.com", "https://example.com:0"] {
            let refused = text.parse::<Origin>();
            assert!(matches!(refused, Err(OriginError::Url(_))), "{text}");
        }
    }
}
