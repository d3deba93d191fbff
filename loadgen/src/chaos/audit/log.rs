//! The auditor's log as records of a history, whatever engine it was read from.
//!
//! Each engine has a query for each [`Table`], with the same columns: a text, or a number; a truth
//! is a 1. The first column of a change is the key by which the engine knows its moment.

use std::{fmt::Display, str::FromStr};

use anyhow::{Context as _, Result, anyhow, bail};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use storm_shared::services::report::hex;

use super::filters::{self, Numbered};
use crate::chaos::history::{
    Deleted, Erased, FilterAction, FilterApplied, HistoryEvent, PauseChanged, Record, Row, RowKind,
    RowState, Transition, WorkAttempt, WorkEnd, WorkStored,
};

/// What is read, in this order: an action by filter marks transitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// In the order of their places: with those of one transaction side by side.
    Transitions,
    Rows,
    Erasures,
    Pauses,
    Filters,
    Deletions,
    Worked,
    WorkAttempts,
    Events,
}

/// An engine's query for each table.
pub(super) struct Queries {
    pub(super) transitions: &'static str,
    pub(super) rows: &'static str,
    pub(super) erasures: &'static str,
    pub(super) pauses: &'static str,
    pub(super) filters: &'static str,
    pub(super) deletions: &'static str,
    pub(super) worked: &'static str,
    pub(super) work_attempts: &'static str,
    pub(super) events: &'static str,
}

impl Queries {
    /// All of them, in the order in which they are read.
    pub(super) const fn by_table(&self) -> [(Table, &'static str); 9] {
        [
            (Table::Transitions, self.transitions),
            (Table::Rows, self.rows),
            (Table::Erasures, self.erasures),
            (Table::Pauses, self.pauses),
            (Table::Filters, self.filters),
            (Table::Deletions, self.deletions),
            (Table::Worked, self.worked),
            (Table::WorkAttempts, self.work_attempts),
            (Table::Events, self.events),
        ]
    }
}

/// A row of an answer, by the numbers of its columns.
pub(super) trait Columns {
    /// A text; none: it is null.
    fn text(&self, column: usize) -> Result<Option<String>>;

    /// A number; none: it is null.
    fn number(&self, column: usize) -> Result<Option<i64>>;
}

/// When changes were made: the engine's times, by the run's clock.
pub(super) trait Times {
    /// The moment at which the engine's clock had this value.
    fn moment(&self, stored: i64) -> Timestamp;

    /// The earliest and the latest moment of the commit of the change with this key; none if no
    /// reading shows both.
    fn seen(&self, key: i64) -> Option<(Timestamp, Timestamp)>;
}

/// Makes records of rows.
#[derive(Debug)]
pub(super) struct Log<T> {
    times: T,
    /// The transitions with their places, and beside them their numbers in the order of commits.
    moves: Vec<Numbered>,
    numbers: Vec<i64>,
    others: Vec<Record>,
}

impl<T: Times> Log<T> {
    pub(super) fn new(times: T) -> Self {
        Self {
            times,
            moves: Vec::new(),
            numbers: Vec::new(),
            others: Vec::new(),
        }
    }

    /// Takes a row of this table.
    ///
    /// # Errors
    /// It has not the columns of that.
    pub(super) fn take(&mut self, table: Table, row: &impl Columns) -> Result<()> {
        let record = match table {
            Table::Transitions => {
                let moved = self.transition(row)?;
                self.moves.push((number(row, 21)?, moved));
                self.numbers.push(number(row, 22)?);
                return Ok(());
            }
            Table::Rows => Record::Row(final_row(row)?),
            Table::Erasures => Record::Erased(erased(row)?),
            Table::Pauses => Record::PauseChanged(self.pause(row)?),
            Table::Filters => Record::FilterApplied(self.filter(row)?),
            Table::Deletions => Record::Deleted(self.deleted(row)?),
            Table::Worked => Record::WorkStored(self.stored(row)?),
            Table::WorkAttempts => Record::WorkAttempt(work_attempt(row)?),
            Table::Events => Record::Event(self.event(row)?),
        };
        self.others.push(record);
        Ok(())
    }

    /// All records. The transitions of one row are in the order of their commits.
    pub(super) fn records(self) -> Vec<Record> {
        let mut moves: Vec<_> = self.numbers.into_iter().zip(self.moves).collect();
        moves.sort_by_key(|(number, _)| *number);
        let moves = moves.into_iter();
        let moves = moves.map(|(_, (_, moved))| Record::Transition(moved));
        moves.chain(self.others).collect()
    }

    fn transition(&self, row: &impl Columns) -> Result<Transition> {
        let (not_before, at) = self.seen(row)?;
        let was_inserted = row.text(2)?.is_none();
        let kind = if is_true(row, 18)? {
            RowKind::Redelivery
        } else {
            RowKind::Job
        };
        Ok(Transition {
            kind,
            at,
            not_before: Some(not_before),
            id: parsed(row, 1)?,
            before: (!was_inserted).then(|| row_state(row, 2)).transpose()?,
            after: row_state(row, 9)?,
            was_due: self.moment(row, 16)?,
            due: self.moment(row, 17)?,
            erases: is_true(row, 19)?,
            reason: row.text(20)?,
            by_filter: false,
        })
    }

