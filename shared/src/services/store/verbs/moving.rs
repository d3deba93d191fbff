//! Moving a store from a database file to a server.
//!
//! The order is what makes it safe to repeat after a crash at any instant:
//!
//! 1. The target gets its tables, and the id of the move. No service opens it from now on.
//! 2. The source is marked with that id: nothing is written to it any more, and all claims are
//!    released. What any process has accepted until then is in it.
//! 3. The rows are copied, each batch in one transaction with its place. A repeat goes on there.
//! 4. All rows are compared.
//! 5. The target is declared complete, and services open it. Then the source notes that, too.

mod copy;
mod mover;
mod shared_source;

use self::{
    mover::{Mover, Step},
    shared_source::SharedSource,
};
use super::super::{
    MoveError, MovePlan, MoveProgress, MoveStep, Moved, Store, StoreError,
    postgres::moving::Target, sqlite::moving::Source,
};
use crate::config::{DatabaseSettings, StoreSettings};

impl Store {
    /// Moves the store in the database file of `from` to the server of `to`, and tells `progress`
    /// after each batch. Both may be of settings that differ in nothing else.
    ///
    /// It is safe to repeat after an error or a crash at any instant, and goes on then. Two calls
    /// at once are safe, too: one of them may fail, and then its repeat goes on. From the moment
    /// that the source is marked, every process that has it open is refused each write, and none
    /// opens it any more.
    ///
    /// # Errors
    /// [`MoveError::Source`], [`MoveError::Target`]: nothing was changed, but that the target may
    /// have empty tables. [`MoveError::Interrupted`]: the source is marked.
    pub async fn migrate(
        from: &StoreSettings,
        to: &StoreSettings,
        mut progress: impl FnMut(MoveProgress),
    ) -> Result<Moved, MoveError> {
        let (source, target) = open(from, to).await?;
        let mut steps = Mover::new(source, &target, to.database.to_string());
        let moved = loop {
            match steps.advance(&mut progress).await {
                Ok(None) => {}
                Ok(Some(moved)) => break Ok(moved),
                Err(error) => break Err(error),
            }
        };
        target.close().await;
        moved
    }

    /// What [`Store::migrate`] would do now. Writes nothing.
    ///
    /// # Errors
    /// Those that it would begin with.
    pub async fn plan_migration(
        from: &StoreSettings,
        to: &StoreSettings,
    ) -> Result<MovePlan, MoveError> {
        let (source, target) = open(from, to).await?;
        let look = |source: &mut Source| Ok((source.id()?, source.mark()?, source.count()?));
        let (id, mark, rows) = source.run(look).await?;
        drop(source);
        let name = to.database.to_string();
        let found = target.look().await.map_err(MoveError::Target);
        target.close().await;
        let next = match mover::step(&id, mark.as_ref(), &found?, &name)? {
            Step::Begin { .. } if mark.is_none() => MoveStep::Begin,
            Step::Begin { .. } | Step::GoOn { .. } => MoveStep::GoOn,
            Step::Over => MoveStep::Nothing,
        };
        Ok(MovePlan {
            target: name,
            rows: rows
                .into_iter()
                .map(|(it, rows)| (it.name(), rows))
                .collect(),
            next,
        })
    }
}

async fn open(
    from: &StoreSettings,
    to: &StoreSettings,
) -> Result<(SharedSource, Target), MoveError> {
    let DatabaseSettings::Sqlite(file) = &from.database else {
        let problem = format!(
            "{} is no database file: a store is moved from SQLite to PostgreSQL only, and never \
             back",
            from.database
        );
        return Err(MoveError::Source(StoreError::Unusable(problem)));
    };
    let DatabaseSettings::Postgres(server) = &to.database else {
        let problem = format!(
            "{} is no PostgreSQL server: a store is moved from SQLite to PostgreSQL only",
            to.database
        );
        return Err(MoveError::Target(StoreError::Unusable(problem)));
    };
    let source = SharedSource::open(file).await.map_err(MoveError::Source)?;
    let target = Target::of(server, to).map_err(MoveError::Target)?;
    Ok((source, target))
}
