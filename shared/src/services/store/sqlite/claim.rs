//! Claims: exclusive ownership of a row by one worker, guarded by a fencing token.

use std::{str::from_utf8, time::Duration};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    bodies,
    clock::StoreTime,
    columns::{self, bytes},
    pause,
    state::{self, IS_CLAIMED, IS_HELD},
};
use crate::{
    models::{CallbackUrl, Failure, Transition},
    services::store::{
        Candidate, Claim, Claimed, InvalidJob, Job, OwnerId, Work, stored_job::StoredJob,
    },
};

/// The columns of a request that a claimed job is made of.
const REQUEST: [&str; 10] = [
    bodies::INPUT,
    bodies::RESULT,
    "coalesce(callback_target, callback_url)",
    "traceparent",
    "created_by",
    "created_at",
    "handler",
    "is_long",
    "failure_reason",
    "failure_detail",
];

/// The rows that a claim has won.
pub(super) struct ClaimedRows {
    rows: Vec<ClaimedRow>,
    /// Candidates that were not tried for want of room.
    left: Vec<Candidate>,
    /// What is left for bodies, in bytes.
    room: usize,
    /// Whether none was tried because everything is paused.
    is_paused: bool,
    /// When the last pause of everything ended.
    resumed: StoreTime,
}

impl ClaimedRows {
    /// None so far, and at most one body more than fit into `room` bytes.
    pub(super) fn within(room: usize) -> Self {
        Self {
            rows: Vec::new(),
            left: Vec::new(),
            room,
            is_paused: false,
            resumed: StoreTime::stored(0),
        }
    }

    /// Claims the `candidates` whose rows nobody has claimed since they were read, in order, while
    /// there is room. Claims none while everything is paused.
    pub(super) fn claim(
        &mut self,
        connection: &Connection,
        owner: OwnerId,
        candidates: &[Candidate],
    ) -> rusqlite::Result<()> {
        // In the claim's transaction: from the commit of a pause on, no claim succeeds, whatever
        // the worker knows.
        self.is_paused = pause::is_everything(connection)?;
        self.resumed = pause::last_resumption(connection)?;
        if self.is_paused {
            return Ok(());
        }
        self.rows.reserve(candidates.len());
        let mut tried = 0;
        // Mostly one chunk: few transactions claim a redelivery.
        for alike in candidates.chunk_by(|one, next| one.work == next.work) {
            tried += self.claim_alike(connection, owner, alike)?;
            if self.room == 0 {
                break;
            }
        }
        self.left = candidates[tried..].to_vec();
        Ok(())
    }

    /// Claims candidates for the same work. Returns how many it has tried.
    fn claim_alike(
        &mut self,
        connection: &Connection,
        owner: OwnerId,
        candidates: &[Candidate],
    ) -> rusqlite::Result<usize> {
        let Some(Candidate { work, .. }) = candidates.first().copied() else {
            return Ok(0);
        };
        let owner_text = owner.to_string();
        // Two statements, since RETURNING would make a temporary table for each row.
        let mut find = connection.prepare_cached(&claimable_sql(work))?;
        let mut claim = connection.prepare_cached(&claim_sql(work))?;
        for (tried, candidate) in candidates.iter().enumerate() {
            if self.room == 0 {
                return Ok(tried);
            }
            let (id, claims) = (candidate.id, candidate.claims);
            let id_text = id.to_string();
            let found = find.query_row(params![id_text, claims], |row| {
                let number = row.get::<_, i64>(0)?.saturating_add(1);
                let claim = Claim {
                    id,
                    work,
                    owner,
                    number,
                };
                ClaimedRow::read(row, claim)
            });
            // Another worker won, or the notification was late, repeated or forged.
            let Some(row) = found.optional()? else {
                continue;
            };
            // Always so: this transaction has the write lock.
            if claim.execute(params![id_text, claims, owner_text])? > 0 {
                self.push(row);
            }
        }
        Ok(candidates.len())
    }

    /// Adds those of the `candidates` that `owner` holds under their next claim number: an earlier
    /// try of the same claim has won them, if it was committed. Returns the others.
    pub(super) fn find_won(
        &mut self,
        connection: &Connection,
        owner: OwnerId,
        candidates: &[Candidate],
    ) -> rusqlite::Result<Vec<Candidate>> {
        let owner_text = owner.to_string();
        let mut others = Vec::new();
        for &candidate in candidates {
            let Candidate { id, work, .. } = candidate;
            let claim = Claim {
                id,
                work,
                owner,
                number: candidate.claims.saturating_add(1),
            };
            let found = connection
                .prepare_cached(&format!(
                    "SELECT {} FROM {} WHERE {IS_CLAIMED} AND {IS_HELD}",
                    columns_of(work),
                    state::table(work)
                ))?
                .query_row(params![id.to_string(), owner_text, claim.number], |row| {
                    ClaimedRow::read(row, claim)
                });
            match found.optional()? {
                Some(row) => self.push(row),
                None => others.push(candidate),
            }
        }
        Ok(others)
    }

