//! The fixed headers of an HTTP handler.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::{
    super::{error::SettingError, layers::Layers},
    tables::{full_key, setting_name},
};
use crate::models::HandlerName;

/// Headers that the service sets itself, and those that belong to the connection or decide how the
/// answer is encoded.
const OURS: [&str; 17] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "idempotency-key",
    "keep-alive",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// What the names of further headers begin with.
const OUR_PREFIXES: [&str; 2] = ["storm-", "webhook-"];

/// The headers of a handler. Their values are marked as sensitive, so `Debug` does not show them.
pub(super) fn read(layers: &Layers, name: &HandlerName) -> Result<HeaderMap, SettingError> {
    let mut headers = HeaderMap::new();
    for header in layers.handlers().headers(name) {
        let key = full_key(name, &format!("headers.{header}"));
        let refused = |problem: String| SettingError::no_value(setting_name(&key), problem);
        let header_name = HeaderName::from_bytes(header.as_bytes()).map_err(|_| {
            refused(format!(
                "`{header}` is not the name of a header, such as x-api-key"
            ))
        })?;
        if is_ours(header) {
            let problem = "belongs to the service itself and is never passed on; remove it";
            return Err(refused(format!("`{header}` {problem}")));
        }
        let mut value = layers.try_parse_secret(&key, parse_value)?;
        value.set_sensitive(true);
        headers.insert(header_name, value);
    }
    Ok(headers)
}

fn is_ours(header: &str) -> bool {
    let begins = |prefix: &&str| header.starts_with(*prefix);
    OURS.contains(&header) || OUR_PREFIXES.iter().any(begins)
}

fn parse_value(text: &str) -> Result<HeaderValue, &'static str> {
    const ACCEPTED: &str =
        "expected visible ASCII characters and spaces, at least one, in one line";
    let is_value = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if text.is_empty() || !text.bytes().all(is_value) {
        return Err(ACCEPTED);
    }
    HeaderValue::from_str(text).map_err(|_| ACCEPTED)
}
