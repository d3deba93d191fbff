//! Parses the query of `GET /requests`.

use storm_shared::{
    models::Status,
    services::store::{ListPage, RequestFilter},
};

use super::{faults::Faults, query, values::HANDLER};
use crate::reply::Problem;

/// The default and the largest page size. An entry has at most a URL of 2048 characters and the
/// detail of a failure, so the largest page stays below a megabyte.
pub(super) const LIMIT: usize = 20;
pub(super) const MAX_LIMIT: usize = 100;

const KNOWN: &str = "`status`, `handler`, `created_after`, `created_before`, `limit` and `cursor`";

/// Parses a query. All parameters are optional: `status`, `handler`, `created_after` and
/// `created_before` (RFC 3339), `limit`, and `cursor`, the `next_cursor` of the previous page.
///
/// # Errors
/// 422, with every fault.
pub fn list(query: &[(String, String)]) -> Result<ListPage, Problem> {
    let mut faults = Faults::default();
    let mut filter = RequestFilter::default();
    let mut limit = LIMIT;
    let mut cursor = None;
    query::each(query, KNOWN, &mut faults, |name, value, faults| {
        match name {
            "status" => filter.status = faults.keep(name, read_status(value)),
            "handler" => {
                let handler = value.parse().map_err(|_| format!("must be {HANDLER}"));
                filter.handler = faults.keep(name, handler);
            }
            "created_after" => filter.created_after = faults.keep(name, query::time(value)),
            "created_before" => filter.created_before = faults.keep(name, query::time(value)),
            "limit" => {
                let read = faults.keep(name, query::limit(value, MAX_LIMIT));
                limit = read.unwrap_or(LIMIT);
            }
            "cursor" => cursor = Some(value),
            _ => return false,
        }
        true
    });
    if let (Some(after), Some(before)) = (filter.created_after, filter.created_before)
        && after >= before
    {
        faults.add("created_after", "must be earlier than `created_before`");
    }
    // With other faults the filter is not the one that was meant.
    let before = match cursor {
        Some(cursor) if faults.0.is_empty() => {
            let position = filter.position(cursor).ok_or_else(|| CURSOR.to_owned());
            faults.keep("cursor", position)
        }
        _ => None,
    };
    if !faults.0.is_empty() {
        return Err(query::problem(faults));
    }
    Ok(ListPage {
        filter,
        before,
        limit,
    })
}

const CURSOR: &str = "must be the `next_cursor` of the previous page, with the same `status`, \
                      `handler`, `created_after` and `created_before`; leave it out for the first \
                      page";

fn read_status(text: &str) -> Result<Status, String> {
    text.parse()
        .map_err(|_| "must be PENDING, PROCESSING, COMPLETED or FAILED".to_owned())
}

#[cfg(test)]
mod tests {
    use storm_shared::{models::RequestId, services::store::ListPage};

    use super::{super::faults::described, CURSOR, list};
    use crate::reply::Problem;

    fn read(pairs: &[(&str, &str)]) -> Result<ListPage, Problem> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        list(&pairs.iter().map(owned).collect::<Vec<_>>())
    }

    fn faults(pairs: &[(&str, &str)]) -> Vec<String> {
        described(&read(pairs).unwrap_err())
    }

    #[test]
    fn a_query_is_parsed_into_a_page() {
        let first = read(&[]).unwrap();
        assert_eq!((first.limit, first.before), (20, None));
        assert_eq!(
            first.filter,
            storm_shared::services::store::RequestFilter::default()
        );
        let filters = [
            ("status", "PROCESSING"),
            ("handler", "pdf"),
            ("created_after", "2026-11-24T09:00:00 01:00"), // as an unescaped plus arrives
            ("created_before", "2026-11-25T08:00:00Z"),
        ];
        let filter = read(&filters).unwrap().filter;
        assert_eq!(filter.handler.as_ref().unwrap().as_str(), "pdf");
        assert_eq!(
            filter.created_after.unwrap().to_string(),
            "2026-11-24T08:00:00Z"
        );
        let position = RequestId::generate();
        let cursor = filter.cursor(position);
        let paged = [&filters[..], &[("limit", "100"), ("cursor", &cursor)]].concat();
        let next = read(&paged).unwrap();
        assert_eq!((next.filter, next.limit), (filter, 100));
        assert_eq!(next.before, Some(position));
    }

    #[test]
    fn every_fault_of_a_query_is_reported_with_what_is_accepted() {
        assert_eq!(
            faults(&[
                ("status", "done"),
                ("handler", "a__b"),
                ("created_after", "yesterday"),
                ("created_before", "1764000000"),
                ("limit", "101"),
                ("page", "2"),
                ("limit", "1"),
            ]),
            [
                "status: must be PENDING, PROCESSING, COMPLETED or FAILED",
                "handler: must be the name of a handler, such as `report`",
                "created_after: must be a time of RFC 3339, such as 2026-11-24T08:00:00Z",
                "created_before: must be a time of RFC 3339, such as 2026-11-24T08:00:00Z",
                "limit: must be a whole number from 1 to 100",
                "page: is not a parameter; the parameters are `status`, `handler`, `created_after`, \
                 `created_before`, `limit` and `cursor`",
                "limit: must be given once, not several times",
            ]
        );
        let noon = "2026-11-24T12:00:00Z";
        assert_eq!(
            faults(&[("created_after", noon), ("created_before", noon)]),
            ["created_after: must be earlier than `created_before`"]
        );
    }

    #[test]
    fn a_cursor_of_other_filters_or_of_nobody_is_refused() {
        let cursor = read(&[("status", "FAILED")])
            .unwrap()
            .filter
            .cursor(RequestId::generate());
        for query in [
            &[("status", "COMPLETED"), ("cursor", &cursor)][..],
            &[("cursor", &cursor)],
            &[
                ("status", "FAILED"),
                ("handler", "pdf"),
                ("cursor", &cursor),
            ],
            &[("cursor", "")],
            &[("cursor", "0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42")],
        ] {
            assert_eq!(faults(query), [format!("cursor: {CURSOR}")]);
        }
    }

    #[test]
    fn a_thousand_unknown_parameters_get_a_short_answer() {
        let many: Vec<_> = (0..1000).map(|n| format!("p{n}")).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), "")).collect();
        assert_eq!(faults(&many).len(), 8);
    }
}
