-- Leases, the claims that were lost with their workers, and the record of what went wrong.

-- One row per worker's process that is alive. Whoever sees `beat` stand still for a whole lease, by
-- its own clock, may declare it dead: the row goes, and with it the worker's jobs.
CREATE TABLE workers (
    owner      TEXT    NOT NULL PRIMARY KEY,
    beat       INTEGER NOT NULL,  -- counts renewals
    renewed_at TEXT    NOT NULL   -- for people; nobody judges by it
) STRICT, WITHOUT ROWID;

-- What went wrong with a job and may have made its receiver hear of it twice. A job with which all
-- went well has none.
CREATE TABLE events (
    request_id TEXT    NOT NULL,
    number     INTEGER NOT NULL,  -- of this job, from 1
    at         TEXT    NOT NULL,
    event      TEXT    NOT NULL CHECK (event IN ('attempt_failed', 'given_back', 'claim_lost')),
    claim      INTEGER NOT NULL,  -- under which it happened
    detail     TEXT,
    PRIMARY KEY (request_id, number)
) STRICT, WITHOUT ROWID;

-- Claims whose worker died, since the job's last attempt with a known outcome. It decides how much of a
-- worker the job takes up next time.
ALTER TABLE requests ADD COLUMN lost_claims INTEGER NOT NULL DEFAULT 0;

-- A job that waits is PENDING, and `next_attempt_at` says until when: for its next attempt, or not at
-- all where it was given back or lost. It is null for a job that was never claimed, for which the
-- doorbell rings. So the index gives both kinds in the order in which they are to be taken.
DROP INDEX requests_by_status;
CREATE INDEX requests_by_status ON requests (status, next_attempt_at);

-- Those that may be what killed their workers are looked for apart.
CREATE INDEX suspects ON requests (lost_claims, next_attempt_at)
    WHERE status = 'PENDING' AND lost_claims > 0;
