//! The URL to which a finished report is delivered.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::{Host, Url};

use super::Origin;

/// An absolute http or https URL with a host and without credentials.
///
/// It keeps the text that the client sent, which responses echo, and the normalised form, which is
/// the only one that is checked by the SSRF policy and dialled. Path and query may contain the
/// receiver's secrets, so `Debug` shows the origin only, and there is no `Display`.
///
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CallbackUrl(Arc<Parsed>);

#[derive(PartialEq, Eq, Hash)]
struct Parsed {
    sent: String,
    url: Url,
    origin: Origin,
}

/// Why a text is not a callback URL, and what is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CallbackUrlError {
    /// More characters than [`CallbackUrl::MAX_CHARS`].
    #[error(
        "must have at most {} characters, not {length}",
        CallbackUrl::MAX_CHARS
    )]
    TooLong {
        /// The number of characters sent.
        length: usize,
    },
    /// The text is not an absolute URL.
    #[error("must be an absolute URL such as `https://example.com/hook`: {0}")]
    Malformed(url::ParseError),
    /// Characters that a URL parser drops. The URL that is called would differ from the URL that is
    /// shown.
    #[error("must not contain control characters or surrounding white space")]
    Characters,
    /// A scheme other than http and https.
    #[error("must begin with `http://` or `https://`")]
    Scheme,
    /// A host name that no look-up can find, or for which no certificate can exist.
    #[error(
        "must have an IP address or a name as its host: at most {} letters, digits, `-`, `_` and \
         `.`, at most {} between two `.`, and for https no `-` beside a `.`",
        CallbackUrl::MAX_HOST_CHARS,
        CallbackUrl::MAX_LABEL_CHARS
    )]
    Host,
    /// A user name or a password before the host.
    #[error("must not carry a user name or a password")]
    UserInfo,
    /// Port 0, on which nothing can listen.
    #[error("must name a port from 1 to 65535, or none")]
    Port,
}

impl CallbackUrlError {
    /// The error's stable name, in snake case. It differs from the names of all SSRF rules.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too_long",
            Self::Malformed(_) => "malformed",
            Self::Characters => "characters",
            Self::Scheme => "scheme",
            Self::Host => "host",
            Self::UserInfo => "userinfo",
            Self::Port => "port_zero",
        }
    }
}

impl CallbackUrl {
    /// The longest URL that a client may send, in characters.
    pub const MAX_CHARS: usize = 2048;
    /// The longest host name, in characters (RFC 1035).
    const MAX_HOST_CHARS: usize = 253;
    /// The longest part of a host name between dots, in characters (RFC 1035).
    const MAX_LABEL_CHARS: usize = 63;

    /// Parses a URL as browsers do (WHATWG URL standard). Every spelling of a host is normalised to
    /// one form, such as `0x7f.1` to `127.0.0.1`, and that form is checked and dialled.
    ///
    /// # Errors
    /// The text is too long, or is not a URL to which a callback can be sent.
    pub fn parse(text: &str) -> Result<Self, CallbackUrlError> {
        let length = text.chars().count();
        if length > Self::MAX_CHARS {
            return Err(CallbackUrlError::TooLong { length });
        }
        Self::parse_any_length(text)
    }

    /// Parses the stored text of [`CallbackUrl::target`]. It is percent-encoded, so it may be
    /// longer than a client's text may be.
    ///
    /// # Errors
    /// The stored URL is invalid: the row was edited outside the service.
    pub fn from_target(text: &str) -> Result<Self, CallbackUrlError> {
        Self::parse_any_length(text)
    }

    fn parse_any_length(text: &str) -> Result<Self, CallbackUrlError> {
        if text.contains(char::is_control) || text.trim() != text {
            return Err(CallbackUrlError::Characters);
        }
        // The parser strips white space and drops tabs and line breaks, hence the check before it.
        let url = Url::parse(text).map_err(CallbackUrlError::Malformed)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(CallbackUrlError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(CallbackUrlError::UserInfo);
        }
        let https = url.scheme() == "https";
        if !url.host().is_some_and(|host| is_resolvable(&host, https)) {
            return Err(CallbackUrlError::Host);
        }
        if url.port() == Some(0) {
            return Err(CallbackUrlError::Port);
        }
        Ok(Self(Arc::new(Parsed {
            sent: text.to_owned(),
            origin: Origin::of(&url),
            url,
        })))
    }

    /// The text that the client sent.
    pub fn as_str(&self) -> &str {
        &self.0.sent
    }

    /// The normalised form as text. This is stored for the worker to dial.
    pub fn target(&self) -> &str {
        self.0.url.as_str()
    }

    /// The normalised form, which is checked and dialled.
    pub fn url(&self) -> &Url {
        &self.0.url
    }

