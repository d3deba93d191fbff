//! Parses the query of `POST /requests/redeliver`.

use storm_shared::{models::Status, services::store::RedeliveryPage};

use super::{faults::Faults, query};
use crate::reply::Problem;

/// The default and the largest page size.
pub(super) const LIMIT: usize = 100;
pub(super) const MAX_LIMIT: usize = 1000;

const KNOWN: &str = "`status`, `since`, `limit` and `cursor`";

/// Parses a query: `status` (`FAILED` or `COMPLETED`), and optionally `since` (accepted at or
/// after, RFC 3339), `limit` and `cursor` (that of the previous page).
///
/// # Errors
/// 422, with every fault.
pub fn page(query: &[(String, String)]) -> Result<RedeliveryPage, Problem> {
    let mut faults = Faults::default();
    let mut page = RedeliveryPage {
        status: Status::Failed,
        since: None,
        after: None,
        limit: LIMIT,
    };
    let mut status = None;
    let mut has_status = false;
    query::each(query, KNOWN, &mut faults, |name, value, faults| {
        match name {
            "status" => {
                has_status = true;
                status = faults.keep(name, read_status(value));
            }
            "since" => page.since = faults.keep(name, query::time(value)),
            "limit" => {
                let limit = faults.keep(name, query::limit(value, MAX_LIMIT));
                page.limit = limit.unwrap_or(LIMIT);
            }
            "cursor" => {
                let cursor = value.parse();
                let cursor =
                    cursor.map_err(|_| "must be the `cursor` of the previous page".to_owned());
                page.after = faults.keep(name, cursor);
            }
            _ => return false,
        }
        true
    });
    if !has_status {
        faults.add("status", format!("is missing; it {STATUS}"));
    }
    match status {
        Some(status) if faults.0.is_empty() => Ok(RedeliveryPage { status, ..page }),
        _ => Err(query::problem(faults)),
    }
}

const STATUS: &str = "must be FAILED or COMPLETED";

fn read_status(text: &str) -> Result<Status, String> {
    match text.parse() {
        Ok(status @ (Status::Failed | Status::Completed)) => Ok(status),
        _ => Err(STATUS.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::models::Status;

    use super::{super::faults::described, page};

    fn query(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn faults(pairs: &[(&str, &str)]) -> Vec<String> {
        described(&page(&query(pairs)).unwrap_err())
    }

    #[test]
    fn a_query_is_parsed_into_a_page() {
        let first = page(&query(&[("status", "FAILED")])).unwrap();
        assert_eq!((first.status, first.limit), (Status::Failed, 100));
        assert!(first.since.is_none() && first.after.is_none());
        let next = page(&query(&[
            ("since", "2026-11-24T09:00:00 01:00"), // as an unescaped plus arrives
            ("status", "COMPLETED"),
            ("limit", "1000"),
            ("cursor", "0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42"),
        ]))
        .unwrap();
        assert_eq!((next.status, next.limit), (Status::Completed, 1000));
        assert_eq!(next.since.unwrap().to_string(), "2026-11-24T08:00:00Z");
        assert!(next.after.is_some());
    }

    #[test]
    fn every_fault_of_a_query_is_reported_with_what_is_accepted() {
        assert_eq!(
            faults(&[]),
            ["status: is missing; it must be FAILED or COMPLETED"]
        );
        assert_eq!(
            faults(&[
                ("status", "PENDING"),
                ("since", "yesterday"),
                ("limit", "1001"),
                ("cursor", "x"),
                ("until", "now"),
                ("limit", "1"),
            ]),
            [
                "status: must be FAILED or COMPLETED",
                "since: must be a time of RFC 3339, such as 2026-11-24T08:00:00Z",
                "limit: must be a whole number from 1 to 1000",
                "cursor: must be the `cursor` of the previous page",
                "until: is not a parameter; the parameters are `status`, `since`, `limit` and `cursor`",
                "limit: must be given once, not several times",
            ]
        );
    }
}
