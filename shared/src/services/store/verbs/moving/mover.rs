//! A move, step by step.
//!
//! Another process that moves the same source, too, can come between two steps, and each step can
//! be the last one before a crash. What is true then is read again: no step relies on more than the
//! mark of the source and the arrival in the target say.

use super::{copy::copy, shared_source::SharedSource};
use crate::services::store::{
    MoveError, MoveProgress, Moved, StoreError,
    moving::Place,
    postgres::moving::{Arrival, Found, Target, new_id},
    sqlite::moving::Mark,
};

/// A move in progress.
pub(super) struct Mover<'a> {
    source: SharedSource,
    target: &'a Target,
    /// What the target is called, without a password.
    name: String,
    pub(super) next: Next,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// To read the mark of the source.
    LookAtSource,
    /// To look at the target of the store `id`, whose mark was read before.
    LookAtTarget { id: String, mark: Option<Mark> },
    /// To give the target its tables and the id of the move, for the store `store`.
    Begin { id: String, store: String },
    /// To mark the source with the id of the move.
    Mark { id: String },
    /// To note the target's clock there. From then on the target belongs to the mark.
    SetClock { mark: Mark },
    /// To copy what is missing after `place`, to compare all, and to end the move.
    Copy {
        mark: Mark,
        clock: i64,
        place: Place,
    },
}

/// What both databases say.
pub(super) enum Step {
    /// The target gets its tables, and the source its mark, unless that is set.
    Begin { id: String },
    /// The rest is copied.
    GoOn { mark: Mark, arrival: Arrival },
    /// Nothing: the target has everything.
    Over,
}

/// What comes next, with a source that has the store `id`, and a target called `name`.
pub(super) fn step(
    id: &str,
    mark: Option<&Mark>,
    found: &Found,
    name: &str,
) -> Result<Step, MoveError> {
    let refused = |why: &str| MoveError::Target(StoreError::Unusable(format!("{name}: {why}")));
    match (mark, found) {
        (_, Found::Taken(why)) => Err(refused(why)),
        (None, Found::Empty) => Ok(Step::Begin { id: new_id() }),
        // A call before this one has ended between the first two steps.
        (None, Found::Arrival(it)) if it.is_unfilled_of(id) => Ok(Step::Begin { id: new_id() }),
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
        (Some(mark), Found::Arrival(it)) if mark.id == it.id => Ok(if it.is_done {
            Step::Over
        } else {
            Step::GoOn {
                mark: mark.clone(),
                arrival: it.clone(),
            }
        }),
        // Of two calls at once, one has set the mark, and the other was the last to begin.
        (Some(mark), Found::Arrival(it)) if mark.target == name && it.is_unfilled_of(id) => {
            Ok(Step::Begin {
                id: mark.id.clone(),
            })
        }
        (Some(mark), Found::Arrival(_)) if mark.target == name => Err(refused(
            "another copy of this store is being moved to this database, or was moved there",
        )),
        (Some(mark), _) => Err(MoveError::Source(StoreError::Unusable(format!(
            "the store is being moved to {}, or was moved there, and not to {name}: run the \
             command with that target",
            mark.target
        )))),
    }
}

impl<'a> Mover<'a> {
    pub(super) fn new(source: SharedSource, target: &'a Target, name: String) -> Self {
        Self {
            source,
            target,
            name,
            next: Next::LookAtSource,
        }
    }

