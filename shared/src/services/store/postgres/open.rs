//! Opening the database: waits for a server that does not answer yet.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio_postgres::Row;
use tracing::warn;

use super::{
    error::Error,
    schema::{self, Found},
    session::Sessions,
};
use crate::{
    config::PostgresSettings,
    services::store::{StoreError, condition::Condition},
};

/// SQL for the settings by which a commit survives less than a crash of the server and a failover.
const WEAK_SETTINGS: &str = "
    SELECT name || '=' || setting, CASE name
        WHEN 'synchronous_commit' THEN CASE setting
            WHEN 'off' THEN 'by a crash of the database server'
            ELSE 'by a failover, although there are synchronous standbys' END
        ELSE 'by a power cut of the database server' END
    FROM pg_settings
    WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'
        OR name = 'synchronous_commit' AND (setting = 'off'
            OR setting = 'local' AND current_setting('synchronous_standby_names') <> '')
    ORDER BY name";

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Migrates the database, and returns the store's id. Retries without a time limit what can pass
/// by itself: a server that is down, starting, full or read-only, or has no connection left.
///
/// # Errors
/// [`StoreError::Unusable`]: the address, the login or the role's rights are wrong, or the schema
/// is another's.
pub(super) async fn open(
    sessions: &Sessions,
    settings: &PostgresSettings,
) -> Result<String, StoreError> {
    let condition = Condition::healthy(
        "the database can't be opened yet; retrying until it can",
        "the database is open",
    );
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .build();
    loop {
        match schema::migrate(sessions).await {
            Ok(Found::Current(id)) => {
                condition.succeeded();
                warn_of_settings(sessions).await;
                return Ok(id);
            }
            Ok(Found::Unusable(why)) => return Err(unusable(settings, &why)),
            Err(error) => {
                if let Some(remedy) = remedy(&error) {
                    let why = format!("{}; {remedy}", error.message());
                    return Err(unusable(settings, &why));
                }
                condition.failed(error.trouble(), &error.message());
            }
        }
        tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}

/// Says in the log which settings of the server, the database or the role give up commits.
async fn warn_of_settings(sessions: &Sessions) {
    for (setting, loss) in weak_settings(sessions).await {
        warn!(setting, loss, "accepted jobs can be lost");
    }
}

/// The settings that give up commits, and by what.
async fn weak_settings(sessions: &Sessions) -> Vec<(String, String)> {
    // A failure is in the log. The first write will meet it, too.
    let rows = sessions.query(WEAK_SETTINGS, &[]).await.unwrap_or_default();
    let read = |row: &Row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?));
    rows.iter().filter_map(read).collect()
}

/// The id of a store whose database is there and current. Tries once.
///
/// # Errors
/// There is none, its schema is another, or it can't be read now.
pub(super) async fn attach(
    sessions: &Sessions,
    settings: &PostgresSettings,
) -> Result<String, StoreError> {
    match schema::find(sessions).await {
        Ok(Found::Current(id)) => Ok(id),
        Ok(Found::Unusable(why)) => Err(unusable(settings, &why)),
        Err(error) => Err(match remedy(&error) {
            Some(remedy) => unusable(settings, &format!("{}; {remedy}", error.message())),
            None => error.into_store(false),
        }),
    }
}

/// What an operator must change; `None` if the error can pass by itself.
pub(super) fn remedy(error: &Error) -> Option<&'static str> {
    const LOGIN: &str = "correct the user and password in DB_URL, PGPASSWORD or PGPASSFILE";
    if error.lacks_password() {
        return Some(LOGIN);
    }
    // By the code's class: https://www.postgresql.org/docs/current/errcodes-appendix.html
    let code = error.state()?.code();
    match code {
        "3D000" => Some("create the database, or correct DB_URL"),
        "3F000" => Some("create the first schema of the role's search_path, or correct that"),
        "42501" => Some(
            "the role needs the right to create tables in the schema, and those of their owner \
             (GRANT CREATE ON SCHEMA, or make the role the owner of the database)",
        ),
        code if code.starts_with("28") => Some(LOGIN),
        _ => None,
    }
}

/// Names the database, without the password.
fn unusable(settings: &PostgresSettings, why: &str) -> StoreError {
    StoreError::Unusable(format!("{settings}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::{super::fresh::Fresh, weak_settings};

    #[tokio::test]
    async fn a_start_says_which_settings_give_up_commits() {
        let fresh = Fresh::open().await;
        fresh
            .execute(
                "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off',
                     current_database()); END $$",
            )
            .await;
        // The server for tests has no fsync. The database's setting counts for new connections.
        let names = |weak: Vec<(String, String)>| weak.into_iter().map(|(name, _)| name);
        let before: Vec<_> = names(weak_settings(&fresh.sessions).await).collect();
        assert_eq!(before, ["fsync=off"]);
        let again = fresh.again();
        let after: Vec<_> = names(weak_settings(&again).await).collect();
        assert_eq!(after, ["fsync=off", "synchronous_commit=off"]);
        again.close().await;
        fresh.drop().await;
    }
}
