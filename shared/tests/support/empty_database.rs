//! An empty database of the `PostgreSQL` server at `TEST_POSTGRES`, by the server's `psql` in the
//! folder `POSTGRES_BIN`: for tests of projects that know no client of it.

use std::{
    env,
    path::Path,
    process::{Command, Output},
};

/// A database. Dropped when this is.
pub(crate) struct EmptyDatabase(String);

impl EmptyDatabase {
    /// Creates one. `name` tells it from others of this process.
    pub(crate) fn create(name: &str) -> Self {
        let database = Self(format!("empty_{name}_{}", std::process::id()));
        let created = psql("postgres", &format!("CREATE DATABASE {}", database.0));
        assert!(created.status.success(), "{created:?}");
        database
    }

    /// Its address, as `DB_URL` has it.
    pub(crate) fn url(&self) -> String {
        format!("{}/{}", server(), self.0)
    }

    /// What a query says; nothing if it fails, such as before there are tables.
    pub(crate) fn ask(&self, query: &str) -> String {
        let output = psql(&self.0, query);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for EmptyDatabase {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.0);
        let _ = psql("postgres", &drop); // the server is thrown away after the run
    }
}

fn server() -> String {
    env::var("TEST_POSTGRES").expect("TEST_POSTGRES is the address of a PostgreSQL server")
}

fn psql(database: &str, sql: &str) -> Output {
    let folder = env::var("POSTGRES_BIN").expect("POSTGRES_BIN is the folder of psql");
    let mut psql = Command::new(Path::new(&folder).join("psql"));
    psql.args([
        "--no-psqlrc",
        "--tuples-only",
        "--no-align",
        "--command",
        sql,
    ])
    .arg(format!("{}/{database}", server()));
    psql.output().unwrap()
}
