//! The record of what operators do. Value types, no SQL.

use serde_json::value::RawValue;

use crate::models::ClientName;

/// How many records are kept: the newest.
pub(super) const AUDIT_KEPT: usize = 100_000;

/// What is recorded of an action.
pub(super) struct Action<'a> {
    pub(super) operator: &'a ClientName,
    pub(super) name: &'a str,
    /// JSON.
    pub(super) filter: &'a str,
    pub(super) matched: usize,
    pub(super) changed: usize,
    pub(super) dry_run: bool,
}

/// One thing that an operator has done, or tried out.
#[derive(Clone, Debug)]
pub struct AuditRecord {
    /// Its number: later ones have greater numbers.
    pub number: i64,
    /// When, by the wall clock: RFC 3339, UTC, with milliseconds.
    pub at: String,
    /// The operator's name.
    pub operator: String,
    /// What was done, in one word.
    pub action: String,
    /// What it was done to: JSON.
    pub filter: Box<RawValue>,
    /// How many requests it was for; of a pause or a resume, 1.
    pub matched: usize,
    /// How many of them it has changed.
    pub changed: usize,
    /// Whether it was only tried out.
    pub dry_run: bool,
}
