//! The marker of callbacks: a request header that the API knows its own callbacks by.

/// The header that every callback carries, in lower case; its value is `1`.
///
/// A callback's URL can lead to the API itself. With the marker, the API tells such a request from
/// a client's, so that a callback cannot start another one (a loop).
pub const CALLBACK_MARKER: &str = "storm-callback";