    fn push(&mut self, row: ClaimedRow) {
        self.room = self.room.saturating_sub(row.bytes());
        self.rows.push(row);
    }

    /// The claimed jobs.
    pub(super) fn parse(self, now: StoreTime) -> Claimed {
        let rows = self.rows.into_iter();
        let mut last = None;
        let jobs = rows.map(|row| row.into_job(now, self.resumed, &mut last));
        Claimed {
            jobs: jobs.collect(),
            left: self.left,
            is_paused: self.is_paused,
        }
    }
}

/// SQL for the row that [`claim_sql`] claims.
fn claimable_sql(work: Work) -> String {
    format!(
        "SELECT {} FROM {} WHERE status = '{}' AND {}",
        columns_of(work),
        state::table(work),
        Transition::Claim.from(),
        is_unchanged(work)
    )
}

fn claim_sql(work: Work) -> String {
    let set = "claim = claim + 1, owner = ?3, due = NULL";
    state::change(work, Transition::Claim, set, is_unchanged(work))
}

/// SQL for a candidate as it was read. The condition on `claim` makes the claim a compare-and-swap:
/// a job that was claimed and released meanwhile is not claimed on stale information.
const fn is_unchanged(work: Work) -> &'static str {
    match work {
        Work::Job => "id = ?1 AND claim = ?2 AND mode = 'async'",
        Work::Redelivery => "id = ?1 AND claim = ?2",
    }
}

/// The columns that [`ClaimedRow::read`] reads.
fn columns_of(work: Work) -> String {
    let (before, request) = match work {
        Work::Job => ("attempts_before", REQUEST.join(", ")),
        Work::Redelivery => {
            let of_request = REQUEST
                .map(|it| format!("(SELECT {it} FROM requests AS r WHERE r.id = redeliveries.id)"));
            ("attempts_before", of_request.join(", "))
        }
    };
    format!("claim, attempts, parked_at, {before}, {request}")
}

/// The columns of a claimed job as they are stored.
struct ClaimedRow {
    claim: Claim,
    attempts: i64,
    parked_at: Option<StoreTime>,
    attempts_before: i64,
    input: Vec<u8>,
    result: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    traceparent: Option<Vec<u8>>,
    created_by: Option<Vec<u8>>,
    created_at: Option<Vec<u8>>,
    handler: Option<Vec<u8>>,
    is_long: bool,
    failure: Option<Failure>,
}

impl ClaimedRow {
    /// Reads the row of a claim.
    fn read(row: &Row<'_>, claim: Claim) -> rusqlite::Result<Self> {
        Ok(Self {
            claim,
            attempts: row.get(1)?,
            parked_at: row.get::<_, Option<i64>>(2)?.map(StoreTime::stored),
            attempts_before: row.get(3)?,
            input: bytes(row, 4)?.unwrap_or_default(),
            result: bytes(row, 5)?,
            target: bytes(row, 6)?,
            traceparent: bytes(row, 7)?,
            created_by: bytes(row, 8)?,
            created_at: bytes(row, 9)?,
            handler: bytes(row, 10)?,
            is_long: row.get(11)?,
            failure: columns::failure(row, 12, 13)?,
        })
    }

    /// The bytes of its bodies.
    fn bytes(&self) -> usize {
        self.input.len() + self.result.as_ref().map_or(0, Vec::len)
    }

    /// The job at `now`, after everything was `resumed` last. `last` is the URL of the one before,
    /// and then of this one.
    fn into_job(
        self,
        now: StoreTime,
        resumed: StoreTime,
        last: &mut Option<CallbackUrl>,
    ) -> Result<Job, InvalidJob> {
        let traceparent = self.traceparent.as_deref();
        let traceparent = traceparent.and_then(|sent| from_utf8(sent).ok());
        let stored = StoredJob {
            claim: self.claim,
            attempts: columns::count(self.attempts),
            attempts_before: columns::count(self.attempts_before),
            // While everything is paused, it can't have its turn, and gets the whole time again.
            parked_for: self
                .parked_at
                .map_or(Duration::ZERO, |at| now.since(at.max(resumed))),
            input: self.input,
            result: self.result,
            target: self.target,
            handler: self.handler,
            is_long: self.is_long,
            traceparent: columns::traceparent(traceparent, self.claim.id),
            created_by: columns::client_name(self.created_by.as_deref()),
            created_at: self
                .created_at
                .and_then(|stored| from_utf8(&stored).ok()?.parse().ok()),
            failure: self.failure,
        };
        stored.into_job(last)
    }
}
