//! The URLs of the API and of the callback receiver.

use std::{fmt, str::FromStr};

use url::Url;

/// An `http` URL with a host, and without user, query and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl(Url);

impl HttpUrl {
    /// The whole URL.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The host: a name, or an IP address (IPv6 in brackets).
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default() // `from_str` rejects a URL without a host
    }

    /// The port; 80 if the URL has none.
    pub fn port(&self) -> u16 {
        // `from_str` accepts only `http`, whose default port is known, so the fallback is never
        // used.
        self.0.port_or_known_default().unwrap_or(80)
    }

    /// The path; `/` if the URL has none.
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// `host` or `host:port`, as in a `Host` header.
    pub fn authority(&self) -> &str {
        self.0.authority()
    }
}

impl FromStr for HttpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url = Url::parse(text).map_err(|error| format!("{error}; {ACCEPTED}"))?;
        let has_user = !url.username().is_empty() || url.password().is_some();
        let plain = !has_user && url.query().is_none() && url.fragment().is_none();
        if url.scheme() == "http" && url.has_host() && plain {
            Ok(Self(url))
        } else {
            Err(ACCEPTED.to_owned())
        }
    }
}

const ACCEPTED: &str =
    "it must be an http:// URL without user, query and fragment, such as http://127.0.0.1:8000";

impl fmt::Display for HttpUrl {
    /// The URL without its trailing slash, so that a path can be appended.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::HttpUrl;

    #[test]
    fn a_url_that_is_not_plain_http_is_refused_with_what_is_accepted() {
        for text in [
            "https://a",
            "ftp://a",
            "127.0.0.1:8000",
            "http://",
            "http://u@a",
            "http://a/?q",
            "http://a/#f",
            "",
        ] {
            let error = text.parse::<HttpUrl>().unwrap_err();
            assert!(error.contains("must be an http:// URL"), "{text}: {error}");
        }
    }

    #[test]
    fn a_url_is_displayed_without_its_trailing_slash() {
        let url: HttpUrl = "http://[::1]:8000/base/".parse().unwrap();
        assert_eq!(url.to_string(), "http://[::1]:8000/base");
        assert_eq!(
            (url.host(), url.port(), url.authority()),
            ("[::1]", 8000, "[::1]:8000")
        );
    }
}
