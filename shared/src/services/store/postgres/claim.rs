//! Claims: exclusive ownership of a row by one worker, guarded by a fencing token.
//!
//! A claim is one statement for hundreds of candidates. What it relies on, it locks until its
//! commit:
//!
//! * The row of the worker, against the expiry of its lease, which deletes it.
//! * The table `store`, in the mode of a row lock, against a pause, which locks it EXCLUSIVE. The
//!   statement has that lock before it takes its snapshot, so it sees whatever pause was first.
//! * The rows of the candidates. It passes those that another transaction has locked: mostly,
//!   another worker claims them. Otherwise a search finds them again.

mod rows;

use std::{
    collections::HashSet,
    slice,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

#[cfg(test)]
pub(super) use self::rows::claim_sql;
pub(super) use self::rows::{claim as function, won_sql};
use self::rows::{place, read};
use super::{
    columns,
    error::Error,
    session::{Parameter, Session, Sessions},
    state::HAS_LEASE,
};
use crate::services::store::{
    Candidate, Claimed, OwnerId, StoreError, Work, stored_job::StoredJob,
};

/// The repeats of claims by this process.
static REPEATS: AtomicI64 = AtomicI64::new(0);

/// What claims of one transaction have won.
struct ClaimedRows {
    jobs: Vec<StoredJob>,
    /// Candidates that were not tried for want of room.
    left: Vec<Candidate>,
    /// What is left for bodies, in bytes.
    room: usize,
    /// Whether none was tried because everything is paused.
    is_paused: bool,
}

/// What a claim has found of its worker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lease {
    Held,
    Lost,
    /// Held, but a claim of this worker was repeated meanwhile: this one was perhaps given up.
    Late,
}

/// Claims `candidates` in order, as long as their bodies fit into `room` bytes, or one of them.
///
/// # Errors
/// [`StoreError::LeaseLost`], or the write failed.
pub(super) async fn claim(
    sessions: &Arc<Sessions>,
    owner: OwnerId,
    candidates: Vec<Candidate>,
    room: usize,
) -> Result<Claimed, StoreError> {
    let candidates: Arc<[Candidate]> = candidates.into();
    loop {
        let candidates = Arc::clone(&candidates);
        let repeats = REPEATS.load(Ordering::Relaxed); // the number alone matters
        match claim_once(sessions, owner, candidates, room, repeats).await? {
            (Lease::Held, claimed) => return Ok(claimed.parse()),
            (Lease::Lost, _) => return Err(StoreError::LeaseLost),
            (Lease::Late, _) => {}
        }
    }
}

async fn claim_once(
    sessions: &Arc<Sessions>,
    owner: OwnerId,
    candidates: Arc<[Candidate]>,
    room: usize,
    repeats: i64,
) -> Result<(Lease, ClaimedRows), StoreError> {
    if candidates.iter().all(|it| it.work == Work::Job) {
        // Most claims are one statement: one round trip.
        let claim = move |sessions: Arc<Sessions>| async move {
            let mut claimed = ClaimedRows::within(room);
            let statement = Statement::of(owner, &candidates);
            let room = columns::integer(room);
            let values = statement.parameters(&room, &repeats);
            let rows = sessions.call(function(Work::Job), &values).await?;
            let lease = claimed.take(owner, &candidates, repeats, &rows)?;
            Ok((lease, claimed))
        };
        return sessions.write_one(claim).await;
    }
    let claim = move |session: Session| {
        let candidates = Arc::clone(&candidates);
        async move {
            let mut claimed = ClaimedRows::within(room);
            let lease = claimed.claim(&session, owner, &candidates, repeats).await?;
            Ok((lease, claimed))
        }
    };
    sessions.write(claim).await
}

/// Repeats a claim whose outcome is unknown: finds what it has won, and claims the others.
///
/// # Errors
/// As for [`claim`].
pub(super) async fn claim_again(
    sessions: &Arc<Sessions>,
    owner: OwnerId,
    candidates: Vec<Candidate>,
    room: usize,
) -> Result<Claimed, StoreError> {
    let candidates: Arc<[Candidate]> = candidates.into();
    let repeats = REPEATS.fetch_add(1, Ordering::Relaxed) + 1;
    let claimed = sessions.write(move |session| {
        let candidates = Arc::clone(&candidates);
        async move { repeat(&session, owner, &candidates, room, repeats).await }
    });
    let claimed = claimed.await?.ok_or(StoreError::LeaseLost)?;
    Ok(claimed.parse())
}

async fn repeat(
    session: &Session,
    owner: OwnerId,
    candidates: &[Candidate],
    room: usize,
    repeats: i64,
) -> Result<Option<ClaimedRows>, Error> {
    // First this lock, as in a claim: both wait for a pause.
    session
        .execute_all("LOCK TABLE store IN ROW SHARE MODE")
        .await?;
    // The first call may still run: it shares the worker's row until its commit. If it has not
    // begun yet, it will find that it is late.
    let lock = "SELECT FROM workers WHERE owner = $1 FOR UPDATE";
    let number = format!(
        "UPDATE workers SET repeats = greatest(repeats, $2) WHERE owner = $1 AND {HAS_LEASE}
         RETURNING repeats"
    );
    let of_owner: Parameter<'_> = (&owner.uuid(), Type::UUID);
    session.query(lock, slice::from_ref(&of_owner)).await?;
    let values = [of_owner, (&repeats, Type::INT8)];
    let Some(row) = session.find(&number, &values).await? else {
        return Ok(None);
    };
    let repeats: i64 = row.try_get(0)?;
    let mut claimed = ClaimedRows::within(room);
    let others = claimed.find_won(session, owner, candidates).await?;
    let lease = claimed.claim(session, owner, &others, repeats).await?;
    Ok((lease == Lease::Held).then_some(claimed))
}

