//! Moving a store from one engine to another: what is moved, and what comes of it. No SQL.
//!
//! Both engines name their tables and columns alike, so a table is moved as rows of texts: one
//! engine reads them in the form that [`Kind`] says, and the other casts them.

use std::{cmp::Ordering, time::Duration};

use thiserror::Error;

use super::StoreError;

/// A finished move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Where the store is now, without a password.
    pub target: String,
    /// The rows of each table, by its name, that the target has.
    pub rows: Vec<(&'static str, u64)>,
    /// Rows with a key that an edit by hand has made invalid. Nothing finds them, and they were
    /// left out.
    pub left_out: u64,
    /// Whether an earlier call had moved it.
    pub was_moved: bool,
    /// The rows that this call has copied.
    pub copied: u64,
    /// How long it took to copy them.
    pub copying: Duration,
}

/// What a move would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovePlan {
    /// Where the store would be, without a password.
    pub target: String,
    /// The rows of each table, by its name.
    pub rows: Vec<(&'static str, u64)>,
    /// What comes next.
    pub next: MoveStep,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveStep {
    /// It has not begun: the source would be marked.
    Begin,
    /// It was interrupted: the rest would be copied.
    GoOn,
    /// It is over.
    Nothing,
}

/// How far a move has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveProgress {
    /// Whether the rows are compared, and no longer copied.
    pub is_check: bool,
    /// The table.
    pub table: &'static str,
    /// The rows that are done, of all tables.
    pub done: u64,
    /// All rows.
    pub of: u64,
}

/// Why a store was not moved. Each text is one line, and says what to change.
#[derive(Debug, Error)]
pub enum MoveError {
    /// The source can't be read or marked.
    #[error("the source: {0}")]
    Source(StoreError),
    /// The target can't be written, or is not one to move to.
    #[error("the target: {0}")]
    Target(StoreError),
    /// It was begun, and did not come to its end. The same call goes on.
    #[error(
        "the move is not complete: {0}; the source is marked as moved: run the same command again, \
         which goes on from here"
    )]
    Interrupted(Box<MoveError>),
    /// What the target has is not what the source has.
    #[error(
        "the target differs from the source in the table {table} ({problem}): another program has \
         written to it; drop the target's tables and run the command again, which begins anew"
    )]
    Different {
        /// The table.
        table: &'static str,
        /// How.
        problem: String,
    },
}

/// A table that is moved, in the order in which they are: children after requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Requests,
    Redeliveries,
    Attempts,
    Events,
    Resends,
    Keys,
    Pauses,
    Audit,
}

/// The form in which a value is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A UUID in its canonical form. A row without one in its key is left out.
    Id,
    /// A text without U+0000, which one of the engines can't store.
    Text,
    /// JSON, byte for byte. What is none is moved as a JSON string.
    Json,
    /// An integer of 32 bits, or the nearest one.
    Integer,
    /// An integer of 64 bits.
    Long,
    /// `true` or `false`.
    Flag,
    /// A moment: RFC 3339, UTC, milliseconds. A text that is none is moved as the time of the
    /// row's id, or as the epoch.
    Time,
    /// The same, and SQL null, too.
    SomeTime,
    /// A moment by the store's clock: moved as the one of the target's clock at which it comes.
    StoreTime,
    /// Bytes, in hexadecimal.
    Bytes,
}

