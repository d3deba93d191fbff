//! Parses the value of a field, or says what is accepted instead.

use serde_json::value::RawValue;
use storm_shared::{
    models::{CallbackUrl, Origin, OriginError, Records, ReportName},
    services::ssrf::{Policy, Rule},
};

/// What the name of a handler must be.
pub(super) const HANDLER: &str = "the name of a handler, such as `report`";

/// A number of records, at most `max`.
pub(super) fn records(sent: Option<&RawValue>, max: u32) -> Result<Records, String> {
    // 0 is out of bounds, so anything but a 64-bit whole number gets the message for a bad number.
    let count = sent.and_then(|sent| whole(sent.get())).unwrap_or_default();
    Records::new(count, max).map_err(|error| match sent.map(kind) {
        None => format!("is missing; it {error}"),
        Some(NUMBER) => error.to_string(),
        Some(kind) => format!("{error}, not {kind}"),
    })
}

/// A whole number that is not negative, in any spelling of JSON: `10.0` and `1e1` are 10, as they
/// are for JSON Schema.
pub(super) fn whole(json: &str) -> Option<u64> {
    /// Up to here, a double tells each whole number from the next.
    const MOST: f64 = 9_007_199_254_740_991.0;

    json.parse().ok().or_else(|| {
        let number: f64 = serde_json::from_str(json).ok()?;
        let is_whole = number.fract() == 0.0 && (0.0..=MOST).contains(&number);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is whole, and within the bounds"
        )]
        is_whole.then_some(number as u64)
    })
}

/// The bounds of [`ReportName`].
const NAME: &str = "a string of 1 to 200 characters";

pub(super) fn report_name(sent: Option<&RawValue>) -> Result<ReportName, String> {
    let sent = sent.ok_or_else(|| format!("is missing; it must be {NAME}"))?;
    ReportName::try_from(string(sent, NAME)?).map_err(|error| error.to_string())
}

/// A fault of a `callback_url`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CallbackFault {
    pub(super) detail: String,
    /// The rule of the SSRF policy that refused it, if one did.
    pub(super) refused_by: Option<Rule>,
}

impl From<String> for CallbackFault {
    fn from(detail: String) -> Self {
        Self {
            detail,
            refused_by: None,
        }
    }
}

/// A URL that `policy` allows, as far as can be known without a look-up.
pub(super) fn callback_url(sent: &RawValue, policy: &Policy) -> Result<CallbackUrl, CallbackFault> {
    let url = string(sent, "an absolute http or https URL, null, or left out")?;
    let url = CallbackUrl::parse(&url).map_err(|error| error.to_string())?;
    // No look-up at submission: a name can resolve differently later, so the worker checks its
    // addresses when it connects.
    policy.check_url(&url).map_err(|refusal| CallbackFault {
        refused_by: Some(refusal.rule),
        detail: match refusal.rule {
            Rule::Port => {
                let port = url.port();
                format!("must have a port that callbacks may use; port {port} is refused")
            }
            rule => format!("must lead to a public address; this one is {rule}"),
        },
    })?;
    Ok(url)
}

/// The origin of callbacks.
pub(super) fn origin(sent: &RawValue) -> Result<Origin, String> {
    let text = string(sent, OriginError::ACCEPTED)?;
    text.parse().map_err(|error: OriginError| error.to_string())
}

/// A string; `accepted` says what of.
pub(super) fn string(sent: &RawValue, accepted: &str) -> Result<String, String> {
    serde_json::from_str(sent.get()).map_err(|_| match kind(sent) {
        // JSON's escapes can spell a lone surrogate, such as "\ud800", which is no character.
        STRING => format!("must be {accepted}, in whole Unicode characters"),
        kind => format!("must be {accepted}, not {kind}"),
    })
}

/// The most levels of arrays and objects within each other that a payload may have. Parsers that
/// recurse have limits, and a handler's must not be met by what a client sends.
pub(super) const MAX_NESTING: usize = 128;

/// A payload that a handler's parser can read.
pub(super) fn payload(sent: Option<&RawValue>) -> Result<&RawValue, String> {
    let sent = sent.ok_or("is missing; it may be any JSON, also null")?;
    if nesting(sent) > MAX_NESTING {
        return Err(format!(
            "must have at most {MAX_NESTING} levels of arrays and objects within each other"
        ));
    }
    Ok(sent)
}

/// The most levels of arrays and objects within each other.
fn nesting(value: &RawValue) -> usize {
    let (mut level, mut most) = (0_usize, 0);
    let (mut in_string, mut is_escaped) = (false, false);
    for byte in value.get().bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true, // JSON has it in strings only
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                level += 1;
                most = most.max(level);
            }
            b']' | b'}' => level = level.saturating_sub(1),
            _ => {}
        }
    }
    most
}

const NUMBER: &str = "a number";
const STRING: &str = "a string";

