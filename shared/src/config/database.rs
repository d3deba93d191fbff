//! Which database: `DB_URL`, and what belongs to it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

#[cfg(feature = "postgres")]
use super::postgres_url::{self, PostgresSettings};
use super::{Synchronous, db_url, error::SettingError, layers::Layers};

/// The database, by its engine. Shown without a password.
#[derive(Clone, Debug)]
pub enum DatabaseSettings {
    /// A file on a local disk of one host.
    Sqlite(SqliteSettings),
    /// A server that many hosts share.
    #[cfg(feature = "postgres")]
    Postgres(PostgresSettings),
}

/// A database file.
#[derive(Clone, Debug)]
pub struct SqliteSettings {
    /// The absolute path of the file: `DB_URL`.
    pub path: PathBuf,
    /// What a commit survives: `DB_SYNCHRONOUS`.
    pub synchronous: Synchronous,
}

impl DatabaseSettings {
    pub(super) fn read(layers: &Layers) -> Result<Self, SettingError> {
        let synchronous = layers.parse("db_synchronous", "full or normal", |word| match word {
            "full" => Some(Synchronous::Full),
            "normal" => Some(Synchronous::Normal),
            _ => None,
        })?;
        let url = layers.raw("db_url")?;
        if db_url::is_of_postgres(&url) {
            #[cfg(feature = "postgres")]
            return layers
                .try_parse_secret("db_url", |url| {
                    postgres_url::parse(url, layers.postgres_variables())
                })
                .map(Self::Postgres);
            #[cfg(not(feature = "postgres"))]
            return layers.try_parse_secret("db_url", |_| Err(db_url::NO_POSTGRES));
        }
        let path = if db_url::has_login(&url) {
            // What is wrong with it may name a part of the password.
            let parse = |url: &str| db_url::parse(url).map_err(|_| db_url::NO_LOGIN);
            layers.try_parse_secret("db_url", parse)?
        } else {
            layers.try_parse("db_url", db_url::parse)?
        };
        Ok(Self::Sqlite(SqliteSettings { path, synchronous }))
    }

    /// The same, but no commit waits for the disk.
    #[must_use]
    pub fn without_fsync(mut self) -> Self {
        match &mut self {
            Self::Sqlite(sqlite) => sqlite.synchronous = Synchronous::Normal,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => {}
        }
        self
    }

    /// The engine, by its name in the scheme of `DB_URL`.
    pub fn engine(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => "postgres",
        }
    }

    /// The path of the database file; `None` if the engine has none.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(sqlite) => Some(&sqlite.path),
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => None,
        }
    }
}

impl fmt::Display for DatabaseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(sqlite) => sqlite.path.display().fmt(f),
            #[cfg(feature = "postgres")]
            Self::Postgres(postgres) => postgres.fmt(f),
        }
    }
}
