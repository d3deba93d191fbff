//! Copying what is missing in the target, and comparing everything.

use std::time::{Duration, Instant};

use tokio::{sync::mpsc, task::JoinHandle};

use super::shared_source::SharedSource;
use crate::services::store::{
    MoveError, MoveProgress, Moved, StoreError,
    moving::{Key, Place, Rows, Table},
    postgres::moving::Target,
    sqlite::moving::Mark,
};

/// Batches that are read ahead.
const AHEAD: usize = 2;

/// What was copied and compared.
pub(super) struct Tally {
    /// The rows of each table, by its name, that the target has.
    rows: Vec<(&'static str, u64)>,
    left_out: u64,
    /// The rows that this call has copied.
    copied: u64,
    copying: Duration,
}

impl Tally {
    /// The move to `target` that this has ended.
    pub(super) fn into_move(self, target: String) -> Moved {
        let Self {
            rows,
            left_out,
            copied,
            copying,
        } = self;
        Moved {
            target,
            rows,
            left_out,
            was_moved: false,
            copied,
            copying,
        }
    }
}

/// Copies what is missing after `place`, compares everything, and declares the target complete.
/// `clock` is that of the arrival.
pub(super) async fn copy(
    source: &SharedSource,
    target: &Target,
    mark: &Mark,
    clock: i64,
    mut place: Place,
    progress: &mut impl FnMut(MoveProgress),
) -> Result<Tally, MoveError> {
    let counts = source.run(|source| source.count()).await?;
    let of = counts.iter().map(|(_, rows)| rows).sum();
    let begun = Instant::now();
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
    reader.end().await.map_err(MoveError::Source)?;
    let (rows, left_out) = compare(source, target, mark, clock, of, progress).await?;
    let finished = target.finish(&mark.id).await;
    finished.map_err(MoveError::Target)?;
    Ok(Tally {
        rows,
        left_out,
        copied,
        copying,
    })
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
    source: &SharedSource,
    target: &Target,
    mark: &Mark,
    clock: i64,
    of: u64,
    progress: &mut impl FnMut(MoveProgress),
) -> Result<(Vec<(&'static str, u64)>, u64), MoveError> {
    let mut counts: Vec<_> = Table::ALL.iter().map(|it| (it.name(), 0)).collect();
    let (mut left_out, mut done) = (0, 0);
    let mut place = Place::default();
    let mut reader = Reader::start(source, &place, clock);
    while let Some(rows) = reader.next().await {
        let rows = rows.map_err(MoveError::Source)?;
        differs(target, mark, &rows, place.after.as_ref()).await?;
        if rows.is_last && rows.len() > 0 {
            // And there are no more.
            let none = Rows::of(rows.table);
            differs(target, mark, &none, rows.last_key().as_ref()).await?;
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
    reader.end().await.map_err(MoveError::Source)?;
    Ok((counts, left_out))
}

async fn differs(
    target: &Target,
    mark: &Mark,
    rows: &Rows,
    after: Option<&Key>,
) -> Result<(), MoveError> {
    let compared = target.compare(&mark.id, rows, after).await;
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
    thread: JoinHandle<()>,
}

impl Reader {
    fn start(source: &SharedSource, from: &Place, clock: i64) -> Self {
        let (batches, receiver) = mpsc::channel(AHEAD);
        let (source, from) = (source.clone(), from.clone());
        let thread = tokio::task::spawn_blocking(move || read_all(&source, from, clock, &batches));
        Self {
            batches: receiver,
            thread,
        }
    }

    async fn next(&mut self) -> Option<Result<Rows, StoreError>> {
        self.batches.recv().await
    }

    async fn end(self) -> Result<(), StoreError> {
        self.thread.await.map_err(|_| StoreError::Closed)
    }
}

fn read_all(
    source: &SharedSource,
    mut place: Place,
    clock: i64,
    batches: &mpsc::Sender<Result<Rows, StoreError>>,
) {
    while let Some(table) = Table::ALL.get(place.stage) {
        let rows = source.with(|source| source.batch(*table, place.after.as_ref(), clock));
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
