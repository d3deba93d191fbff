//! The trace that a request belongs to: the `traceparent` of W3C Trace Context.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::RequestId;

/// A trace, the caller's span in it, and whether the caller records the trace.
///
/// Its text always has version 00, whatever version the caller sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Traceparent {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

/// The text is not a valid `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected a traceparent such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
pub struct TraceparentError;

/// The length of `00-<32 digits>-<16 digits>-<2 digits>`.
const LENGTH: usize = 55;

/// Flag: the caller may have recorded its part of the trace.
const SAMPLED: u8 = 0b01;
/// Flag: the trace id is random.
const RANDOM: u8 = 0b10;

impl Traceparent {
    /// A new trace for a request without a `traceparent`. Its trace id is the request id, so that
    /// the trace can be found by the request. The sampled flag is not set.
    pub fn of(id: RequestId) -> Self {
        let (trace_id, parent_id) = id.as_numbers();
        Self {
            trace_id,
            parent_id,
            // Not sampled: no caller has recorded a part of this trace.
            flags: 0,
        }
    }

    /// The trace id as other services log it: 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The trace context with these ids and flags. Only the defined flags are kept.
    ///
    /// The ids of a span are never zeros only.
    pub fn from_numbers(trace_id: u128, parent_id: u64, flags: u8) -> Self {
        Self {
            trace_id,
            parent_id,
            flags: flags & (SAMPLED | RANDOM),
        }
    }

    /// The trace id as a number.
    pub fn trace_number(self) -> u128 {
        self.trace_id
    }

    /// The id of the caller's span as a number.
    pub fn parent_number(self) -> u64 {
        self.parent_id
    }

    /// The flags.
    pub fn flags(self) -> u8 {
        self.flags
    }

    /// The same trace context for a trace of which no part is recorded here.
    pub fn unsampled(self) -> Self {
        Self {
            flags: self.flags & !SAMPLED,
            ..self
        }
    }

    /// The specification forbids ids of zeros only.
    fn is_valid(self) -> bool {
        self.trace_id != 0 && self.parent_id != 0
    }
}

impl FromStr for Traceparent {
    type Err = TraceparentError;

    /// Parses version 00 exactly. Of a higher version, parses the part that it shares with 00, as
    /// the specification requires.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (known, more) = text.split_at_checked(LENGTH).ok_or(TraceparentError)?;
        let mut fields = known.split('-');
        let mut next = || fields.next().unwrap_or_default();
        let version: u8 = hex(next(), 2)?;
        // Of a higher version, only the sampled flag is known to keep its meaning. Version ff is
        // forbidden.
        let understood = match version {
            0x00 if more.is_empty() => SAMPLED | RANDOM,
            0x01..=0xfe if more.is_empty() || more.starts_with('-') => SAMPLED,
            _ => return Err(TraceparentError),
        };
        let parsed = Self {
            trace_id: hex(next(), 32)?,
            parent_id: hex(next(), 16)?,
            flags: hex::<u8>(next(), 2)? & understood,
        };
        if parsed.is_valid() {
            Ok(parsed)
        } else {
            Err(TraceparentError)
        }
    }
}

/// Parses a field of exactly `digits` lower-case hexadecimal digits.
fn hex<T: TryFrom<u128>>(field: &str, digits: usize) -> Result<T, TraceparentError> {
    // The specification demands lower case. `from_str_radix` would take upper case and a `+`.
    let lower = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if field.len() != digits || !field.bytes().all(lower) {
        return Err(TraceparentError);
    }
    let number = u128::from_str_radix(field, 16).map_err(|_| TraceparentError)?;
    number.try_into().map_err(|_| TraceparentError)
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            parent_id,
            flags,
        } = self;
        write!(f, "00-{trace_id:032x}-{parent_id:016x}-{flags:02x}")
    }
}

impl TryFrom<String> for Traceparent {
    type Error = TraceparentError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Traceparent> for String {
    fn from(traceparent: Traceparent) -> Self {
        traceparent.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{Traceparent, TraceparentError};
    use crate::models::RequestId;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn parsed(text: &str) -> Result<String, TraceparentError> {
        text.parse().map(|parsed: Traceparent| parsed.to_string())
    }

    #[test]
    fn a_valid_traceparent_is_passed_on_unchanged() {
        for flags in ["00", "01", "02", "03"] {
            let text = format!("00-{TRACE}-{PARENT}-{flags}");
            assert_eq!(parsed(&text), Ok(text));
        }
    }

    #[test]
    fn undefined_flags_are_cleared() {
        let text = format!("00-{TRACE}-{PARENT}-ff");
        assert_eq!(parsed(&text), Ok(format!("00-{TRACE}-{PARENT}-03")));
    }

    #[test]
    fn a_higher_version_is_passed_on_as_version_00() {
        for text in [
            format!("01-{TRACE}-{PARENT}-01"),
            format!("cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like"),
            format!("fe-{TRACE}-{PARENT}-ff-"),
        ] {
            assert_eq!(
                parsed(&text),
                Ok(format!("00-{TRACE}-{PARENT}-01")),
                "{text}"
            );
        }
    }

    #[test]
    fn an_invalid_traceparent_is_rejected() {
        let right = format!("00-{TRACE}-{PARENT}-01");
        for text in [
            "",
            "00",
            &format!("ff-{TRACE}-{PARENT}-01"),
            &format!("00-{TRACE}-{PARENT}-01-"),
            &format!("00-{TRACE}-{PARENT}-01-more"),
            &format!("01-{TRACE}-{PARENT}-01.more"),
            &format!("00-{TRACE}-{PARENT}-1"),
            &format!("00-{TRACE}-{PARENT}-0g"),
            &format!("00-{}-{PARENT}-01", "0".repeat(32)),
            &format!("00-{TRACE}-{}-01", "0".repeat(16)),
            &format!("00-{PARENT}-{TRACE}-01"),
            &format!("0-0{TRACE}-{PARENT}-01"),
            &format!("00-+{}-{PARENT}-01", &TRACE[1..]),
            &right.to_uppercase(),
            &right.replace('-', "_"),
            &format!(" {right}"),
            &format!("{right} "),
            &format!("00-{}é-{PARENT}-01", &TRACE[2..]),
            &"é".repeat(28),
        ] {
            assert_eq!(parsed(text), Err(TraceparentError), "{text}");
        }
    }

    #[test]
    fn a_traceparent_is_the_same_in_numbers_and_only_its_sampled_flag_can_be_cleared() {
        let text = format!("00-{TRACE}-{PARENT}-03");
        let parsed: Traceparent = text.parse().unwrap();
        let numbers = (
            parsed.trace_number(),
            parsed.parent_number(),
            parsed.flags(),
        );
        let made = Traceparent::from_numbers(numbers.0, numbers.1, numbers.2 | 0b1000);
        assert_eq!(made, parsed);
        let unsampled = format!("00-{TRACE}-{PARENT}-02");
        assert_eq!(parsed.unsampled().to_string(), unsampled);
    }

    #[test]
    fn a_request_without_a_traceparent_gets_a_trace_named_by_its_id() {
        let id = RequestId::generate();
        let new = Traceparent::of(id);
        assert_eq!(new.to_string().parse(), Ok(new));
        assert!(new.to_string().ends_with("-00"), "{new}");
        assert_eq!(new.trace_id(), id.to_string().replace('-', ""));
        assert_ne!(new, Traceparent::of(RequestId::generate()));
    }
}
