//! Parses what operators send to `/admin`.

use serde_json::value::RawValue;
use storm_shared::services::store::Paused;

use super::{
    faults::Faults,
    fields::{self, Members},
    query, values,
};
use crate::reply::Problem;

/// The default and the largest page of the audit.
pub(super) const LIMIT: usize = 20;
pub(super) const MAX_LIMIT: usize = 100;

/// A page of the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditPage {
    /// Only records before this number.
    pub before: Option<i64>,
    /// Maximum number of records.
    pub limit: usize,
}

/// Parses the query of `GET /admin/audit`: `limit`, and `cursor`, the `next_cursor` of the previous
/// page.
///
/// # Errors
/// 422, with every fault.
pub fn audit(query: &[(String, String)]) -> Result<AuditPage, Problem> {
    let mut faults = Faults::default();
    let mut page = AuditPage {
        before: None,
        limit: LIMIT,
    };
    query::each(
        query,
        "`limit` and `cursor`",
        &mut faults,
        |name, value, faults| {
            match name {
                "limit" => {
                    let limit = faults.keep(name, query::limit(value, MAX_LIMIT));
                    page.limit = limit.unwrap_or(LIMIT);
                }
                "cursor" => {
                    let cursor = value.parse().ok().filter(|before| *before > 0);
                    let cursor = cursor.ok_or("must be the `next_cursor` of the previous page");
                    page.before = faults.keep(name, cursor.map_err(str::to_owned));
                }
                _ => return false,
            }
            true
        },
    );
    if faults.0.is_empty() {
        Ok(page)
    } else {
        Err(query::problem(faults))
    }
}

/// Parses the body of a pause or a resumption: `{"everything": true}` or `{"origin": "https://…"}`.
///
/// # Errors
/// 400 if it is not a JSON object; 422, with every fault, if its fields are invalid.
pub fn paused(body: &[u8]) -> Result<Paused, Problem> {
    let example = r#"{"everything": true} or {"origin": "https://example.com"}"#;
    let members: Members<'_> = fields::object(body, || Problem::no_object_such_as(example))?;
    let mut faults = Faults::default();
    let (mut everything, mut origin) = (None, None);
    each(
        &members,
        "`everything` and `origin`",
        &mut faults,
        |name, value, faults| {
            match name {
                "everything" => everything = faults.keep(name, is_true(value)),
                "origin" => {
                    let read = values::origin(value);
                    origin = faults.keep(name, read);
                }
                _ => return false,
            }
            true
        },
    );
    match (everything, origin) {
        _ if !faults.0.is_empty() => Err(query::problem(faults)),
        (Some(()), None) => Ok(Paused::Everything),
        (None, Some(origin)) => Ok(Paused::Origin(origin)),
        (Some(()), Some(_)) => {
            faults.add("everything", "must be left out where `origin` is given");
            Err(query::problem(faults))
        }
        // Nothing is paused by a body that was lost on its way.
        (None, None) => {
            faults.add(
                "everything",
                format!("is missing, as is `origin`: send exactly one of them, such as {example}"),
            );
            Err(query::problem(faults))
        }
    }
}

/// Hands each member to `read`, which returns whether it knows the name. `known` names those that
/// there are. Records the faults of unknown and repeated ones.
pub(super) fn each<'a>(
    members: &'a Members<'a>,
    known: &str,
    faults: &mut Faults,
    mut read: impl FnMut(&'a str, &'a RawValue, &mut Faults) -> bool,
) {
    let mut seen = Vec::new();
    for (name, value) in &members.0 {
        if seen.contains(&name) {
            faults.add(name, "must be given once, not several times");
            continue;
        }
        seen.push(name);
        if !read(name, value, faults) {
            let name: String = name.chars().take(64).collect();
            faults.add(&name, format!("is not a field; the fields are {known}"));
        }
    }
}

pub(super) fn is_true(value: &RawValue) -> Result<(), String> {
    if value.get() == "true" {
        Ok(())
    } else {
        Err("must be true, or left out".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::services::store::Paused;

    use super::{super::faults::described, AuditPage, audit, paused};

    fn faults(body: &str) -> Vec<String> {
        described(&paused(body.as_bytes()).unwrap_err())
    }

    #[test]
    fn a_pause_is_of_everything_or_of_one_origin() {
        let all = paused(br#"{"everything": true}"#).unwrap();
        assert_eq!(all, Paused::Everything);
        let one = paused(br#"{"origin": "HTTPS://Example.com:443"}"#).unwrap();
        let origin = "https://example.com".parse().unwrap();
        assert_eq!(one, Paused::Origin(origin));
    }

    #[test]
    fn every_fault_of_a_pause_is_reported_and_an_empty_one_pauses_nothing() {
        let missing = "everything: is missing, as is `origin`: send exactly one of them, such as \
                       {\"everything\": true} or {\"origin\": \"https://example.com\"}";
        assert_eq!(faults("{}"), [missing]);
        assert_eq!(
            faults(r#"{"everything": true, "origin": "https://a.example"}"#),
            ["everything: must be left out where `origin` is given"]
        );
        assert_eq!(
            faults(r#"{"everything": false, "origin": "https://a.example/hook", "orign": 1}"#),
            [
                "everything: must be true, or left out",
                "origin: must be scheme, host and port, such as `https://hooks.example`",
                "orign: is not a field; the fields are `everything` and `origin`",
            ]
        );
        assert_eq!(
            faults(r#"{"origin": 7, "origin": 8}"#),
            [
                "origin: must be scheme, host and port, such as `https://hooks.example`, not a number",
                "origin: must be given once, not several times",
            ]
        );
        let problem = paused(b"[]").unwrap_err();
        assert!(problem.detail().contains("everything"), "{problem:?}");
    }

    #[test]
    fn a_page_of_the_audit_has_a_limit_and_a_cursor() {
        let query = |pairs: &[(&str, &str)]| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            audit(&pairs.iter().map(owned).collect::<Vec<_>>())
        };
        let first = AuditPage {
            before: None,
            limit: 20,
        };
        assert_eq!(query(&[]), Ok(first));
        let next = query(&[("limit", "100"), ("cursor", "7")]).unwrap();
        assert_eq!((next.before, next.limit), (Some(7), 100));
        let faults = query(&[("limit", "101"), ("cursor", "-1"), ("a", "")]).unwrap_err();
        assert_eq!(
            described(&faults),
            [
                "limit: must be a whole number from 1 to 100",
                "cursor: must be the `next_cursor` of the previous page",
                "a: is not a parameter; the parameters are `limit` and `cursor`",
            ]
        );
    }
}
