//! The target of a move: an empty database that gets a store's tables, batch by batch.
//!
//! The table `moved_in` says how far the move is. Each batch is committed together with its place
//! there, so after a crash at any instant the next call goes on with the first row that is missing.
//! Until `done` is set, no service opens the database (`schema`).
//!
//! Batches do not wait for the disk. A server that crashes loses the last of them with their place,
//! also while they are compared. The commit of `done` waits, and all before it are durable then,
//! too.

mod rows;

use std::sync::Arc;

use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    connect,
    error::Error,
    open::remedy,
    schema,
    session::{Parameter, Session, Sessions},
};
use crate::{
    config::{PostgresSettings, StoreSettings},
    services::store::{
        StoreError, Trouble,
        moving::{Key, Place, Rows, Table},
    },
};

/// Where the move has begun, with the tables of the store, and how far it is.
const CREATE: &str = "CREATE TABLE moved_in (
        one       boolean PRIMARY KEY DEFAULT true CHECK (one),
        id        text NOT NULL,      -- of the move: the source's mark has it, too
        version   integer NOT NULL,   -- the schema's
        clock     bigint,             -- milliseconds from the source's store time to Unix time
        stage     integer NOT NULL DEFAULT 0,  -- the table that is copied, by its place
        after_key text[],             -- the last row of it that is here
        began     timestamptz NOT NULL DEFAULT now(),
        done      timestamptz         -- when everything was here
    )";

/// A database that a store is moved to.
pub(in crate::services::store) struct Target {
    sessions: Arc<Sessions>,
    settings: PostgresSettings,
}

/// What the database has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::services::store) enum Found {
    /// No table of this service.
    Empty,
    /// A move that has begun.
    Arrival(Arrival),
    /// A store, or tables of another program: why it can't be a target.
    Taken(String),
}

/// How far a move is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::services::store) struct Arrival {
    /// The move.
    pub(in crate::services::store) id: String,
    /// The store.
    pub(in crate::services::store) store: String,
    /// Milliseconds from the source's store time to Unix time; `None` before the first batch.
    pub(in crate::services::store) clock: Option<i64>,
    /// What is copied next.
    pub(in crate::services::store) place: Place,
    /// Whether everything is here.
    pub(in crate::services::store) is_done: bool,
}

impl Arrival {
    /// Whether it is of the store `store`, has no row yet, and belongs to no mark so far.
    pub(in crate::services::store) fn is_unfilled_of(&self, store: &str) -> bool {
        self.clock.is_none() && self.store == store
    }
}

impl Target {
    /// The database at `postgres`, which is not connected to yet.
    ///
    /// # Errors
    /// The certificates of the authorities can't be read.
    pub(in crate::services::store) fn of(
        postgres: &PostgresSettings,
        settings: &StoreSettings,
    ) -> Result<Self, StoreError> {
        let pool = connect::pool(postgres)?;
        Ok(Self {
            sessions: Arc::new(Sessions::of(pool, settings.write_queue)),
            settings: postgres.clone(),
        })
    }

    /// What the database has.
    ///
    /// # Errors
    /// It can't be read now, or a setting must be changed first.
    pub(in crate::services::store) async fn look(&self) -> Result<Found, StoreError> {
        let found = self.sessions.try_once(&|session| look(session)).await;
        found.map_err(|error| self.failed(&error))
    }

    /// Creates the tables of the store `store` in an empty database, for the move `id`. In their
    /// place, one that was begun and has no row yet becomes that move. Returns what there is then.
    ///
    /// # Errors
    /// As for [`Target::look`].
    pub(in crate::services::store) async fn begin(
        &self,
        id: &str,
        store: &str,
    ) -> Result<Found, StoreError> {
        let begin = |session: Session| async move {
            schema::lock(&session).await?;
            match look(session.clone()).await? {
                Found::Empty => {
                    schema::create(&session, store).await?;
                    session.execute_all(CREATE).await?;
                    let values = [(&id as _, Type::TEXT), (&schema::newest() as _, Type::INT4)];
                    let insert = "INSERT INTO moved_in (id, version) VALUES ($1, $2)";
                    session.execute(insert, &values).await?;
                }
                Found::Arrival(it) if it.is_unfilled_of(store) => {
                    let update = "UPDATE moved_in SET id = $1 WHERE clock IS NULL";
                    session.execute(update, &[(&id, Type::TEXT)]).await?;
                }
                found => return Ok(found),
            }
            look(session).await
        };
        let found = self.sessions.try_once(&begin).await;
        found.map_err(|error| self.failed(&error))
    }

