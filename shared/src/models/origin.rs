//! The origin of a callback URL: which receiver it is.

use std::{fmt, sync::Arc};

use url::{Position, Url};

/// Scheme, host and port of a callback URL in its normal form, such as `https://example.com:8443`.
/// A default port is omitted. Only this part of a callback URL may be logged. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin(Arc<str>);

impl Origin {
    /// The origin of an http or https URL.
    pub(super) fn of(url: &Url) -> Self {
        Self(url[..Position::BeforePath].into())
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
