//! Entries of the stream, as they were read.
//!
//! Whoever can write to Redis can write any bytes to the stream. So nothing here fails: what is no
//! notification is dropped, and the notifications beside it are not affected.

use redis::Value;

use super::Notification;
use crate::models::RequestId;

/// A stream entry that was read. Claim its job, then acknowledge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(super) stream_id: String,
    /// The job to claim; `None` for another store's entry or a malformed one.
    pub job: Option<Notification>,
    pub(super) sender: Sender,
}

/// Whose notification an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// This store's, or it doesn't say.
    Own,
    /// Another store's, whose workers have yet to read it.
    Foreign,
}

impl Entry {
    /// Whether it is neither a notification of this store nor of another one.
    pub(super) fn is_malformed(&self) -> bool {
        self.sender == Sender::Own && self.job.is_none()
    }

    /// The entry in `value`: a stream id, then names and values in turn. `None` if there is no
    /// stream id, for instance because the entry was deleted.
    fn parse(value: Value, store: &str) -> Option<Self> {
        let Value::Array(parts) = value else {
            return None;
        };
        let mut parts = parts.into_iter();
        let stream_id = String::from_utf8(bytes(&parts.next()?)?.to_vec()).ok()?;
        let fields = match parts.next() {
            Some(Value::Array(fields)) => fields,
            _ => Vec::new(),
        };
        let field = |name: &str| {
            let mut pairs = fields.chunks_exact(2);
            let pair = pairs.find(|pair| bytes(&pair[0]) == Some(name.as_bytes()))?;
            bytes(&pair[1])
        };
        // An entry without a store counts as ours. At worst its id names no row, and it is deleted.
        let sender = match field("store") {
            Some(named) if named != store.as_bytes() => Sender::Foreign,
            _ => Sender::Own,
        };
        let text = |name| str::from_utf8(field(name)?).ok();
        let id = text("id").and_then(|id| id.parse::<RequestId>().ok());
        let job = id.map(|id| Notification {
            id,
            tenant: text("tenant").and_then(|name| name.parse().ok()),
            is_long: field("long").is_some(),
        });
        Some(Self {
            stream_id,
            job: job.filter(|_| sender == Sender::Own),
            sender,
        })
    }
}

/// The entries in a reply of `XREADGROUP`: nothing, or one stream's name and entries. A map in
/// RESP3.
pub(super) fn of_streams(reply: Value, store: &str) -> Vec<Entry> {
    let streams = match reply {
        Value::Array(streams) => streams.into_iter().filter_map(second).collect(),
        Value::Map(streams) => streams.into_iter().map(|(_, entries)| entries).collect(),
        _ => Vec::new(),
    };
    let entries = streams.into_iter().map(|entries| of_list(entries, store));
    entries.flatten().collect()
}

/// The entries in a list of entries.
pub(super) fn of_list(list: Value, store: &str) -> Vec<Entry> {
    let Value::Array(list) = list else {
        return Vec::new();
    };
    let entries = list.into_iter();
    entries
        .filter_map(|entry| Entry::parse(entry, store))
        .collect()
}

fn second(pair: Value) -> Option<Value> {
    match pair {
        Value::Array(pair) => pair.into_iter().nth(1),
        _ => None,
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redis::Value;

    use super::{Entry, Sender, of_list, of_streams};
    use crate::models::RequestId;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn entry(stream_id: &str, fields: Vec<Value>) -> Value {
        Value::Array(vec![text(stream_id), Value::Array(fields)])
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            Just(Value::Okay),
            any::<i64>().prop_map(Value::Int),
            any::<Vec<u8>>().prop_map(Value::BulkString),
            prop::sample::select(vec!["id", "store", "here", "1-1"]).prop_map(text),
        ];
        leaf.prop_recursive(4, 32, 5, |value| {
            let list = prop::collection::vec(value, 0..5);
            prop_oneof![
                list.clone().prop_map(Value::Array),
                list.prop_map(|list| {
                    Value::Map(list.into_iter().map(|value| (value, Value::Nil)).collect())
                }),
            ]
        })
    }

    #[test]
    fn an_odd_entry_does_not_affect_the_notifications_beside_it() {
        let id = RequestId::generate();
        let job = || {
            vec![
                text("id"),
                text(&id.to_string()),
                text("store"),
                text("here"),
            ]
        };
        let noise = Value::BulkString(vec![0xff]);
        let list = Value::Array(vec![
            entry("1-1", job()),
            Value::Nil,
            Value::Int(7),
            Value::Array(vec![]),
            Value::Array(vec![Value::Nil, Value::Nil]),
            Value::Array(vec![text("1-2"), Value::Nil]),
            entry("1-3", vec![]),
            entry("1-4", vec![text("id")]),
            entry("1-5", vec![noise.clone(), noise.clone()]),
            entry(
                "1-6",
                vec![text("id"), noise.clone(), text("store"), text("here")],
            ),
            entry(
                "1-7",
                vec![text("id"), text(&id.to_string()), text("store"), noise],
            ),
            entry("1-8", job()),
        ]);
        let entries = of_list(list, "here");
        let jobs = |entry: &&Entry| entry.job == Some(id.into());
        assert_eq!(entries.iter().filter(jobs).count(), 2);
        let malformed = entries.iter().filter(|entry| entry.is_malformed());
        let malformed: Vec<_> = malformed.map(|entry| entry.stream_id.as_str()).collect();
        assert_eq!(malformed, ["1-2", "1-3", "1-4", "1-5", "1-6"]);
        let foreign = entries
            .iter()
            .filter(|entry| entry.sender == Sender::Foreign);
        assert_eq!(foreign.count(), 1, "its store is not this one");
    }

    proptest! {
        #[test]
        fn no_reply_of_any_shape_panics(reply in any_value()) {
            of_streams(reply.clone(), "here");
            of_list(reply, "here");
        }
    }
}
