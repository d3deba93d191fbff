//! The list of requests: filters, pages, and the cursors between them. Value types, no SQL.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{Timestamp, TimestampRound, Unit};
use sha2::{Digest as _, Sha256};

use crate::models::{HandlerName, RequestId, RequestSummary, Status};

/// Which requests a list has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestFilter {
    /// Only requests with this status.
    pub status: Option<Status>,
    /// Only requests of this handler.
    pub handler: Option<HandlerName>,
    /// Only requests that were accepted at this time or later, by the wall clock.
    pub created_after: Option<Timestamp>,
    /// Only requests that were accepted before this time.
    pub created_before: Option<Timestamp>,
}

/// A page of the list, by keyset pagination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage {
    /// The requests of the list.
    pub filter: RequestFilter,
    /// Only requests with a smaller id. Pass [`RequestList::next`] of the page before.
    pub before: Option<RequestId>,
    /// Maximum number of requests.
    pub limit: usize,
}

/// One page of requests.
#[derive(Clone, Debug, Default)]
pub struct RequestList {
    /// The requests, newest first: in the reverse order of their ids.
    pub requests: Vec<RequestSummary>,
    /// Where the next page begins, if there may be one.
    pub next: Option<RequestId>,
}

impl RequestFilter {
    /// The cursor of the page that begins at `position`: URL-safe, and for this filter only.
    pub fn cursor(&self, position: RequestId) -> String {
        let id = position.to_string().replace('-', "");
        format!("{id}{}", self.check(position))
    }

    /// The position in a `cursor` of this filter; `None` for any other text.
    ///
    /// A cursor can be forged. It says where to begin, and not which requests may be seen.
    pub fn position(&self, cursor: &str) -> Option<RequestId> {
        let (id, _) = cursor.split_at_checked(32)?;
        let position = id.parse().ok()?;
        // One position has one spelling.
        (self.cursor(position) == cursor).then_some(position)
    }

    /// Tells a cursor of another filter, or one that is cut off or mistyped.
    fn check(&self, position: RequestId) -> String {
        let millis = |at: Option<Timestamp>| at.map(|at| in_millis(at).as_millisecond());
        let (after, before) = (millis(self.created_after), millis(self.created_before));
        let mut text = format!("{position} {:?} {after:?} {before:?}", self.status);
        // Without one, the cursors are those of the previous release.
        if let Some(handler) = &self.handler {
            text.push(' ');
            text.push_str(handler.as_str());
        }
        URL_SAFE_NO_PAD.encode(&Sha256::digest(text)[..9])
    }
}

/// The first whole millisecond from `at` on. A time that is stored in milliseconds is not before
/// the one exactly if it is not before the other.
pub(super) fn in_millis(at: Timestamp) -> Timestamp {
    let round = TimestampRound::new()
        .smallest(Unit::Millisecond)
        .mode(jiff::RoundMode::Ceil);
    // Only the last millisecond of the year 9999 can't be rounded up.
    at.round(round).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{RequestFilter, in_millis};
    use crate::models::{RequestId, Status};

    #[test]
    fn a_cursor_is_url_safe_and_of_one_filter() {
        let position = RequestId::generate();
        let at = Some(Timestamp::UNIX_EPOCH);
        let filters = [
            RequestFilter::default(),
            RequestFilter {
                status: Some(Status::Failed),
                ..RequestFilter::default()
            },
            RequestFilter {
                created_after: at,
                ..RequestFilter::default()
            },
            RequestFilter {
                created_before: at,
                ..RequestFilter::default()
            },
        ];
        for filter in &filters {
            let cursor = filter.cursor(position);
            let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            assert!(cursor.bytes().all(is_unreserved), "{cursor}");
            for other in &filters {
                let is_it = other == filter;
                assert_eq!(other.position(&cursor), is_it.then_some(position));
            }
        }
    }

    #[test]
    fn any_other_text_is_no_cursor() {
        let filter = RequestFilter::default();
        let cursor = filter.cursor(RequestId::generate());
        let other = filter.cursor(RequestId::generate());
        for text in [
            String::new(),
            "x".to_owned(),
            RequestId::generate().to_string(),
            cursor[..43].to_owned(),
            format!("{cursor}0"),
            cursor.to_uppercase(),
            format!("{}{}", &cursor[..32], &other[32..]),
            "é".repeat(40),
        ] {
            assert_eq!(filter.position(&text), None, "{text}");
        }
    }

    #[test]
    fn a_time_between_two_milliseconds_is_the_second() {
        for (at, rounded) in [
            ("2026-11-24T08:00:00Z", "2026-11-24T08:00:00Z"),
            ("2026-11-24T08:00:00.0000001Z", "2026-11-24T08:00:00.001Z"),
            ("1969-12-31T23:59:59.9990001Z", "1970-01-01T00:00:00Z"),
        ] {
            let at: Timestamp = at.parse().unwrap();
            assert_eq!(in_millis(at).to_string(), rounded);
        }
        assert_eq!(in_millis(Timestamp::MAX), Timestamp::MAX);
    }
}
