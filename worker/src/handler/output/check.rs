//! What JSON parsers may refuse in a text that is valid by the grammar.

use super::{InvalidOutput, Output};

/// Finds a nesting that is too deep, and escapes of half a surrogate pair (RFC 8259, section 8.2),
/// in `json`, which is valid by the grammar.
pub(super) fn check(json: &str) -> Result<(), InvalidOutput> {
    let bytes = json.as_bytes();
    let (mut at, mut depth, mut in_string) = (0, 0_usize, false);
    while let Some(byte) = bytes.get(at) {
        match (in_string, byte) {
            (true, b'\\') => at += escape(bytes, at)? - 1,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => depth += 1,
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > Output::MAX_DEPTH {
            return Err(InvalidOutput::TooDeep);
        }
        at += 1;
    }
    Ok(())
}

/// The length of the escape at `at`. A surrogate pair counts as one.
fn escape(bytes: &[u8], at: usize) -> Result<usize, InvalidOutput> {
    match code_unit(bytes, at) {
        None => Ok(2),
        Some(0xd800..=0xdbff) => match code_unit(bytes, at + 6) {
            Some(0xdc00..=0xdfff) => Ok(12),
            _ => Err(InvalidOutput::LoneSurrogate),
        },
        Some(0xdc00..=0xdfff) => Err(InvalidOutput::LoneSurrogate),
        Some(_) => Ok(6),
    }
}

/// The UTF-16 code unit of the escape `\uXXXX` at `at`, if there is one.
fn code_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(br"\u")?;
    u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};
    use serde_json::Value;

    use crate::handler::{InvalidOutput, Output};

    fn from_json(text: &str) -> Result<Output, InvalidOutput> {
        Output::from_json(text.to_owned())
    }

    #[test]
    fn json_is_kept_byte_for_byte() {
        for text in [
            "null",
            "-0.0e-0",
            "123456789012345678901234567890.10",
            "1e400",
            r#"{"b":1,  "a":[ ],"b":2}"#,
            r#""\u0000 \/ \ud83d\ude00 \uD83D\uDE00 \\ud800 \" [[""#,
            r#""é\u00e9""#,
        ] {
            assert_eq!(from_json(text).unwrap().as_str(), text);
        }
        assert_eq!(from_json(" [ 1]\r\n").unwrap().as_str(), "[ 1]");
    }

    #[test]
    fn nesting_is_bounded_in_arrays_and_objects_and_not_in_strings() {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let nested = |depth| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            assert!(from_json(&nested(128)).is_ok());
            for depth in [129, 100_000] {
                let refused = from_json(&nested(depth)).unwrap_err();
                assert!(matches!(refused, InvalidOutput::TooDeep), "{refused}");
            }
        }
        assert!(from_json(&format!("[{}[]]", "[],".repeat(1000))).is_ok());
        assert!(from_json(&format!(r#""\\{}\"{{""#, "[".repeat(1000))).is_ok());
    }

    #[test]
    fn half_a_surrogate_pair_is_refused_wherever_it_stands() {
        for text in [
            r#""\ud800""#,
            r#""\uDBFFx""#,
            r#""\udc00""#,
            r#""\ud800\u0041""#,
            r#""\ud800\ud800\udc00""#,
            r#""\ud800\n""#,
            r#"{"\udfff":1}"#,
            r#"["ok",{"a":"\ude00\ud83d"}]"#,
        ] {
            let refused = from_json(text).unwrap_err();
            assert!(matches!(refused, InvalidOutput::LoneSurrogate), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_string_is_accepted_exactly_if_a_strict_parser_accepts_it(
            parts in prop::collection::vec(
                select(&[
                    "\\ud83d", "\\uDE00", "\\u0000", "\\u", "d800", "\\\\", "\\", "\"", "n", "[", "é",
                ]),
                0..8,
            ),
        ) {
            let text = format!("\"{}\"", parts.concat());
            let expected = serde_json::from_str::<Value>(&text).is_ok();
            prop_assert_eq!(from_json(&text).is_ok(), expected, "{}", text);
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "", " ", "nul", "{", "[1,]", "'a'", "01", "\"\0\"", r#""\x""#, "1 2",
        ] {
            let refused = from_json(text).unwrap_err();
            assert!(matches!(refused, InvalidOutput::Syntax(_)), "{text}");
        }
    }
}
