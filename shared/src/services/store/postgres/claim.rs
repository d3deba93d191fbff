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

use std::{
    collections::HashSet,
    slice,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    columns,
    error::Error,
    session::{Parameter, Session, Sessions},
    state,
};
use crate::{
    models::Transition,
    services::store::{
        Candidate, Claim, Claimed, OwnerId, StoreError, Work, stored_job::StoredJob,
    },
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
    mut candidates: Vec<Candidate>,
    room: usize,
) -> Result<Claimed, StoreError> {
    // A job can be notified twice.
    let mut seen = HashSet::with_capacity(candidates.len());
    candidates.retain(|it| seen.insert((it.id, it.work, it.claims)));
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
            let rows = sessions.commit_one(&claim_sql(Work::Job), &values).await?;
            let lease = claimed.take(owner, &candidates, &rows)?;
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
    let number = "UPDATE workers SET repeats = greatest(repeats, $2) WHERE owner = $1
        RETURNING repeats";
    let of_owner: Parameter<'_> = (&owner.uuid(), Type::UUID);
    session.query(lock, slice::from_ref(&of_owner)).await?;
    let values = [of_owner, (&repeats, Type::INT8)];
    let Some(row) = session.find(number, &values).await? else {
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
            let sql = claim_sql(alike[0].work);
            let rows = session
                .query(
                    &sql,
                    &statement.parameters(&columns::integer(self.room), &repeats),
                )
                .await?;
            lease = self.take(owner, alike, &rows)?;
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
        rows: &[Row],
    ) -> Result<Lease, Error> {
        let Some(first) = rows.first() else {
            return Err(Error::Row("the row of the store is missing".to_owned()));
        };
        match first.try_get("is_current")? {
            None => return Ok(Lease::Lost),
            Some(false) => return Ok(Lease::Late),
            Some(true) => {}
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

/// SQL for a claim. Its rows are the jobs that are won, in order, or one without a job.
///
/// `pausable` locks the table and no row, which would be written for each claim. A row of `locked`
/// is won unless it does not fit: it counts for those behind it. `|| ''`: for a candidate, the
/// planner would read a whole index of the jobs of that status, while it believes that it is small.
pub(super) fn claim_sql(work: Work) -> String {
    let (table, request) = (state::table(work), request(work));
    let (from, to) = (Transition::Claim.from(), Transition::Claim.to());
    let (also, with_request) = match work {
        Work::Job => (" AND it.mode = 'async'", ""),
        Work::Redelivery => ("", WITH_REQUEST),
    };
    let columns = columns_of(work, "(SELECT resumed FROM known)");
    format!(
        "WITH pausable AS (
             SELECT FROM store WHERE false FOR KEY SHARE
         ), known AS MATERIALIZED (
             SELECT resumed, EXISTS (SELECT FROM pauses WHERE origin = '') AS is_paused FROM store
         ), lease AS MATERIALIZED (
             SELECT repeats <= $5 AS is_current FROM workers WHERE owner = $1 FOR KEY SHARE
         ), locked AS MATERIALIZED (
             SELECT it.id, place,
                 coalesce({request}.input_bytes, 0) + coalesce({request}.result_bytes, 0) AS bytes
             FROM unnest($2, $3) WITH ORDINALITY AS candidate (id, claims, place)
             JOIN {table} AS it ON it.id = candidate.id {with_request}
             WHERE it.status || '' = '{from}' AND it.claim = candidate.claims{also}
               AND (SELECT is_current FROM lease) AND NOT (SELECT is_paused FROM known)
             ORDER BY it.id
             FOR NO KEY UPDATE OF it SKIP LOCKED
         ), fitting AS (
             SELECT id, place
             FROM (SELECT *, sum(bytes) OVER (ORDER BY place) - bytes AS before FROM locked) AS sums
             WHERE before < $4
         ), claimed AS (
             UPDATE {table} AS it
             SET status = '{to}', claim = it.claim + 1, owner = $1, due = NULL
             FROM fitting AS candidate {with_request}
             WHERE it.id = candidate.id
             RETURNING {columns}
         )
         SELECT is_paused, is_current, claimed.*
         FROM known LEFT JOIN lease ON true LEFT JOIN claimed ON true
         ORDER BY place"
    )
}

pub(super) fn won_sql(work: Work) -> String {
    let table = state::table(work);
    let status = Transition::Claim.to();
    let with_request = match work {
        Work::Job => "",
        Work::Redelivery => WITH_REQUEST,
    };
    let columns = columns_of(work, "(SELECT resumed FROM store)");
    format!(
        "SELECT {columns}
         FROM unnest($2, $3) WITH ORDINALITY AS candidate (id, claims, place)
         JOIN {table} AS it ON it.id = candidate.id {with_request}
         WHERE it.status || '' = '{status}' AND it.owner = $1
           AND it.claim = candidate.claims + 1
         ORDER BY place"
    )
}

/// SQL for the request of a redelivery, which an edit by hand may have deleted.
const WITH_REQUEST: &str = "LEFT JOIN requests AS request ON request.id = candidate.id";

/// The row that has the columns of a request.
const fn request(work: Work) -> &'static str {
    match work {
        Work::Job => "it",
        Work::Redelivery => "request",
    }
}

/// SQL for the columns that [`read`] reads. `resumed`: when everything was resumed last.
fn columns_of(work: Work, resumed: &str) -> String {
    let request = request(work);
    // While everything is paused, a parked job can't have its turn, and gets the whole time again.
    format!(
        "place, it.claim, it.attempts, it.attempts_before,
         (CASE WHEN it.parked_at < now()
               THEN extract(epoch FROM now() - greatest(it.parked_at, {resumed})) * 1000
               ELSE 0 END)::bigint AS parked_for,
         coalesce({request}.input_payload::text, '') AS input,
         {request}.result_payload::text AS result,
         coalesce({request}.callback_target, {request}.callback_url) AS target,
         {request}.handler, coalesce({request}.is_long, false) AS is_long, {request}.traceparent,
         {request}.created_by, {request}.created_at, {request}.failure_reason,
         {request}.failure_detail"
    )
}

/// The index of the candidate whose row this is; `None` if there is none.
fn place(row: &Row) -> Result<Option<usize>, Error> {
    let place: Option<i64> = row.try_get("place")?;
    Ok(place.map(|place| usize::try_from(place - 1).unwrap_or(0)))
}

/// Reads the row of the candidate at `place`.
fn read(
    row: &Row,
    owner: OwnerId,
    candidates: &[Candidate],
    place: usize,
) -> Result<StoredJob, Error> {
    let Candidate { id, work, .. } = candidates[place];
    let bytes = |column: &str| -> Result<Option<Vec<u8>>, Error> {
        Ok(row
            .try_get::<_, Option<String>>(column)?
            .map(String::into_bytes))
    };
    let created_at: Option<SystemTime> = row.try_get("created_at")?;
    let parked_for: i64 = row.try_get("parked_for")?;
    Ok(StoredJob {
        claim: Claim {
            id,
            work,
            owner,
            number: row.try_get("claim")?,
        },
        attempts: columns::count(row.try_get::<_, i32>("attempts")?),
        attempts_before: columns::count(row.try_get::<_, i32>("attempts_before")?),
        parked_for: Duration::from_millis(u64::try_from(parked_for).unwrap_or(0)),
        input: bytes("input")?.unwrap_or_default(),
        result: bytes("result")?,
        target: bytes("target")?,
        handler: bytes("handler")?,
        is_long: row.try_get("is_long")?,
        traceparent: columns::traceparent(row.try_get("traceparent")?, id),
        created_by: columns::client(row.try_get("created_by")?),
        created_at: created_at.and_then(|at| at.try_into().ok()),
        failure: columns::failure(row)?,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering};

    use super::{super::fresh::Fresh, Lease, REPEATS, claim, claim_again, claim_once};
    use crate::services::store::{Candidate, OwnerId};

    const NEW: &str = "INSERT INTO requests (id, mode, status, input_payload, created_at, due)
        SELECT lpad(n::text, 32, '0')::uuid, 'async', 'PENDING',
            '{\"report_name\":\"a\",\"records\":1}', now(), now()
        FROM generate_series(1, 4) AS n";

    const HELD: &str = "SELECT count(*) FROM requests WHERE status = 'PROCESSING'";

    fn new_jobs() -> Vec<Candidate> {
        let ids = (1..=4).map(|n| format!("{n:032}").parse().unwrap());
        ids.map(Candidate::notified).collect()
    }

    async fn registered(fresh: &Fresh) -> OwnerId {
        let owner = OwnerId::generate();
        let register = "INSERT INTO workers (owner, beat, renewed_at, handlers)
            VALUES ($1, 0, now(), '{}')";
        let uuid = owner.uuid();
        let values = [(&uuid as _, tokio_postgres::types::Type::UUID)];
        fresh.sessions.commit_one(register, &values).await.unwrap();
        owner
    }

    #[tokio::test]
    async fn a_claim_that_comes_after_its_repeat_claims_nothing() {
        let fresh = Fresh::open().await;
        fresh.execute(NEW).await;
        let (owner, sessions) = (registered(&fresh).await, &fresh.sessions);
        // Its connection was lost, and the server begins with it later.
        let sent = REPEATS.load(Ordering::Relaxed);
        let repeated = claim_again(sessions, owner, new_jobs(), 1).await.unwrap();
        assert_eq!((repeated.jobs.len(), repeated.left.len()), (1, 3));
        let candidates: Arc<[Candidate]> = new_jobs().into();
        let late = claim_once(sessions, owner, candidates, 1, sent).await;
        assert!(late.unwrap().0 == Lease::Late);
        let held = sessions.query(HELD, &[]).await.unwrap();
        assert_eq!(held[0].get::<_, i64>(0), 1, "nobody knows of another one");
        // The next claims of the worker go on.
        let next = claim(sessions, owner, repeated.left, usize::MAX).await;
        assert_eq!(next.unwrap().jobs.len(), 3);
        fresh.drop().await;
    }
}
