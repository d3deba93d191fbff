-- Redeliveries in progress: a row goes from PENDING to PROCESSING and back like a job, until it is
-- deleted at the end. The request keeps its status meanwhile, so a redelivery that fails changes
-- nothing. Claims, attempts and parks are counted on from those of the request, and written back
-- at the end.
CREATE TABLE redeliveries (
    id              TEXT    NOT NULL PRIMARY KEY,  -- the request
    status          TEXT    NOT NULL CHECK (status IN ('PENDING', 'PROCESSING')),
    created_by      TEXT,
    origin          TEXT,
    claim           INTEGER NOT NULL,
    owner           TEXT,
    due             INTEGER,
    lost_claims     INTEGER NOT NULL DEFAULT 0,
    attempts        INTEGER NOT NULL,
    attempts_before INTEGER NOT NULL,  -- those of earlier series
    parked_at       INTEGER,
    parks           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Those under way. A worker of the release before that holds one has lost its claim: the attempt
-- may be made twice, which the event records.
INSERT INTO events (request_id, number, at, event, claim)
SELECT id, 1 + (SELECT coalesce(max(number), 0) FROM events WHERE request_id = requests.id),
       strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), 'claim_lost', claim
FROM requests WHERE work = 'PROCESSING' AND redelivery IS NOT NULL;
INSERT INTO redeliveries
SELECT id, 'PENDING', created_by, origin, claim, NULL, coalesce(due, 0), lost_claims, attempts,
       attempts_before, parked_at, parks
FROM requests WHERE work IN ('PENDING', 'PROCESSING') AND redelivery IS NOT NULL;
UPDATE requests
SET redelivery = NULL, next_attempt_at = NULL, due = NULL, parked_at = NULL, owner = NULL
WHERE work IN ('PENDING', 'PROCESSING') AND redelivery IS NOT NULL;
-- New jobs of the release before.
UPDATE requests SET due = 0 WHERE work = 'PENDING' AND due IS NULL;

-- The state of a job is its status. The column `work`, and its indexes `suspects` and
-- `waiting_by_origin`, stay for the release before, which names them in its queries.
DROP INDEX requests_by_work;

-- Suspected poison jobs; and the jobs that were claimed before: scheduled, parked, released or
-- reclaimed.
CREATE INDEX requests_suspects ON requests (lost_claims, due)
    WHERE status = 'PENDING' AND lost_claims > 0;
CREATE INDEX redeliveries_suspects ON redeliveries (lost_claims, due)
    WHERE status = 'PENDING' AND lost_claims > 0;
DROP INDEX backlog;
CREATE INDEX requests_backlog ON requests (origin, created_by)
    WHERE status = 'PENDING' AND claim > 0;
CREATE INDEX redeliveries_backlog ON redeliveries (origin, created_by)
    WHERE status = 'PENDING' AND claim > 0;
DROP INDEX waiting;
CREATE INDEX requests_waiting ON requests (due)
    WHERE status = 'PENDING' AND claim > 0;
CREATE INDEX redeliveries_waiting ON redeliveries (due)
    WHERE status = 'PENDING' AND claim > 0;

-- A trigger after an insert costs every accept a sixth. `due_of_status` in the next migration does
-- what these did for the jobs of the release before.
DROP TRIGGER origin_of_new_job;
DROP TRIGGER due_of_ended_job;
DROP TRIGGER due_by_wall_clock;

-- For edits by hand.
CREATE TRIGGER due_of_redelivery AFTER UPDATE OF status, due ON redeliveries
WHEN (NEW.due IS NULL) = (NEW.status = 'PENDING') BEGIN
    UPDATE redeliveries SET due = iif(NEW.status = 'PENDING', 0, NULL) WHERE id = NEW.id;
END;

-- A redelivery that the release before starts.
DROP TRIGGER origin_of_redelivery;
CREATE TRIGGER redelivery_of_release_before AFTER UPDATE OF redelivery ON requests
WHEN NEW.redelivery IS NOT NULL BEGIN
    INSERT OR IGNORE INTO redeliveries
    SELECT id, 'PENDING', created_by,
           coalesce(origin, substr(coalesce(callback_target, callback_url), 1,
               7 + instr(substr(coalesce(callback_target, callback_url), 9), '/'))),
           claim, NULL, 0, 0, attempts, attempts, NULL, parks
    FROM requests WHERE id = NEW.id AND status IN ('COMPLETED', 'FAILED');
    UPDATE requests SET redelivery = NULL, next_attempt_at = NULL, due = NULL WHERE id = NEW.id;
END;
