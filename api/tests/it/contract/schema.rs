//! A checker of the part of JSON Schema that the description uses. Another keyword is a panic, and
//! an unknown property a fault, unless the schema says otherwise.

use jiff::Timestamp;
use regex_lite::Regex;
use serde_json::{Map, Value};
use storm_shared::models::RequestId;

use super::DOCUMENT;

/// Keywords that say nothing about what is valid.
const NOTES: [&str; 4] = ["default", "description", "example", "examples"];

/// What a reference stands for: within the document.
pub(super) fn resolved(value: &Value) -> &Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(place) => {
            let found = DOCUMENT.pointer(place.strip_prefix('#').unwrap());
            found.unwrap_or_else(|| panic!("{place} is not there"))
        }
        None => value,
    }
}

/// Whether `value` is as `schema` says.
///
/// # Errors
/// It is not: the first fault.
pub(crate) fn faults(value: &Value, schema: &Value) -> Result<(), String> {
    check("", value, schema)
}

fn check(at: &str, value: &Value, schema: &Value) -> Result<(), String> {
    let schema = schema.as_object().expect("a schema");
    for (keyword, rule) in schema {
        let is_right = match keyword.as_str() {
            "$ref" => {
                let place = rule.as_str().unwrap().strip_prefix('#').unwrap();
                let schema = DOCUMENT.pointer(place);
                check(at, value, schema.unwrap_or_else(|| panic!("{place}")))?;
                true
            }
            "oneOf" => {
                let branches = rule.as_array().unwrap().iter();
                branches.filter(|it| check(at, value, it).is_ok()).count() == 1
            }
            "type" => is_of_type(value, rule),
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => value == rule,
            "minimum" => value.as_i64().is_none_or(|it| it >= rule.as_i64().unwrap()),
            "maximum" => value.as_i64().is_none_or(|it| it <= rule.as_i64().unwrap()),
            "minLength" => length(value).is_none_or(|it| it >= rule.as_u64().unwrap()),
            "maxLength" => length(value).is_none_or(|it| it <= rule.as_u64().unwrap()),
            "pattern" => value.as_str().is_none_or(|text| {
                let pattern = Regex::new(rule.as_str().unwrap()).unwrap();
                pattern.is_match(text)
            }),
            "format" => value
                .as_str()
                .is_none_or(|text| has_format(text, rule.as_str().unwrap())),
            "minItems" => items(value).is_none_or(|it| it >= rule.as_u64().unwrap()),
            "maxItems" => items(value).is_none_or(|it| it <= rule.as_u64().unwrap()),
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(&format!("{at}/{index}"), item, rule)?;
                }
                true
            }
            "properties" => {
                check_members(at, value, schema)?;
                true
            }
            "required" | "additionalProperties" => true, // with `properties`
            note if NOTES.contains(&note) => true,
            other => panic!("the keyword {other} is not known here"),
        };
        if !is_right {
            return Err(format!("{at}: {value} is not as {keyword} {rule} says"));
        }
    }
    Ok(())
}

fn check_members(at: &str, value: &Value, schema: &Map<String, Value>) -> Result<(), String> {
    let Some(members) = value.as_object() else {
        return Ok(());
    };
    let properties = schema["properties"].as_object().unwrap();
    for (name, member) in members {
        let at = format!("{at}/{name}");
        match properties.get(name) {
            Some(schema) => check(&at, member, schema)?,
            None if schema.get("additionalProperties") == Some(&Value::Bool(true)) => {}
            None => return Err(format!("{at} is not described")),
        }
    }
    let required = schema.get("required").and_then(Value::as_array);
    for name in required.into_iter().flatten() {
        if !members.contains_key(name.as_str().unwrap()) {
            return Err(format!("{at}/{} is missing", name.as_str().unwrap()));
        }
    }
    Ok(())
}

fn is_of_type(value: &Value, kind: &Value) -> bool {
    if let Some(kinds) = kind.as_array() {
        return kinds.iter().any(|kind| is_of_type(value, kind));
    }
    match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type {other} is not known here"),
    }
}

fn length(value: &Value) -> Option<u64> {
    Some(value.as_str()?.chars().count() as u64)
}

fn items(value: &Value) -> Option<u64> {
    Some(value.as_array()?.len() as u64)
}

fn has_format(text: &str, format: &str) -> bool {
    match format {
        // The parser takes other forms of ISO 8601, too.
        "date-time" => {
            let form = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$";
            Regex::new(form).unwrap().is_match(text) && text.parse::<Timestamp>().is_ok()
        }
        "uuid" => text.len() == 36 && text.parse::<RequestId>().is_ok(),
        "uri" => text.contains(':'),
        other => panic!("the format {other} is not known here"),
    }
}