/// The JSON type of a value, by its first byte.
pub(super) fn kind(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'"') => STRING,
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        // The JSON is valid, so what is left begins with a digit or a minus.
        _ => NUMBER,
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::services::ssrf::Policy;

    use super::{MAX_NESTING, RawValue, callback_url, nesting, payload, records, report_name};

    fn raw(json: impl Into<String>) -> Box<RawValue> {
        RawValue::from_string(json.into()).unwrap()
    }

    #[test]
    fn nesting_counts_arrays_and_objects_and_no_brackets_in_strings() {
        for (json, levels) in [
            ("null", 0),
            ("[]", 1),
            (r#"{"a": [1, {"b": []}], "c": [[]]}"#, 4),
            ("[[], [], []]", 2),
            (r#""[[[""#, 0),
            (r#"["\"[[", "\\", "]]]", "{"]"#, 1),
            (r#"{"[[": "\\\"{{"}"#, 1),
        ] {
            assert_eq!(nesting(&raw(json)), levels, "{json}");
        }
        let deep = |levels| raw(format!("{}{}", "[".repeat(levels), "]".repeat(levels)));
        assert!(payload(Some(&deep(MAX_NESTING))).is_ok());
        let fault = payload(Some(&deep(MAX_NESTING + 1))).unwrap_err();
        assert!(fault.contains("at most 128 levels"), "{fault}");
    }

    #[test]
    fn only_whole_numbers_within_the_bounds_are_records() {
        for json in [
            "0",
            "50",
            "-1",
            "-0",
            "50.0",
            "10.5",
            "1e2",
            "1e-1",
            "-1.0",
            "1e999",
            "99999999999999999999", // > 64 bits
        ] {
            let fault = records(Some(&raw(json)), 49).unwrap_err();
            assert_eq!(fault, "must be a whole number from 1 to 49", "{json}");
        }
        for count in [1, 49] {
            for spelling in [
                format!("{count}"),
                format!("{count}.0"),
                format!("{count}0e-1"),
            ] {
                let sent = raw(spelling);
                assert_eq!(records(Some(&sent), 49).unwrap().count(), count);
            }
        }
    }

    #[test]
    fn a_wrong_type_is_named_beside_what_is_accepted() {
        for (json, kind) in [
            ("null", "null"),
            ("true", "a boolean"),
            (r#""10""#, "a string"),
            ("[10]", "an array"),
            (r#"{"n": 10}"#, "an object"),
        ] {
            let fault = records(Some(&raw(json)), 49).unwrap_err();
            assert_eq!(
                fault,
                format!("must be a whole number from 1 to 49, not {kind}")
            );
        }
        let fault = report_name(Some(&raw("7"))).unwrap_err();
        assert_eq!(
            fault,
            "must be a string of 1 to 200 characters, not a number"
        );
        let fault = callback_url(&raw("[]"), &Policy::default()).unwrap_err();
        assert!(fault.detail.ends_with("not an array"), "{fault:?}");
    }

    #[test]
    fn a_missing_field_is_reported_with_what_is_accepted() {
        let fault = records(None, 49).unwrap_err();
        assert_eq!(fault, "is missing; it must be a whole number from 1 to 49");
        let fault = report_name(None).unwrap_err();
        assert_eq!(
            fault,
            "is missing; it must be a string of 1 to 200 characters"
        );
    }

    #[test]
    fn the_length_of_a_name_is_counted_in_characters() {
        let longest = raw(format!("\"{}\"", "é".repeat(200)));
        assert!(report_name(Some(&longest)).is_ok());
        let too_long = raw(format!("\"{}\"", "é".repeat(201)));
        let fault = report_name(Some(&too_long)).unwrap_err();
        assert_eq!(fault, "must have 1 to 200 characters, not 201");
        let half = raw(r#""\ud800""#);
        assert!(report_name(Some(&half)).unwrap_err().contains("whole"));
    }

    #[test]
    fn a_callback_url_that_the_policy_refuses_is_answered_with_the_rule_only() {
        let not_public = |class| format!("must lead to a public address; this one is {class}");
        for (url, fault) in [
            ("http://127.0.0.1/", not_public("loopback")),
            ("http://LOCALHOST.:8001/", not_public("loopback")),
            ("http://a.localhost/", not_public("loopback")),
            ("http://0x7f.1/", not_public("loopback")),
            ("http://2130706433/", not_public("loopback")),
            ("http://017700000001/", not_public("loopback")),
            ("http://１２７.0.0.1/", not_public("loopback")),
            ("http://[::1]/", not_public("loopback")),
            ("http://[::ffff:10.0.0.1]/", not_public("private")),
            ("http://169.254.169.254/", not_public("link_local")),
            (
                "http://example.com:25/",
                "must have a port that callbacks may use; port 25 is refused".to_owned(),
            ),
            (
                "http://u:p@example.com/",
                "must not carry a user name or a password".to_owned(),
            ),
        ] {
            let sent = raw(format!("\"{url}\""));
            let refused = callback_url(&sent, &Policy::default()).unwrap_err();
            let by_policy = !url.contains("u:p@");
            assert_eq!(refused.refused_by.is_some(), by_policy, "{url}");
            assert_eq!(refused.detail, fault, "{url}");
        }
    }
}
