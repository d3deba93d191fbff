//! The fields of a body by name, with their values still unparsed.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::faults::Faults;
use crate::reply::Problem;

/// The most unknown names that an answer lists. A body has room for thousands.
const UNKNOWN: usize = 8;

/// The most characters of an unknown name that an answer repeats.
const NAME: usize = 64;

/// The names of an object's fields.
pub(super) trait Names<const N: usize> {
    /// All of them, in the order of the values.
    const NAMES: [&'static str; N];
}

/// The fields of one JSON object: those that `F` names, and what else was sent. However many that
/// is, they take no more room.
pub(super) struct Fields<'a, F, const N: usize> {
    /// The last value of each field that was sent.
    // Raw values: one of a wrong type is a fault of its field and not the end of the parse, and
    // deep nesting is not recursed into.
    pub(super) values: [Option<&'a RawValue>; N],
    /// The first few names that are no field's.
    pub(super) unknown: Vec<String>,
    /// Fields given more than once.
    pub(super) repeated: Vec<&'static str>,
    names: PhantomData<F>,
}

impl<'a, F: Names<N>, const N: usize> Fields<'a, F, N> {
    /// Parses a body, such as `example`.
    ///
    /// # Errors
    /// 400, with the position, if it is not UTF-8, not JSON or not an object.
    pub(super) fn read(body: &'a [u8], example: &str) -> Result<Self, Problem> {
        object(body, || Problem::no_object_such_as(example))
    }

    /// The fields of a value within a body. `None` if it is not an object.
    pub(super) fn within(value: &'a RawValue) -> Option<Self> {
        serde_json::from_str(value.get()).ok()
    }

    /// Adds a fault for each field that is unknown or repeated, after `prefix`. `known` says which
    /// fields there are.
    pub(super) fn check(&self, prefix: &str, known: &str, faults: &mut Faults) {
        for name in &self.unknown {
            faults.unknown(&format!("{prefix}{name}"), known);
        }
        for name in &self.repeated {
            let detail = "must be given once, not several times";
            faults.add(&format!("{prefix}{name}"), detail);
        }
    }

    fn put(&mut self, name: &str, value: &'a RawValue) {
        let Some(index) = F::NAMES.iter().position(|known| *known == name) else {
            return self.note_unknown(name);
        };
        let name = F::NAMES[index];
        if self.values[index].replace(value).is_some() && !self.repeated.contains(&name) {
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

impl<'de, F: Names<N>, const N: usize> Deserialize<'de> for Fields<'de, F, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor(PhantomData))
    }
}

struct FieldsVisitor<F, const N: usize>(PhantomData<F>);

impl<'de, F: Names<N>, const N: usize> Visitor<'de> for FieldsVisitor<F, N> {
    type Value = Fields<'de, F, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut fields = Fields {
            values: [None; N],
            unknown: Vec::new(),
            repeated: Vec::new(),
            names: PhantomData,
        };
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
    use super::{Fields, Names};
    use crate::reply::Problem;

    struct One;

    impl Names<1> for One {
        const NAMES: [&'static str; 1] = ["one"];
    }

    fn read(body: &[u8]) -> Result<Fields<'_, One, 1>, Problem> {
        Fields::read(body, "{}")
    }

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
            let problem = read(body).err().unwrap();
            assert!(problem.detail().contains(place), "{problem:?}");
        }
    }

    #[test]
    fn json_that_is_not_an_object_is_refused_with_an_example() {
        for body in ["[]", "null", "1", "\"records\"", "[{}]"] {
            assert_eq!(
                read(body.as_bytes()).err(),
                Some(Problem::no_object_such_as("{}")),
                "{body}"
            );
        }
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        const LEVELS: usize = 1_000_000;
        for name in ["a", "one"] {
            let (open, close) = ("[".repeat(LEVELS), "]".repeat(LEVELS));
            let body = format!("{{\"{name}\": {open}{close}}}");
            let fields = read(body.as_bytes()).unwrap();
            assert_eq!(fields.values[0].is_some(), name == "one");
            assert!(read(open.as_bytes()).is_err());
            assert!(read(format!("{{\"{name}\": {open}}}").as_bytes()).is_err());
        }
    }
}