    /// The server's clock, in Unix milliseconds.
    ///
    /// # Errors
    /// As for [`Target::look`].
    pub(in crate::services::store) async fn now(&self) -> Result<i64, StoreError> {
        let now = |session: Session| async move {
            let now = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
            match session.find(now, &[]).await? {
                Some(row) => Ok(row.try_get(0)?),
                None => Err(Error::Row("the server tells no time".to_owned())),
            }
        };
        let now = self.sessions.try_once(&now).await;
        now.map_err(|error| self.failed(&error))
    }

    /// Notes by how much the server's clock is ahead of the source's, unless that is known, and
    /// when everything was `resumed` last, by the source's. From here on the move belongs to the
    /// source that is marked with its id. Returns what is noted.
    ///
    /// # Errors
    /// As for [`Target::look`]; and if another move has come between.
    pub(in crate::services::store) async fn set_clock(
        &self,
        id: &str,
        clock: i64,
        resumed: i64,
    ) -> Result<i64, StoreError> {
        let set = |session: Session| async move {
            let update = "UPDATE moved_in SET clock = coalesce(clock, $2)
                 WHERE id = $1 AND done IS NULL RETURNING clock";
            let values = [(&id as _, Type::TEXT), (&clock as _, Type::INT8)];
            let Some(row) = session.find(update, &values).await? else {
                return Ok(None);
            };
            let clock: i64 = row.try_get(0)?;
            let resumed = resumed.saturating_add(clock).max(0);
            let update = "UPDATE store
                 SET resumed = timestamptz 'epoch' + $1 * interval '1 millisecond'";
            session.execute(update, &[(&resumed, Type::INT8)]).await?;
            Ok(Some(clock))
        };
        let set = self.sessions.try_once(&set).await;
        set.map_err(|error| self.failed(&error))?
            .ok_or_else(|| self.is_in_other_hands())
    }

    /// Inserts `rows`, and goes on from `from` to `to`.
    ///
    /// # Errors
    /// As for [`Target::look`]; and if the move is not at that place any more: another process has
    /// gone on from there, or the server has lost what came before.
    pub(in crate::services::store) async fn insert(
        &self,
        id: &str,
        rows: &Rows,
        from: &Place,
        to: &Place,
    ) -> Result<(), StoreError> {
        let insert = |session: Session| async move {
            session
                .execute_all("SET LOCAL synchronous_commit = off")
                .await?;
            if !go_on(&session, id, from, to).await? {
                return Ok(false);
            }
            if rows.len() > 0 {
                rows::insert(&session, rows).await?;
            }
            Ok(true)
        };
        let inserted = self.sessions.try_once(&insert).await;
        if inserted.map_err(|error| self.failed(&error))? {
            return Ok(());
        }
        let found = self.look().await?;
        Err(self.is_not_at(from, id, &found))
    }

    /// Compares `rows` with those after `after`, up to the last of them. Says how they differ.
    ///
    /// # Errors
    /// As for [`Target::look`]; and if the server has lost rows that were copied.
    pub(in crate::services::store) async fn compare(
        &self,
        id: &str,
        rows: &Rows,
        after: Option<&Key>,
    ) -> Result<Option<String>, StoreError> {
        let compare = |session: Session| async move {
            session
                .execute_all("SET LOCAL transaction_read_only = on")
                .await?;
            let Some(problem) = rows::compare(&session, rows, after).await? else {
                return Ok(None);
            };
            // A batch is lost together with its place, and all that were committed after it.
            Ok(Some((problem, look(session).await?)))
        };
        let compared = self.sessions.try_once(&compare).await;
        match compared.map_err(|error| self.failed(&error))? {
            None => Ok(None),
            Some((_, found)) if has_lost(&found, id, &Place::end()) => Err(self.has_lost()),
            Some((problem, _)) => Ok(Some(problem)),
        }
    }

    /// Declares the move complete: from its commit on, services may use the database.
    ///
    /// # Errors
    /// As for [`Target::insert`].
    pub(in crate::services::store) async fn finish(&self, id: &str) -> Result<(), StoreError> {
        for table in Table::ALL {
            // The planner knows nothing of the rows yet. Autovacuum comes to it, too.
            let analyze = |session: Session| async move {
                session
                    .execute_all(&format!("ANALYZE {}", table.name()))
                    .await
            };
            if let Err(error) = self.sessions.try_once(&analyze).await {
                tracing::debug!(error = error.message(), "a table was not analyzed");
            }
        }
        let finish = |session: Session| async move {
            let update = "UPDATE moved_in SET done = now()
                 WHERE id = $1 AND stage = $2 AND done IS NULL";
            let values = [
                (&id as _, Type::TEXT),
                (&stage(Table::ALL.len()) as _, Type::INT4),
            ];
            session.execute(update, &values).await
        };
        let finished = self.sessions.try_once(&finish).await;
        if finished.map_err(|error| self.failed(&error))? > 0 {
            return Ok(());
        }
        match self.look().await? {
            // Another process has declared it.
            Found::Arrival(it) if it.id == id && it.is_done => Ok(()),
            found => Err(self.is_not_at(&Place::end(), id, &found)),
        }
    }

