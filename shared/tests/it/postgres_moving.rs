//! Moving a store from `SQLite` to `PostgreSQL`: everything is there afterwards, whatever happens
//! on the way, and nothing goes on at the old place.

mod everything;
mod faults;
mod refusals;
mod source;

use storm_shared::services::store::{MoveError, Moved, Store};

use crate::database::{Engine, TestDatabase};

/// A store to be moved, and an empty database.
async fn databases() -> (TestDatabase, TestDatabase) {
    (
        TestDatabase::fresh(Engine::Sqlite).await,
        TestDatabase::fresh(Engine::Postgres).await,
    )
}

async fn migrate(from: &TestDatabase, to: &TestDatabase) -> Result<Moved, MoveError> {
    Store::migrate(&from.settings(), &to.settings(), |_| {}).await
}

/// The line that an error says.
fn line(error: &MoveError) -> String {
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}
