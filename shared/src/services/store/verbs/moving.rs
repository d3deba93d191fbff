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

use std::time::Instant;

use tokio::{sync::mpsc, task::JoinHandle};

use super::super::{
    MoveError, MovePlan, MoveProgress, MoveStep, Moved, Store, StoreError,
    moving::{Key, Rows, Table},
    postgres::moving::{Arrival, Found, Place, Target, new_id},
    sqlite::moving::{Mark, Source},
};
use crate::config::{DatabaseSettings, StoreSettings};

/// Batches that are read ahead.
const AHEAD: usize = 2;

impl Store {
    /// Moves the store in the database file of `from` to the server of `to`, and tells `progress`
    /// after each batch. Both may be of settings that differ in nothing else.
    ///
    /// It is safe to repeat after an error or a crash at any instant, and goes on then. From the
    /// moment that the source is marked, every process that has it open is refused each write, and
    /// none opens it any more.
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
        let moved = run(source, &target, to.database.to_string(), &mut progress).await;
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
        let (source, (id, mark, rows)) = on_source(source, |source| {
            Ok((source.id()?, source.mark()?, source.count()?))
        })
        .await?;
        drop(source);
        let name = to.database.to_string();
        let found = target.look().await.map_err(MoveError::Target);
        target.close().await;
        let next = match step(&id, mark.as_ref(), &found?, &name)? {
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

/// What comes next.
enum Step {
    /// The target gets its tables, and the source its mark, unless that is set.
    Begin { id: String },
    /// The rest is copied.
    GoOn { mark: Mark, arrival: Arrival },
    /// Nothing: the target has everything.
    Over,
}

/// What comes next, with a source that has the store `id`, and a target called `name`.
fn step(id: &str, mark: Option<&Mark>, found: &Found, name: &str) -> Result<Step, MoveError> {
    let refused = |why: &str| MoveError::Target(StoreError::Unusable(format!("{name}: {why}")));
    match (mark, found) {
        (_, Found::Taken(why)) => Err(refused(why)),
        (None, Found::Empty) => Ok(Step::Begin { id: new_id() }),
        // A call before this one has ended between the first two steps.
        (None, Found::Arrival(it)) if it.clock.is_none() && it.store == id => {
            Ok(Step::Begin { id: new_id() })
        }
        (None, Found::Arrival(it)) if it.is_done => Err(refused(
            "the database has a store of its own; use an empty database",
        )),
        (None, Found::Arrival(_)) => Err(refused(
            "another store, or another copy of this one, is being moved to this database; use an \
             empty database",
        )),
        (Some(mark), Found::Empty) if mark.target == name && mark.is_complete => Err(refused(
            "the store was moved to this database completely, and it is empty: restore its backup",
        )),
        (Some(mark), Found::Empty) if mark.target == name => Ok(Step::Begin {
            id: mark.id.clone(),
        }),
        // Of two calls at once, the other one came to the target last and was marked first.
        (Some(mark), Found::Arrival(it))
            if mark.id != it.id && mark.target == name && it.clock.is_none() && it.store == id =>
        {
            Ok(Step::Begin {
                id: mark.id.clone(),
            })
        }
        (Some(mark), Found::Arrival(it)) if mark.id == it.id => Ok(if it.is_done {
            Step::Over
        } else {
            Step::GoOn {
                mark: mark.clone(),
                arrival: it.clone(),
            }
        }),
        (Some(mark), _) => Err(MoveError::Source(StoreError::Unusable(format!(
            "the store is being moved to {}, or was moved there, and not to {name}: run the \
             command with that target",
            mark.target
        )))),
    }
}

async fn open(from: &StoreSettings, to: &StoreSettings) -> Result<(Source, Target), MoveError> {
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
    let file = file.clone();
    let source = tokio::task::spawn_blocking(move || Source::open(&file));
    let source = source.await.unwrap_or(Err(StoreError::Closed));
    let source = source.map_err(MoveError::Source)?;
    let target = Target::of(server, to).map_err(MoveError::Target)?;
    Ok((source, target))
}

async fn run(
    source: Source,
    target: &Target,
    name: String,
    progress: &mut impl FnMut(MoveProgress),
) -> Result<Moved, MoveError> {
    let (source, (id, mark)) =
        on_source(source, |source| Ok((source.id()?, source.mark()?))).await?;
    let found = target.look().await.map_err(MoveError::Target)?;
    let (source, mark, arrival) = match step(&id, mark.as_ref(), &found, &name)? {
        Step::GoOn { mark, arrival } => (source, mark, Some(arrival)),
        Step::Over => {
            note_end(source).await;
            return Ok(Moved {
                target: name,
                rows: Vec::new(),
                left_out: 0,
                was_moved: true,
                copied: 0,
                copying: std::time::Duration::ZERO,
            });
        }
        Step::Begin { id: of_move } => {
            begin(target, &of_move, &id, &name).await?;
            let of_target = name.clone();
            let (source, mark) =
                on_source(source, |source| source.set_mark(of_move, of_target)).await?;
            (source, mark, None)
        }
    };
    let moved = go_on(source, target, name, &mark, arrival, progress).await;
    moved.map_err(|error| match error {
        different @ MoveError::Different { .. } => different,
        error => MoveError::Interrupted(Box::new(error)),
    })
}

/// Notes in the source that the target has everything: should the target lose it all, a repeat must
/// not fill it again. The move is over in any case.
async fn note_end(source: Source) {
    if let Err(error) = on_source(source, |source| source.complete()).await {
        tracing::warn!(%error, "the move is complete, and its source could not note that");
    }
}

/// Makes the tables of the target.
async fn begin(target: &Target, of_move: &str, id: &str, name: &str) -> Result<(), MoveError> {
    let found = target.begin(of_move, id).await.map_err(MoveError::Target)?;
    match found {
        Found::Arrival(it) if it.id == of_move => Ok(()),
        // Another process was first.
        found => step(id, None, &found, name).map(drop),
    }
}

/// Copies what is missing, compares everything, and ends the move.
async fn go_on(
    source: Source,
    target: &Target,
    name: String,
    mark: &Mark,
    arrival: Option<Arrival>,
    progress: &mut impl FnMut(MoveProgress),
) -> Result<Moved, MoveError> {
    let (source, (resumed, counts)) =
        on_source(source, |source| Ok((source.resumed()?, source.count()?))).await?;
    let known = arrival.as_ref().and_then(|it| it.clock);
    let clock = if let Some(clock) = known {
        clock
    } else {
        let clock = clock(target, mark).await.map_err(MoveError::Target)?;
        let set = target.set_clock(&mark.id, clock, resumed).await;
        set.map_err(MoveError::Target)?
    };
    let of = counts.iter().map(|(_, rows)| rows).sum();
    let begun = Instant::now();
    let mut place = arrival.map(|it| it.place).unwrap_or_default();
    let mut copied = 0;
    let mut reader = Reader::start(source, &place, clock);
    while let Some(rows) = reader.next().await {
        let rows = rows.map_err(MoveError::Source)?;
        let next = after(&place, &rows);
        let inserted = target.insert(&mark.id, &rows, &place, &next).await;
        inserted.map_err(MoveError::Target)?;
        place = next;
        copied += rows.len() as u64;
        progress(MoveProgress {
            is_check: false,
            table: rows.table.name(),
            done: copied,
            of,
        });
    }
    let copying = begun.elapsed();
    let source = reader.end().await.map_err(MoveError::Source)?;
    let (source, rows, left_out) = compare(source, target, clock, of, progress).await?;
    let finished = target.finish(&mark.id).await;
    finished.map_err(MoveError::Target)?;
    note_end(source).await;
    Ok(Moved {
        target: name,
        rows,
        left_out,
        was_moved: false,
        copied,
        copying,
    })
}

/// How many milliseconds Unix time by the target's clock is ahead of the source's store time. The
/// time of the mark is the wall clock's of this host, which may differ from the target's.
async fn clock(target: &Target, mark: &Mark) -> Result<i64, StoreError> {
    let theirs = target.now().await?;
    let ours = jiff::Timestamp::now().as_millisecond();
    Ok(mark.wall - mark.store_time + (theirs - ours))
}

/// The place after these rows.
fn after(place: &Place, rows: &Rows) -> Place {
    if rows.is_last {
        return Place {
            stage: place.stage + 1,
            after: None,
        };
    }
    Place {
        stage: place.stage,
        after: rows.last_key(),
    }
}

/// Compares all rows. Returns how many each table has, and how many were left out.
async fn compare(
    source: Source,
    target: &Target,
    clock: i64,
    of: u64,
    progress: &mut impl FnMut(MoveProgress),
) -> Result<(Source, Vec<(&'static str, u64)>, u64), MoveError> {
    let mut counts: Vec<_> = Table::ALL.iter().map(|it| (it.name(), 0)).collect();
    let (mut left_out, mut done) = (0, 0);
    let mut place = Place::default();
    let mut reader = Reader::start(source, &place, clock);
    while let Some(rows) = reader.next().await {
        let rows = rows.map_err(MoveError::Source)?;
        differs(target, &rows, place.after.as_ref()).await?;
        if rows.is_last && rows.len() > 0 {
            // And there are no more.
            differs(target, &Rows::of(rows.table), rows.last_key().as_ref()).await?;
        }
        counts[place.stage].1 += rows.len() as u64;
        left_out += rows.left_out;
        done += rows.len() as u64;
        place = after(&place, &rows);
        progress(MoveProgress {
            is_check: true,
            table: rows.table.name(),
            done,
            of,
        });
    }
    let source = reader.end().await.map_err(MoveError::Source)?;
    Ok((source, counts, left_out))
}

async fn differs(target: &Target, rows: &Rows, after: Option<&Key>) -> Result<(), MoveError> {
    let compared = target.compare(rows, after).await;
    match compared.map_err(MoveError::Target)? {
        None => Ok(()),
        Some(problem) => Err(MoveError::Different {
            table: rows.table.name(),
            problem,
        }),
    }
}

/// Reads the source in a thread of its own, a few batches ahead.
struct Reader {
    batches: mpsc::Receiver<Result<Rows, StoreError>>,
    thread: JoinHandle<Source>,
}

impl Reader {
    fn start(source: Source, from: &Place, clock: i64) -> Self {
        let (batches, receiver) = mpsc::channel(AHEAD);
        let from = from.clone();
        let thread = tokio::task::spawn_blocking(move || {
            read_all(&source, from, clock, &batches);
            source
        });
        Self {
            batches: receiver,
            thread,
        }
    }

    async fn next(&mut self) -> Option<Result<Rows, StoreError>> {
        self.batches.recv().await
    }

    async fn end(self) -> Result<Source, StoreError> {
        self.thread.await.map_err(|_| StoreError::Closed)
    }
}

fn read_all(
    source: &Source,
    mut place: Place,
    clock: i64,
    batches: &mpsc::Sender<Result<Rows, StoreError>>,
) {
    while let Some(table) = Table::ALL.get(place.stage) {
        let rows = source.batch(*table, place.after.as_ref(), clock);
        if let Ok(rows) = &rows {
            place = after(&place, rows);
        }
        let is_over = rows.is_err();
        // Whoever receives them may have given up.
        if batches.blocking_send(rows).is_err() || is_over {
            return;
        }
    }
}

/// Runs `act` on the source, in a thread that may block.
async fn on_source<T: Send + 'static>(
    mut source: Source,
    act: impl FnOnce(&mut Source) -> Result<T, StoreError> + Send + 'static,
) -> Result<(Source, T), MoveError> {
    let acting = tokio::task::spawn_blocking(move || {
        let done = act(&mut source)?;
        Ok((source, done))
    });
    let acted = acting.await.unwrap_or(Err(StoreError::Closed));
    acted.map_err(MoveError::Source)
}