impl ClaimedRows {
    /// None so far, and at most one body more than fit into `room` bytes.
    fn within(room: usize) -> Self {
        Self {
            jobs: Vec::new(),
            left: Vec::new(),
            room,
            is_paused: false,
        }
    }

    /// Claims the `candidates` whose rows nobody has claimed since they were read, in order, while
    /// there is room. Claims none while everything is paused.
    async fn claim(
        &mut self,
        session: &Session,
        owner: OwnerId,
        candidates: &[Candidate],
        repeats: i64,
    ) -> Result<Lease, Error> {
        let mut lease = Lease::Held;
        for alike in candidates.chunk_by(|one, next| one.work == next.work) {
            let statement = Statement::of(owner, alike);
            let rows = session
                .query(
                    function(alike[0].work).call(),
                    &statement.parameters(&columns::integer(self.room), &repeats),
                )
                .await?;
            lease = self.take(owner, alike, repeats, &rows)?;
            if lease != Lease::Held || self.is_paused {
                break;
            }
        }
        Ok(lease)
    }

    /// Adds those of the `candidates` that `owner` holds under their next claim number: an earlier
    /// try of the same claim has won them. Returns the others.
    async fn find_won(
        &mut self,
        session: &Session,
        owner: OwnerId,
        candidates: &[Candidate],
    ) -> Result<Vec<Candidate>, Error> {
        let mut others = Vec::new();
        for alike in candidates.chunk_by(|one, next| one.work == next.work) {
            let statement = Statement::of(owner, alike);
            let found = session
                .query(&won_sql(alike[0].work), &statement.parameters_of_rows())
                .await?;
            let mut won = HashSet::new();
            for row in &found {
                let place = place(row)?.unwrap_or(0);
                won.insert(place);
                self.push(read(row, owner, alike, place)?);
            }
            let lost = alike.iter().enumerate().filter(|(at, _)| !won.contains(at));
            others.extend(lost.map(|(_, candidate)| *candidate));
        }
        Ok(others)
    }

    /// Adds what a claim of `candidates` has won.
    fn take(
        &mut self,
        owner: OwnerId,
        candidates: &[Candidate],
        repeats: i64,
        rows: &[Row],
    ) -> Result<Lease, Error> {
        let Some(first) = rows.first() else {
            return Err(Error::Row("the row of the store is missing".to_owned()));
        };
        match first.try_get::<_, Option<i64>>("repeats")? {
            None => return Ok(Lease::Lost),
            Some(last) if last > repeats => {
                REPEATS.fetch_max(last, Ordering::Relaxed);
                return Ok(Lease::Late);
            }
            Some(_) => {}
        }
        self.is_paused = first.try_get("is_paused")?;
        if self.is_paused {
            return Ok(Lease::Held);
        }
        let mut tried = 0;
        for row in rows {
            let Some(place) = place(row)? else { break };
            self.push(read(row, owner, candidates, place)?);
            tried = place + 1;
        }
        if self.room == 0 {
            self.left.extend_from_slice(&candidates[tried..]);
        }
        Ok(Lease::Held)
    }

    fn push(&mut self, job: StoredJob) {
        self.room = self.room.saturating_sub(job.bytes());
        self.jobs.push(job);
    }

    fn parse(self) -> Claimed {
        let mut last = None;
        let jobs = self.jobs.into_iter();
        Claimed {
            jobs: jobs.map(|job| job.into_job(&mut last)).collect(),
            left: self.left,
            is_paused: self.is_paused,
        }
    }
}

/// The parameters of a statement on candidates for the same work.
struct Statement {
    owner: Uuid,
    ids: Vec<Uuid>,
    claims: Vec<i64>,
}

impl Statement {
    fn of(owner: OwnerId, candidates: &[Candidate]) -> Self {
        Self {
            owner: owner.uuid(),
            ids: candidates.iter().map(|it| it.id.uuid()).collect(),
            claims: candidates.iter().map(|it| it.claims).collect(),
        }
    }

    fn parameters_of_rows(&self) -> [Parameter<'_>; 3] {
        [
            (&self.owner, Type::UUID),
            (&self.ids, Type::UUID_ARRAY),
            (&self.claims, Type::INT8_ARRAY),
        ]
    }

    fn parameters<'a>(&'a self, room: &'a i64, repeats: &'a i64) -> [Parameter<'a>; 5] {
        let [owner, ids, claims] = self.parameters_of_rows();
        [
            owner,
            ids,
            claims,
            (room, Type::INT8),
            (repeats, Type::INT8),
        ]
    }
}

#[cfg(test)]
mod tests;