/// A column: its name, and the form of its values.
pub(super) type Column = (&'static str, Kind);

const REQUESTS: [Column; 27] = [
    ("id", Kind::Id),
    ("mode", Kind::Text),
    ("status", Kind::Text),
    ("input_payload", Kind::Json),
    ("result_payload", Kind::Json),
    ("callback_url", Kind::Text),
    ("created_at", Kind::SomeTime),
    ("completed_at", Kind::Time),
    ("failure_reason", Kind::Text),
    ("failure_detail", Kind::Text),
    ("claim", Kind::Long),
    ("owner", Kind::Id),
    ("due", Kind::StoreTime),
    ("is_long", Kind::Flag),
    ("handler", Kind::Text),
    ("attempts", Kind::Integer),
    ("attempts_before", Kind::Integer),
    ("lost_claims", Kind::Integer),
    ("parked_at", Kind::StoreTime),
    ("parks", Kind::Integer),
    ("created_by", Kind::Text),
    ("origin", Kind::Text),
    ("callback_target", Kind::Text),
    ("traceparent", Kind::Text),
    ("delivered", Kind::Json),
    ("ended", Kind::StoreTime),
    ("erased_at", Kind::Time),
];

const REDELIVERIES: [Column; 12] = [
    ("id", Kind::Id),
    ("status", Kind::Text),
    ("created_by", Kind::Text),
    ("origin", Kind::Text),
    ("claim", Kind::Long),
    ("owner", Kind::Id),
    ("due", Kind::StoreTime),
    ("lost_claims", Kind::Integer),
    ("attempts", Kind::Integer),
    ("attempts_before", Kind::Integer),
    ("parked_at", Kind::StoreTime),
    ("parks", Kind::Integer),
];

const ATTEMPTS: [Column; 10] = [
    ("request_id", Kind::Id),
    ("number", Kind::Integer),
    ("started_at", Kind::SomeTime),
    ("duration_ms", Kind::Long),
    ("stage", Kind::Text),
    ("class", Kind::Text),
    ("status", Kind::Integer),
    ("error", Kind::Text),
    ("internal_detail", Kind::Text),
    ("claim", Kind::Long),
];

const EVENTS: [Column; 6] = [
    ("request_id", Kind::Id),
    ("number", Kind::Integer),
    ("at", Kind::SomeTime),
    ("event", Kind::Text),
    ("claim", Kind::Long),
    ("detail", Kind::Text),
];

const RESENDS: [Column; 4] = [
    ("request_id", Kind::Id),
    ("number", Kind::Integer),
    ("at", Kind::SomeTime),
    ("claim", Kind::Long),
];

const KEYS: [Column; 6] = [
    ("request_id", Kind::Id),
    ("tenant", Kind::Text),
    ("key", Kind::Text),
    ("fingerprint", Kind::Bytes),
    ("expires", Kind::StoreTime),
    ("expected_at", Kind::SomeTime),
];

const PAUSES: [Column; 3] = [
    ("origin", Kind::Text),
    ("since", Kind::SomeTime),
    ("operator", Kind::Text),
];

const AUDIT: [Column; 8] = [
    ("number", Kind::Long),
    ("at", Kind::SomeTime),
    ("operator", Kind::Text),
    ("action", Kind::Text),
    ("filter", Kind::Json),
    ("matched", Kind::Long),
    ("changed", Kind::Long),
    ("dry_run", Kind::Flag),
];

impl Table {
    pub(super) const ALL: [Self; 8] = [
        Self::Requests,
        Self::Redeliveries,
        Self::Attempts,
        Self::Events,
        Self::Resends,
        Self::Keys,
        Self::Pauses,
        Self::Audit,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Redeliveries => "redeliveries",
            Self::Attempts => "attempts",
            Self::Events => "events",
            Self::Resends => "resends",
            Self::Keys => "idempotency_keys",
            Self::Pauses => "pauses",
            Self::Audit => "audit",
        }
    }

    /// The number of its primary key's columns, which are its first.
    pub(super) fn key(self) -> usize {
        match self {
            Self::Attempts | Self::Events | Self::Resends => 2,
            _ => 1,
        }
    }

    pub(super) fn columns(self) -> &'static [Column] {
        match self {
            Self::Requests => &REQUESTS,
            Self::Redeliveries => &REDELIVERIES,
            Self::Attempts => &ATTEMPTS,
            Self::Events => &EVENTS,
            Self::Resends => &RESENDS,
            Self::Keys => &KEYS,
            Self::Pauses => &PAUSES,
            Self::Audit => &AUDIT,
        }
    }
}

