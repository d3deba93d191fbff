//! The engine of the database in a run.

use std::fmt;

use serde::Serialize;

/// An engine of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// A file, one API and two workers.
    #[default]
    Sqlite,
    /// A primary and a synchronous standby, two APIs and three workers.
    Postgres,
}

impl Engine {
    /// The number of APIs.
    pub(super) const fn apis(self) -> usize {
        match self {
            Self::Sqlite => 1,
            Self::Postgres => 2,
        }
    }

    /// The number of workers.
    pub(super) const fn workers(self) -> usize {
        match self {
            Self::Sqlite => 2,
            Self::Postgres => 3,
        }
    }

    /// Its word in `STORE`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        })
    }
}