    fn pause(&self, row: &impl Columns) -> Result<PauseChanged> {
        let (not_before, at) = self.seen(row)?;
        Ok(PauseChanged {
            at,
            not_before,
            origin: row.text(1)?,
            paused: is_true(row, 2)?,
            audited: count(row, 3)?,
        })
    }

    /// Reads a record of an action by filter, and marks its changes among the transitions.
    fn filter(&mut self, row: &impl Columns) -> Result<FilterApplied> {
        let (not_before, at) = self.seen(row)?;
        let action = if is_true(row, 1)? {
            FilterAction::Cancel
        } else {
            FilterAction::Redeliver
        };
        let changed = count(row, 4)?;
        Ok(FilterApplied {
            at,
            not_before,
            action,
            filter: text(row, 2)?,
            matched: count(row, 3)?,
            changed,
            dry_run: is_true(row, 5)?,
            ids: filters::mark(&mut self.moves, number(row, 6)?, action, changed),
        })
    }

    fn deleted(&self, row: &impl Columns) -> Result<Deleted> {
        let (not_before, at) = self.seen(row)?;
        Ok(Deleted {
            at,
            not_before,
            id: parsed(row, 1)?,
            ended: self.moment(row, 2)?,
            redelivering: is_true(row, 3)?,
        })
    }

    fn event(&self, row: &impl Columns) -> Result<HistoryEvent> {
        let (not_before, at) = self.seen(row)?;
        Ok(HistoryEvent {
            at,
            not_before: Some(not_before),
            id: parsed(row, 1)?,
            event: text(row, 2)?,
            claim: number(row, 3)?,
            detail: row.text(4)?,
        })
    }

    fn stored(&self, row: &impl Columns) -> Result<WorkStored> {
        let (not_before, at) = self.seen(row)?;
        Ok(WorkStored {
            at,
            not_before,
            id: parsed(row, 1)?,
            end: match row.text(2)? {
                Some(result) => WorkEnd::Result(hex(&Sha256::digest(result))),
                None => WorkEnd::Failure(text(row, 3)?),
            },
        })
    }

    /// The earliest and the latest moment of the change whose key is the first column.
    fn seen(&self, row: &impl Columns) -> Result<(Timestamp, Timestamp)> {
        let key = number(row, 0)?;
        // The first reading was made before the first change, and the last one after the last.
        let seen = self.times.seen(key);
        seen.with_context(|| format!("no two readings surround the change {key}"))
    }

    fn moment(&self, row: &impl Columns, column: usize) -> Result<Option<Timestamp>> {
        Ok(row.number(column)?.map(|stored| self.times.moment(stored)))
    }
}

fn final_row(row: &impl Columns) -> Result<Row> {
    let over = row.text(12)?.is_some();
    Ok(Row {
        id: parsed(row, 0)?,
        report_name: text(row, 1)?,
        state: row_state(row, 2)?,
        failure_reason: row.text(9)?,
        failure_detail: row.text(10)?,
        called_back: is_true(row, 11)?,
        completed_at: over.then(|| parsed(row, 12)).transpose()?,
        created_at: Some(parsed(row, 13)?),
        handler: row.text(14)?,
    })
}

fn erased(row: &impl Columns) -> Result<Erased> {
    let left = text(row, 3)?;
    let left = left.split(',').filter(|column| !column.is_empty());
    Ok(Erased {
        id: parsed(row, 0)?,
        erased_at: text(row, 1)?,
        outcome_kept: is_true(row, 2)?,
        left: left.map(str::to_owned).collect(),
    })
}

fn work_attempt(row: &impl Columns) -> Result<WorkAttempt> {
    Ok(WorkAttempt {
        id: parsed(row, 0)?,
        number: number(row, 1)?,
        claim: number(row, 2)?,
        class: text(row, 3)?,
        status: row.number(4)?.map(TryInto::try_into).transpose()?,
    })
}

/// Reads the seven columns from `first`.
fn row_state(row: &impl Columns, first: usize) -> Result<RowState> {
    Ok(RowState {
        status: parsed(row, first)?,
        claim: number(row, first + 1)?,
        owner: row.text(first + 2)?,
        attempts: number(row, first + 3)?,
        lost_claims: number(row, first + 4)?,
        result: row.text(first + 5)?,
        parks: number(row, first + 6)?,
    })
}

fn text(row: &impl Columns, column: usize) -> Result<String> {
    let text = row.text(column)?;
    text.with_context(|| format!("column {column} is null"))
}

fn number(row: &impl Columns, column: usize) -> Result<i64> {
    let number = row.number(column)?;
    number.with_context(|| format!("column {column} is null"))
}

fn count(row: &impl Columns, column: usize) -> Result<u64> {
    Ok(number(row, column)?.try_into()?)
}

fn is_true(row: &impl Columns, column: usize) -> Result<bool> {
    match number(row, column)? {
        0 => Ok(false),
        1 => Ok(true),
        other => bail!("column {column} is neither 0 nor 1, but {other}"),
    }
}

fn parsed<T: FromStr<Err: Display>>(row: &impl Columns, column: usize) -> Result<T> {
    let text = text(row, column)?;
    let parsed = text.parse();
    parsed.map_err(|error| anyhow!("column {column} is `{text}`: {error}"))
}
