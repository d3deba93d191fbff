//! Writes of a state: the only statements that change one, each for one [`Transition`].

use crate::{
    models::{Status, Transition},
    services::store::Work,
};

/// SQL that selects the one row on which the claim in `?1` to `?3` is held: its id, owner and
/// number. A row that was returned keeps its claim number until its next claim, but no owner.
pub(super) const IS_HELD: &str = "id = ?1 AND owner = ?2 AND claim = ?3";

/// SQL for the rows that workers hold.
pub(super) const IS_CLAIMED: &str = "status = 'PROCESSING'";

/// The table that holds `work`. Both tables have the columns that transitions change.
pub(super) const fn table(work: Work) -> &'static str {
    match work {
        Work::Job => "requests",
        Work::Redelivery => "redeliveries",
    }
}

/// SQL that makes `transition` in the rows of `work` that meet `condition`, and sets the columns in
/// `set` with it.
///
/// `OR FAIL`: who makes a change undoes it all if it fails. By default, `SQLite` would journal each
/// page that a statement changes, to undo that statement alone.
pub(super) fn change(work: Work, transition: Transition, set: &str, condition: &str) -> String {
    let (table, from, to) = (table(work), transition.from(), transition.to());
    // What has ended keeps its last owner: a repeated write is recognised by it.
    let owner = match to {
        Status::Pending => "owner = NULL, ",
        _ => "",
    };
    format!(
        "UPDATE OR FAIL {table} SET status = '{to}', {owner}{set} WHERE status = '{from}' AND {condition}"
    )
}
