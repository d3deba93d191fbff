//! Variables that are lists: `name=value`, separated by commas.

use std::collections::HashMap;

use hyper::header::{HeaderName, HeaderValue};

/// The pairs of `list`, or `None` if an entry is no pair.
pub(super) fn pairs(list: &str) -> Option<Vec<(&str, &str)>> {
    list.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let (name, value) = entry.split_once('=')?;
            let (name, value) = (name.trim(), value.trim());
            (!name.is_empty()).then_some((name, value))
        })
        .collect()
}

/// The headers of `list`, whose values are still percent-encoded, or `None` if an entry is none.
pub(super) fn headers(list: &str) -> Option<HashMap<String, String>> {
    let is_header = |&(name, value): &(&str, &str)| {
        HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
    };
    let pairs = pairs(list)?;
    let are_headers = pairs.iter().all(is_header);
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    are_headers.then(|| pairs.into_iter().map(owned).collect())
}
