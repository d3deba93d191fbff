//! The parameters of a query, and the values that several queries share.

use jiff::Timestamp;

use super::{faults::Faults, values::whole};
use crate::reply::Problem;

/// The most faults in one answer: a query has room for thousands.
const MOST_FAULTS: usize = 8;

const REPEATED: &str = "must be given once, not several times";

/// Hands each parameter of `query` to `read`, which returns whether it knows the name. `known`
/// names those that there are. Records the faults of unknown and repeated ones.
pub(super) fn each<'a>(
    query: &'a [(String, String)],
    known: &str,
    faults: &mut Faults,
    mut read: impl FnMut(&'a str, &'a str, &mut Faults) -> bool,
) {
    let mut seen = Vec::new();
    for (name, value) in query {
        if seen.contains(&name) {
            faults.add(name, REPEATED);
            continue;
        }
        seen.push(name);
        if !read(name, value, faults) {
            let name: String = name.chars().take(64).collect();
            faults.add(
                &name,
                format!("is not a parameter; the parameters are {known}"),
            );
        }
    }
}

/// The value of the parameter `name`, for a query that may have others. Records it as a fault if
/// there are several.
pub(super) fn value_of<'a>(
    name: &str,
    query: &'a [(String, String)],
    faults: &mut Faults,
) -> Option<&'a str> {
    let mut values = query.iter().filter(|(known, _)| known == name);
    let (_, value) = values.next()?;
    if values.next().is_some() {
        faults.add(name, REPEATED);
        return None;
    }
    Some(value)
}

/// The answer to a query with faults.
pub(super) fn problem(mut faults: Faults) -> Problem {
    faults.0.truncate(MOST_FAULTS);
    Problem::validation(faults.0)
}

/// A time of RFC 3339.
pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    // Form decoding turns the plus of a time zone into a space where it was not escaped.
    let text = text.replace(' ', "+");
    let time = text.parse().ok().filter(|_| has_form(&text));
    time.ok_or_else(|| "must be a time of RFC 3339, such as 2026-11-24T08:00:00Z".to_owned())
}

/// Whether a time has the form of RFC 3339, section 5.6: the parser takes others of ISO 8601, too.
fn has_form(time: &str) -> bool {
    let is = |text: &str, form: &str| {
        let fits = |(byte, of_form): (u8, u8)| match of_form {
            b'0' => byte.is_ascii_digit(),
            other => byte.eq_ignore_ascii_case(&other),
        };
        text.len() == form.len() && text.bytes().zip(form.bytes()).all(fits)
    };
    let Some((moment, rest)) = time.split_at_checked("0000-00-00T00:00:00".len()) else {
        return false;
    };
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|it: char| it.is_ascii_digit()),
        None => rest,
    };
    is(moment, "0000-00-00T00:00:00") && ["Z", "+00:00", "-00:00"].iter().any(|it| is(zone, it))
}

/// A page size of at most `max`.
pub(super) fn limit(text: &str, max: usize) -> Result<usize, String> {
    whole(text)
        .and_then(|limit| usize::try_from(limit).ok())
        .filter(|limit| (1..=max).contains(limit))
        .ok_or_else(|| format!("must be a whole number from 1 to {max}"))
}
