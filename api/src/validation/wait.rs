//! The query of `GET /requests/{id}`: how long to wait for the end of the request.

use std::time::Duration;

use storm_shared::duration;

use super::{
    faults::Faults,
    query::{problem, value_of},
};
use crate::{reply::Problem, waiters::MAX_WAIT};

/// The wait that a query asks for, at most [`MAX_WAIT`]. `None` without one. Other parameters are
/// ignored.
///
/// # Errors
/// `wait` is repeated or is no duration.
pub fn wait(query: &[(String, String)]) -> Result<Option<Duration>, Problem> {
    let mut faults = Faults::default();
    let text = value_of("wait", query, &mut faults);
    let wait = text.and_then(|text| faults.keep("wait", parse(text)));
    if faults.0.is_empty() {
        Ok(wait)
    } else {
        Err(problem(faults))
    }
}

fn parse(text: &str) -> Result<Duration, String> {
    // No other unit of a duration, and no number that is not as described.
    let (digits, unit) = text.split_at(text.find(|it: char| !it.is_ascii_digit()).unwrap_or(0));
    let is_described = (1..=9).contains(&digits.len()) && ["ms", "s", "m"].contains(&unit);
    duration::parse(text)
        .filter(|_| is_described)
        .map(|wait| wait.min(MAX_WAIT))
        .ok_or_else(|| {
            "must be a whole number and the unit `ms`, `s` or `m`, such as 20s or 500ms".to_owned()
        })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::faults::described, wait};

    fn query(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn a_wait_is_a_duration_and_is_clipped() {
        for (text, millis) in [
            ("20s", 20_000),
            ("500ms", 500),
            ("0s", 0),
            ("1m", 60_000),
            ("61s", 60_000),
            ("999999999m", 60_000),
        ] {
            let asked = wait(&query(&[("wait", text)]));
            assert_eq!(asked, Ok(Some(Duration::from_millis(millis))), "{text}");
        }
        assert_eq!(wait(&[]), Ok(None));
        let others = query(&[("waiting", "x"), ("Wait", "x"), ("a", "1"), ("a", "2")]);
        assert_eq!(wait(&others), Ok(None));
    }

    #[test]
    fn a_wait_that_is_no_duration_is_refused_with_what_is_accepted() {
        for text in [
            "",
            "20",
            "s",
            "-1s",
            "1.5s",
            "1s 2s",
            "1h",
            "20sec",
            "1000000000s",
            "soon",
            "99999999999999999999s",
        ] {
            let faults = described(&wait(&query(&[("wait", text)])).unwrap_err());
            assert_eq!(
                faults,
                [concat!(
                    "wait: must be a whole number and the unit `ms`, `s` or `m`, such as 20s or ",
                    "500ms"
                )],
                "{text}"
            );
        }
        let twice = query(&[("wait", "1s"), ("wait", "1s")]);
        assert_eq!(
            described(&wait(&twice).unwrap_err()),
            ["wait: must be given once, not several times"]
        );
    }
}
