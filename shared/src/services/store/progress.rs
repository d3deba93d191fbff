//! How far a request is, for those who wait for it. Value types, no SQL.

/// How far a request is. A later value is further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    /// It has no result yet.
    Unfinished,
    /// Its result is stored, and its callback is not over.
    Worked,
    /// It is `COMPLETED` or `FAILED`.
    Over,
    /// There is no such request, or it was deleted.
    Unknown,
}