    /// The port that is dialled: the URL's port, or its scheme's default.
    pub fn port(&self) -> u16 {
        // Both accepted schemes have a default port. The fallback, port 0, is always refused.
        self.0.url.port_or_known_default().unwrap_or_default()
    }

    /// The origin of the normalised form. Only this part of the URL may be logged.
    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }
}

impl fmt::Debug for CallbackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallbackUrl({}/…)", self.origin())
    }
}

impl TryFrom<String> for CallbackUrl {
    type Error = CallbackUrlError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<CallbackUrl> for String {
    fn from(url: CallbackUrl) -> Self {
        url.as_str().to_owned()
    }
}

fn is_resolvable(host: &Host<&str>, https: bool) -> bool {
    let Host::Domain(name) = host else {
        return true;
    };
    // The final dot of an absolute name is no empty label.
    let mut labels = name.strip_suffix('.').unwrap_or(name).split('.');
    name.len() <= CallbackUrl::MAX_HOST_CHARS
        && labels.all(|label| is_label(label, https))
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether `label` can be a part of a host name between dots.
///
/// Some name servers serve labels that begin or end with `-`, so they are accepted for http. No
/// certificate can be issued for them, so they are rejected for https.
fn is_label(label: &str, https: bool) -> bool {
    (1..=CallbackUrl::MAX_LABEL_CHARS).contains(&label.len())
        && !(https && (label.starts_with('-') || label.ends_with('-')))
}

#[cfg(test)]
mod tests {
    use super::{CallbackUrl, CallbackUrlError};

    #[test]
    fn a_url_is_echoed_as_sent_and_dialled_in_normalised_form() {
        let url = CallbackUrl::parse("HTTP://0x7f.1:80/a/../b?q#f").unwrap();
        assert_eq!(url.as_str(), "HTTP://0x7f.1:80/a/../b?q#f");
        assert_eq!(url.url().as_str(), "http://127.0.0.1/b?q#f");
        assert_eq!(url.origin().as_str(), "http://127.0.0.1");
        let url = CallbackUrl::parse("https://bücher.example:8443/").unwrap();
        assert_eq!(url.origin().as_str(), "https://xn--bcher-kva.example:8443");
    }

    #[test]
    fn the_length_is_counted_in_characters() {
        let head = "http://example.com/";
        let longest = format!("{head}{}", "é".repeat(CallbackUrl::MAX_CHARS - head.len()));
        assert!(CallbackUrl::parse(&longest).is_ok());
        let error = CallbackUrl::parse(&format!("{longest}é")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "must have at most 2048 characters, not 2049"
        );
    }

    #[test]
    fn the_target_is_parsed_back_whatever_its_length() {
        let sent = format!("HTTP://EXAMPLE.com/{}", "é".repeat(2000));
        let url = CallbackUrl::parse(&sent).unwrap();
        assert!(url.target().len() > 2 * CallbackUrl::MAX_CHARS);
        let stored = CallbackUrl::from_target(url.target()).unwrap();
        assert_eq!(stored.url(), url.url());
        assert_eq!(stored.target(), stored.as_str());
    }

    #[test]
    fn a_url_that_cannot_be_called_is_rejected_with_its_reason() {
        use CallbackUrlError::{Characters, Host, Port, Scheme, UserInfo};
        for (text, error) in [
            ("ftp://example.com/", Scheme),
            ("file:///etc/passwd", Scheme),
            ("unix:/run/socket", Scheme),
            ("http://user@example.com/", UserInfo),
            ("http://:password@example.com/", UserInfo),
            ("http://exam\"ple.com/", Host),
            (&format!("http://{}.com/", "a.".repeat(125)), Host),
            ("http://a..b/", Host),
            (&format!("http://{}.com/", "a".repeat(64)), Host),
            ("https://a-.example/", Host),
            ("https://-a.example/", Host),
            ("http://example.com:0/", Port),
            (" http://127.0.0.1/", Characters),
            ("http://127.0.\t0.1/\n", Characters),
        ] {
            assert_eq!(CallbackUrl::parse(text), Err(error), "{text}");
        }
        for text in [
            "",
            "/hook",
            "example.com/hook",
            "http://",
            "http:///",
            "http://a:99999/",
        ] {
            let parsed = CallbackUrl::parse(text);
            assert!(
                matches!(parsed, Err(CallbackUrlError::Malformed(_))),
                "{text}: {parsed:?}"
            );
        }
    }

    #[test]
    fn debug_output_shows_neither_path_nor_query() {
        let url = CallbackUrl::parse("https://hooks.example/T0/secret?token=secret").unwrap();
        assert_eq!(format!("{url:?}"), "CallbackUrl(https://hooks.example/…)");
    }
}
