//! The fields of a body by name, with their values still unparsed.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::reply::Problem;

/// The most unknown names that an answer lists. A body has room for thousands.
const UNKNOWN: usize = 8;

/// The most characters of an unknown name that an answer repeats.
const NAME: usize = 64;

/// The fields of one JSON object.
#[derive(Default)]
pub(super) struct Fields<'a> {
    // Raw values: one of a wrong type is a fault of its field and not the end of the parse, and
    // deep nesting is not recursed into.
    pub(super) records: Option<&'a RawValue>,
    pub(super) report_name: Option<&'a RawValue>,
    /// `null` is the same as no field.
    pub(super) callback_url: Option<&'a RawValue>,
    /// The first few names that are no field's.
    pub(super) unknown: Vec<String>,
    /// Fields given more than once.
    pub(super) repeated: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Parses a body.
    ///
    /// # Errors
    /// 400, with the position, if it is not UTF-8, not JSON or not an object.
    pub(super) fn read(body: &'a [u8]) -> Result<Self, Problem> {
        let mut fields: Self = object(body, Problem::no_object)?;
        fields.callback_url = fields.callback_url.filter(|value| value.get() != "null");
        Ok(fields)
    }

    fn put(&mut self, name: &str, value: &'a RawValue) {
        let (field, name) = match name {
            "records" => (&mut self.records, "records"),
            "report_name" => (&mut self.report_name, "report_name"),
            "callback_url" => (&mut self.callback_url, "callback_url"),
            _ => return self.note_unknown(name),
        };
        if field.replace(value).is_some() && !self.repeated.contains(&name) {
            self.repeated.push(name);
        }
    }

    fn note_unknown(&mut self, name: &str) {
        if self.unknown.len() < UNKNOWN {
            let mut kept: String = name.chars().take(NAME).collect();
            if kept.len() < name.len() {
                kept.push('…');
            }
            self.unknown.push(kept);
        }
    }
}

/// Parses a JSON object. `T` must accept any names and values.
pub(super) fn object<'a, T: Deserialize<'a>>(
    body: &'a [u8],
    no_object: impl FnOnce() -> Problem,
) -> Result<T, Problem> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let at = error.valid_up_to();
        Problem::malformed_body(format!("The body must be UTF-8; its byte {at} is not."))
    })?;
    serde_json::from_str(text).map_err(|error| {
        // Any names and values are accepted, so a data error means: not an object.
        if error.is_data() {
            no_object()
        } else {
            Problem::malformed_body(format!("The body must be JSON: {error}."))
        }
    })
}

/// The members of any object, in order, with their names.
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut members = Vec::new();
        while let Some(Name(name)) = map.next_key()? {
            members.push((name, map.next_value()?));
        }
        Ok(Members(members))
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut fields = Fields::default();
        while let Some(Name(name)) = map.next_key()? {
            fields.put(&name, map.next_value()?);
        }
        Ok(fields)
    }
}

/// A name, borrowed if it is written without escapes.
// A newtype: serde deserializes a bare `Cow` as owned, and `borrow` needs a field to stand on.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::Fields;
    use crate::reply::Problem;

    #[test]
    fn a_body_that_is_not_json_is_refused_with_the_position() {
        for (body, place) in [
            (&b""[..], "line 1 column 0"),
            (b"{\"records\": 1,}", "line 1 column 15"),
            (b"{\n\"records\" 1}", "line 2 column 11"),
            (b"{} {}", "line 1 column 4"),
            (b"{\"a\": 01}", "line 1 column 8"),
            (b"{\"a\xff\": 1}", "byte 3"),
            (b"\xef\xbb\xbf{}", "line 1 column 1"),
        ] {
            let problem = Fields::read(body).err().unwrap();
            assert!(problem.detail().contains(place), "{problem:?}");
        }
    }

    #[test]
    fn json_that_is_not_an_object_is_refused_with_an_example() {
        for body in ["[]", "null", "1", "\"records\"", "[{}]"] {
            assert_eq!(
                Fields::read(body.as_bytes()).err(),
                Some(Problem::no_object()),
                "{body}"
            );
        }
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let body = format!("{{\"a\": {}{}}}", "[".repeat(8000), "]".repeat(8000));
        assert_eq!(Fields::read(body.as_bytes()).unwrap().unknown, ["a"]);
    }
}
