//! Entries of the stream, as they were read.
//!
//! Whoever can write to Redis can write any bytes to the stream. So nothing here fails: what is no
//! notification is dropped, and the notifications beside it are not affected.

use redis::Value;

use crate::models::{ClientName, RequestId};

/// The most jobs that one entry names. So that workers share a burst, and one with few free slots
/// keeps few jobs from the others.
pub const JOBS_PER_ENTRY: usize = 16;

/// The names of an entry's fields.
pub(super) mod field {
    /// The first job. The previous release knows of no other one.
    pub(in super::super) const ID: &str = "id";
    /// The random id of the store.
    pub(in super::super) const STORE: &str = "store";
    /// The client name of the token that submitted the jobs. Absent without authentication.
    pub(in super::super) const TENANT: &str = "tenant";
    /// Present if the jobs are long.
    pub(in super::super) const LONG: &str = "long";
    /// The other jobs, separated by spaces. Absent if there is only one.
    pub(in super::super) const MORE: &str = "more";
}

/// A stream entry that was read. Claim its jobs, then acknowledge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(super) stream_id: String,
    /// The jobs to claim; none in another store's entry or a malformed one.
    pub notified: Notified,
    pub(super) sender: Sender,
}

/// Jobs that are notified together. They agree in all that a worker needs in order to be fair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notified {
    /// The jobs, in the order of their notifications.
    pub jobs: Vec<RequestId>,
    /// The client name of the token that submitted them; `None` without authentication.
    pub tenant: Option<ClientName>,
    /// Whether they are long.
    pub is_long: bool,
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
    /// Whether it was read as neither a notification of this store nor of another one.
    pub(super) fn is_malformed(&self) -> bool {
        self.sender == Sender::Own && self.notified.jobs.is_empty()
    }

    /// The entry in `value`: a stream id, then names and values in turn. `None` if there is no
    /// stream id, for instance because the entry was deleted.
    fn parse(value: Value, store: &str) -> Option<Self> {
        let Value::Array(parts) = value else {
            return None;
        };
        let mut parts = parts.into_iter();
        let stream_id = match parts.next()? {
            Value::BulkString(bytes) => String::from_utf8(bytes).ok()?,
            Value::SimpleString(text) => text,
            _ => return None,
        };
        let fields = match parts.next() {
            Some(Value::Array(fields)) => fields,
            _ => Vec::new(),
        };
        let field = |name: &str| {
            let mut pairs = fields.chunks_exact(2);
            let pair = pairs.find(|pair| bytes(&pair[0]) == Some(name.as_bytes()))?;
            bytes(&pair[1])
        };
        let text = |name| str::from_utf8(field(name)?).ok();
        // An entry without a store counts as ours. At worst it names no rows, and is deleted.
        if field(field::STORE).is_some_and(|named| named != store.as_bytes()) {
            return Some(Self {
                stream_id,
                notified: Notified::default(),
                sender: Sender::Foreign,
            });
        }
        let more = text(field::MORE).into_iter();
        let more = more.flat_map(|ids| ids.split(' '));
        let ids = text(field::ID).into_iter().chain(more);
        // No more, whoever has written them: the table has the jobs.
        let ids = ids.take(JOBS_PER_ENTRY);
        let notified = Notified {
            jobs: ids.filter_map(|id| id.parse().ok()).collect(),
            tenant: text(field::TENANT).and_then(|name| name.parse().ok()),
            is_long: field(field::LONG).is_some(),
        };
        Some(Self {
            stream_id,
            notified,
            sender: Sender::Own,
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

    use super::{Entry, JOBS_PER_ENTRY, Notified, Sender, of_list, of_streams};
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
            prop::sample::select(vec!["id", "more", "store", "here", "1-1"]).prop_map(text),
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
        let jobs = |entry: &&Entry| entry.notified.jobs == [id];
        assert_eq!(entries.iter().filter(jobs).count(), 2);
        let malformed = entries.iter().filter(|entry| entry.is_malformed());
        let malformed: Vec<_> = malformed.map(|entry| entry.stream_id.as_str()).collect();
        assert_eq!(malformed, ["1-2", "1-3", "1-4", "1-5", "1-6"]);
        let foreign = entries
            .iter()
            .filter(|entry| entry.sender == Sender::Foreign);
        assert_eq!(foreign.count(), 1, "its store is not this one");
    }

    /// What the entry with these fields says to the store `here`.
    fn parsed(fields: &[(&str, &str)]) -> Notified {
        let fields = fields
            .iter()
            .flat_map(|(name, value)| [text(name), text(value)]);
        let list = Value::Array(vec![entry("1-1", fields.collect())]);
        of_list(list, "here").pop().unwrap().notified
    }

    #[test]
    fn an_entry_of_the_release_before_names_one_job() {
        let id = RequestId::generate();
        let job = parsed(&[
            ("id", &id.to_string()),
            ("store", "here"),
            ("tenant", "a"),
            ("long", "1"),
        ]);
        assert_eq!((job.jobs, job.is_long), (vec![id], true));
        assert_eq!(job.tenant, "a".parse().ok());
    }

    #[test]
    fn what_is_no_id_among_the_jobs_of_an_entry_is_skipped() {
        let [a, b] = [(); 2].map(|()| RequestId::generate());
        let more = format!("  no {a} {a}{b} \u{1F980} {b} ");
        let job = parsed(&[("id", ""), ("store", "here"), ("more", &more)]);
        assert_eq!(job.jobs, [a, b]);
        let none = parsed(&[("store", "here"), ("more", " ")]);
        assert_eq!(none.jobs, [], "it is malformed");
    }

    #[test]
    fn a_forged_entry_with_any_number_of_jobs_costs_no_more_than_a_full_one() {
        let ids: Vec<_> = (0..100_000).map(|_| RequestId::generate()).collect();
        let texts: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let forged = parsed(&[("id", &texts[0]), ("more", &texts[1..].join(" "))]);
        assert_eq!(forged.jobs, ids[..JOBS_PER_ENTRY]);
        assert!(forged.jobs.capacity() <= 2 * JOBS_PER_ENTRY);
        let twice = format!("{0} {0}", texts[0]);
        let repeated = parsed(&[("id", &texts[0]), ("more", &twice)]);
        assert_eq!(repeated.jobs, [ids[0]; 3], "a claim names it once");
    }

    proptest! {
        #[test]
        fn no_reply_of_any_shape_panics(reply in any_value()) {
            of_streams(reply.clone(), "here");
            of_list(reply, "here");
        }
    }
}
