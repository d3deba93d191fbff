//! Durations in settings and options: one number and one unit, such as `250ms`, `10s` or `90m`.

use std::time::Duration;

/// Parses a duration.
///
/// humantime also adds up several durations, with or without spaces, and takes a bare `0`: a list
/// such as `1s 2s` would silently be its sum.
pub fn parse(text: &str) -> Option<Duration> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    if unit.is_empty() || !unit.chars().all(char::is_alphabetic) {
        return None;
    }
    humantime::parse_duration(text).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::parse;

    #[test]
    fn a_duration_is_one_number_and_one_unit() {
        assert_eq!(parse("0s"), Some(Duration::ZERO));
        assert_eq!(parse("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse("90m"), Some(Duration::from_mins(90)));
        for text in [
            "", "0", "5", "s", "1s 2s", "1s2s", "1h30m", "1s,2s", "-1s", "1.5s", "+1s",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
