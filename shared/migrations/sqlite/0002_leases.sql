-- Leases, lost claims, and events.

-- One row per live worker process. An observer that sees `beat` unchanged for a whole lease, by its
-- own clock, may expire the lease: it deletes the row and reclaims the worker's jobs.
CREATE TABLE workers (
    owner      TEXT    NOT NULL PRIMARY KEY,
    beat       INTEGER NOT NULL,  -- counts heartbeats
    renewed_at TEXT    NOT NULL   -- informational; not used to judge the lease
) STRICT, WITHOUT ROWID;

-- Failures that may have caused a duplicate delivery. A job without failures has no events.
CREATE TABLE events (
    request_id TEXT    NOT NULL,
    number     INTEGER NOT NULL,  -- within the request, from 1
    at         TEXT    NOT NULL,
    event      TEXT    NOT NULL CHECK (event IN ('attempt_failed', 'given_back', 'claim_lost')),
    claim      INTEGER NOT NULL,  -- the fencing token under which it happened
    detail     TEXT,
    PRIMARY KEY (request_id, number)
) STRICT, WITHOUT ROWID;

-- Claims lost with their workers since the job's last attempt with a known outcome. Decides how
-- much of a worker's capacity the job takes next time (quarantine of suspected poison jobs).
ALTER TABLE requests ADD COLUMN lost_claims INTEGER NOT NULL DEFAULT 0;

-- A PENDING job with `next_attempt_at` is scheduled for that time; a released or reclaimed job is
-- due at once. Null marks a job that was never claimed, for which a notification is sent. The index
-- yields both kinds in claim order.
DROP INDEX requests_by_status;
CREATE INDEX requests_by_status ON requests (status, next_attempt_at);

-- Suspected poison jobs are read separately.
CREATE INDEX suspects ON requests (lost_claims, next_attempt_at)
    WHERE status = 'PENDING' AND lost_claims > 0;