    /// Takes the next step. Returns how it ended, if it was the last one.
    ///
    /// # Errors
    /// As for [`Store::migrate`](crate::services::store::Store::migrate).
    pub(super) async fn advance(
        &mut self,
        progress: &mut impl FnMut(MoveProgress),
    ) -> Result<Option<Moved>, MoveError> {
        self.next = match self.next.clone() {
            Next::LookAtSource => {
                let look = self.source.run(|source| Ok((source.id()?, source.mark()?)));
                let (id, mark) = look.await?;
                Next::LookAtTarget { id, mark }
            }
            Next::LookAtTarget { id, mark } => match self.look(&id, mark).await? {
                Some(next) => next,
                None => return Ok(Some(self.over().await)),
            },
            Next::Begin { id, store } => self.begin(id, &store).await?,
            Next::Mark { id } => self.mark(id).await?,
            Next::SetClock { mark } => self.set_clock(mark).await.map_err(interrupted)?,
            Next::Copy { mark, clock, place } => {
                let moved = copy(&self.source, self.target, &mark, clock, place, progress).await;
                let copied = moved.map_err(interrupted)?;
                self.note_end().await;
                return Ok(Some(copied.into_move(self.name.clone())));
            }
        };
        Ok(None)
    }

    /// What comes after a look at both. `None`: the move is over.
    async fn look(&self, id: &str, mark: Option<Mark>) -> Result<Option<Next>, MoveError> {
        let found = self.target.look().await.map_err(MoveError::Target)?;
        // Both must be of one moment: another call may have set the mark before the target was
        // looked at.
        if self.source.run(|source| source.mark()).await? != mark {
            return Ok(Some(Next::LookAtSource));
        }
        let step = step(id, mark.as_ref(), &found, &self.name)?;
        Ok(match step {
            Step::Begin { id: of_move } => Some(Next::Begin {
                id: of_move,
                store: id.to_owned(),
            }),
            Step::GoOn { mark, arrival } => Some(match arrival.clock {
                Some(clock) => Next::Copy {
                    mark,
                    clock,
                    place: arrival.place,
                },
                None => Next::SetClock { mark },
            }),
            Step::Over => None,
        })
    }

    async fn begin(&self, id: String, store: &str) -> Result<Next, MoveError> {
        let begun = self.target.begin(&id, store).await;
        Ok(match begun.map_err(MoveError::Target)? {
            Found::Arrival(it) if it.id == id => Next::Mark { id },
            // Another process was first.
            _ => Next::LookAtSource,
        })
    }

    async fn mark(&self, id: String) -> Result<Next, MoveError> {
        let (of_move, name) = (id.clone(), self.name.clone());
        let set = self.source.run(|source| source.set_mark(of_move, name));
        let mark = set.await?;
        Ok(if mark.id == id {
            Next::SetClock { mark }
        } else {
            // Another process was first. Its target may be another one.
            Next::LookAtSource
        })
    }

    /// Notes how many milliseconds Unix time by the target's clock is ahead of the source's store
    /// time. The time of the mark is the wall clock's of this host, which may differ from the
    /// target's.
    async fn set_clock(&self, mark: Mark) -> Result<Next, MoveError> {
        let resumed = self.source.run(|source| source.resumed()).await?;
        let theirs = self.target.now().await.map_err(MoveError::Target)?;
        let ours = jiff::Timestamp::now().as_millisecond();
        let clock = mark.wall - mark.store_time + (theirs - ours);
        let set = self.target.set_clock(&mark.id, clock, resumed).await;
        Ok(Next::Copy {
            clock: set.map_err(MoveError::Target)?,
            mark,
            place: Place::default(),
        })
    }

    /// The move is over since an earlier call.
    async fn over(&self) -> Moved {
        self.note_end().await;
        Moved {
            target: self.name.clone(),
            rows: Vec::new(),
            left_out: 0,
            was_moved: true,
            copied: 0,
            copying: std::time::Duration::ZERO,
        }
    }

    /// Notes in the source that the target has everything: should the target lose it all, a repeat
    /// must not fill it again. The move is over in any case.
    async fn note_end(&self) {
        if let Err(error) = self.source.run(|source| source.complete()).await {
            tracing::warn!(%error, "the move is complete, and its source could not note that");
        }
    }
}

/// The error of a step after the mark.
fn interrupted(error: MoveError) -> MoveError {
    match error {
        different @ MoveError::Different { .. } => different,
        error => MoveError::Interrupted(Box::new(error)),
    }
}

#[cfg(test)]
mod tests;