/// The primary key of a row, as texts in the form that is moved.
pub(super) type Key = Vec<String>;

/// A place between two rows of the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The tables before the one with this place in [`Table::ALL`] are in the target.
    pub(super) stage: usize,
    /// The last row of that table that is there.
    pub(super) after: Option<Key>,
}

impl Place {
    /// The place behind all rows.
    pub(super) fn end() -> Self {
        Self {
            stage: Table::ALL.len(),
            after: None,
        }
    }

    /// Whether fewer rows are before this place than before `other`.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        let order = self.stage.cmp(&other.stage);
        let order = order.then_with(|| match (&self.after, &other.after) {
            (Some(this), Some(other)) => order_of_keys(self.stage, this, other),
            (this, other) => this.is_some().cmp(&other.is_some()),
        });
        order == Ordering::Less
    }
}

/// The order of two rows of the table at `stage`.
fn order_of_keys(stage: usize, one: &Key, other: &Key) -> Ordering {
    let columns = Table::ALL.get(stage).map_or(&[][..], |it| it.columns());
    let order = |((_, kind), (one, other)): (&Column, (&String, &String))| match kind {
        // A number that can't be read is none of ours.
        Kind::Integer | Kind::Long => one.parse::<i64>().ok().cmp(&other.parse().ok()),
        _ => one.cmp(other),
    };
    let parts = columns.iter().zip(one.iter().zip(other));
    parts.map(order).fold(Ordering::Equal, Ordering::then)
}

/// Rows of one table, in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) table: Table,
    /// The values of each column; `None` is SQL null.
    pub(super) columns: Vec<Vec<Option<String>>>,
    /// Whether the table has no more rows.
    pub(super) is_last: bool,
    /// The rows that were left out.
    pub(super) left_out: u64,
}

impl Rows {
    /// No rows of `table` so far.
    pub(super) fn of(table: Table) -> Self {
        Self {
            table,
            columns: vec![Vec::new(); table.columns().len()],
            is_last: false,
            left_out: 0,
        }
    }

    /// Adds the values of a row, in the order of the columns.
    pub(super) fn push(&mut self, values: Vec<Option<String>>) {
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.push(value);
        }
    }

    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
    }

    /// The key of the last row; `None` if there is none.
    pub(super) fn last_key(&self) -> Option<Key> {
        let columns = self.columns.iter().take(self.table.key());
        columns.map(|column| column.last()?.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, Table};

    #[test]
    fn a_place_is_before_those_that_more_rows_are_before() {
        let place = |table: Table, key: &[&str]| Place {
            stage: Table::ALL.iter().position(|it| *it == table).unwrap(),
            after: (!key.is_empty()).then(|| key.iter().map(|it| (*it).to_owned()).collect()),
        };
        let places = [
            Place::default(),
            place(Table::Requests, &["00000000-0000-7000-8000-000000000009"]),
            place(Table::Requests, &["00000000-0000-7000-8000-00000000000a"]),
            place(Table::Attempts, &[]),
            place(
                Table::Attempts,
                &["00000000-0000-7000-8000-000000000001", "9"],
            ),
            place(
                Table::Attempts,
                &["00000000-0000-7000-8000-000000000001", "10"],
            ),
            place(
                Table::Attempts,
                &["00000000-0000-7000-8000-000000000002", "-1"],
            ),
            place(Table::Pauses, &["*"]),
            place(Table::Audit, &["9"]),
            place(Table::Audit, &["10"]),
            Place::end(),
        ];
        for (at, one) in places.iter().enumerate() {
            for (beside, other) in places.iter().enumerate() {
                assert_eq!(one.is_before(other), at < beside, "{one:?} {other:?}");
            }
        }
    }
}