    /// Closes the connections.
    pub(in crate::services::store) async fn close(&self) {
        self.sessions.close().await;
    }

    /// Names the database, without the password, and what an operator must change.
    fn failed(&self, error: &Error) -> StoreError {
        let said = format!("{}: {}", self.settings, error.message());
        if let Some(remedy) = remedy(error) {
            return StoreError::Unusable(format!("{said}; {remedy}"));
        }
        StoreError::Failed {
            trouble: error.trouble(),
            message: said.into(),
        }
    }

    /// Why the move `id` is not at `place`, but as it was found.
    fn is_not_at(&self, place: &Place, id: &str, found: &Found) -> StoreError {
        if has_lost(found, id, place) {
            self.has_lost()
        } else {
            self.is_in_other_hands()
        }
    }

    fn has_lost(&self) -> StoreError {
        StoreError::Failed {
            trouble: Trouble::Other,
            message: format!(
                "{}: the server has lost the rows that were copied last, as it does if it crashes",
                self.settings
            )
            .into(),
        }
    }

    fn is_in_other_hands(&self) -> StoreError {
        StoreError::Failed {
            trouble: Trouble::Busy,
            message: format!(
                "{}: another process moves a store to this database, too; wait for its end",
                self.settings
            )
            .into(),
        }
    }
}

/// Whether the move `id`, which has come to `place`, is not as far any more.
fn has_lost(found: &Found, id: &str, place: &Place) -> bool {
    match found {
        Found::Empty => true,
        Found::Arrival(it) => it.id == id && !it.is_done && it.place.is_before(place),
        Found::Taken(_) => false,
    }
}

async fn look(session: Session) -> Result<Found, Error> {
    let tables = schema::Tables::of(&session).await?;
    if let Some(problem) = tables.problem() {
        return Ok(Found::Taken(problem));
    }
    match (tables.moved_in, tables.store, tables.requests) {
        (true, true, true) => arrival(&session).await,
        (false, false, false) => Ok(Found::Empty),
        (false, true, true) => Ok(Found::Taken(
            "the database has a store of its own; use an empty database".to_owned(),
        )),
        _ => Ok(Found::Taken(
            "the database has tables `moved_in`, `store` or `requests` that are not of this \
             service; use an empty database"
                .to_owned(),
        )),
    }
}

async fn arrival(session: &Session) -> Result<Found, Error> {
    let find = "SELECT moved_in.id, store.id AS store, moved_in.version, clock, stage, after_key,
             done IS NOT NULL AS is_done
         FROM moved_in, store";
    let Some(row) = session.find(find, &[]).await? else {
        return Ok(Found::Taken(
            "the database has no row of its store; use an empty database".to_owned(),
        ));
    };
    let (found, known): (i32, i32) = (row.try_get("version")?, schema::newest());
    let arrival = read(&row)?;
    if found != known && !arrival.is_done {
        return Ok(Found::Taken(format!(
            "a move to this database was begun by a program with schema version {found}, and this \
             one has {known}: complete it with that program"
        )));
    }
    Ok(Found::Arrival(arrival))
}

fn read(row: &Row) -> Result<Arrival, Error> {
    Ok(Arrival {
        id: row.try_get("id")?,
        store: row.try_get("store")?,
        clock: row.try_get("clock")?,
        place: Place {
            stage: usize::try_from(row.try_get::<_, i32>("stage")?).unwrap_or(0),
            after: row.try_get("after_key")?,
        },
        is_done: row.try_get("is_done")?,
    })
}

/// Notes the next place. False if the last one is another by now.
async fn go_on(session: &Session, id: &str, from: &Place, to: &Place) -> Result<bool, Error> {
    let update = "UPDATE moved_in SET stage = $2, after_key = $3
         WHERE id = $1 AND stage = $4 AND after_key IS NOT DISTINCT FROM $5
             AND clock IS NOT NULL AND done IS NULL";
    let values: [Parameter<'_>; 5] = [
        (&id, Type::TEXT),
        (&stage(to.stage), Type::INT4),
        (&to.after, Type::TEXT_ARRAY),
        (&stage(from.stage), Type::INT4),
        (&from.after, Type::TEXT_ARRAY),
    ];
    Ok(session.execute(update, &values).await? == 1)
}

fn stage(place: usize) -> i32 {
    i32::try_from(place).unwrap_or(i32::MAX)
}

/// A new id of a move.
pub(in crate::services::store) fn new_id() -> String {
    Uuid::new_v4().to_string()
}
