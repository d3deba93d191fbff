//! The endpoint of an HTTP handler, as its operator has set it up.

use std::fmt;

use hyper::HeaderMap;
use storm_shared::{models::Origin, services::signature::Signer};
use url::Url;

/// Where the payloads of a handler go, and how.
#[derive(Clone)]
pub struct HttpEndpoint {
    /// An http or https URL without a user name.
    pub url: Url,
    /// The fixed headers of every request. They replace no header of our own, and none of the
    /// message's framing.
    pub headers: HeaderMap,
    /// Signs every request, if it has a secret.
    pub signer: Signer,
    /// The most bytes of a result's body.
    pub max_result: usize,
}

// Its URL and its headers can be secret.
impl fmt::Debug for HttpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpEndpoint")
            .field("origin", &Origin::of(&self.url))
            .field("headers", &self.headers.len())
            .field("secrets", &self.signer.secrets())
            .field("max_result", &self.max_result)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::services::signature::Signer;

    use super::HttpEndpoint;

    #[test]
    fn debug_shows_no_path_and_no_header() {
        let headers = [("authorization", "hidden"), ("x-hidden", "1")];
        let endpoint = HttpEndpoint {
            url: "https://hidden:hidden@example.com/hidden?hidden"
                .parse()
                .unwrap(),
            headers: headers
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .into_iter()
                .collect(),
            signer: Signer::none(),
            max_result: 1,
        };
        let shown = format!("{endpoint:?}");
        assert!(shown.contains("https://example.com"), "{shown}");
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
