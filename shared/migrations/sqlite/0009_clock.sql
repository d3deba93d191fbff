-- The store's own clock, by which jobs wait: milliseconds that the kernel counts since it booted,
-- so that setting the wall clock changes no wait. One row, written by the first process after a
-- boot.
CREATE TABLE clock (
    one        INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    boot       TEXT    NOT NULL,  -- the boot that `since_boot` counts from
    since_boot INTEGER NOT NULL,  -- at this moment since the boot …
    store_time INTEGER NOT NULL,  -- … it was this store time
    saved      INTEGER NOT NULL,  -- a recent store time: the next boot continues from here …
    saved_wall INTEGER NOT NULL   -- … plus what has passed by the wall clock since (Unix ms)
) STRICT, WITHOUT ROWID;

-- The store time at which a PENDING job may be claimed from the table; null: at once. A new job is
-- left to its notification first. Null in all other rows.
ALTER TABLE requests ADD COLUMN due INTEGER;
-- The store time since which the job has been parked. Replaces parked_since.
ALTER TABLE requests ADD COLUMN parked_at INTEGER;

-- Store time begins as Unix time. No delay with its jitter is longer than 60 days: a later time was
-- written before the clock was set back.
UPDATE requests SET
    due = min(CAST(1000 * unixepoch(next_attempt_at, 'subsec') AS INTEGER), 1000 * (unixepoch() + 60 * 86400)),
    parked_at = CAST(1000 * unixepoch(parked_since, 'subsec') AS INTEGER)
WHERE work = 'PENDING' AND next_attempt_at IS NOT NULL;
UPDATE requests SET parked_at = CAST(1000 * unixepoch(parked_since, 'subsec') AS INTEGER)
WHERE work = 'PROCESSING' AND parked_since IS NOT NULL;

-- PENDING jobs in the order in which they are due; all other rows of a status in the order of ids.
DROP INDEX requests_by_work;
CREATE INDEX requests_by_work ON requests (work, due);

DROP INDEX suspects;
CREATE INDEX suspects ON requests (lost_claims, due) WHERE work = 'PENDING' AND lost_claims > 0;

-- Jobs that were claimed before: scheduled, parked, released or reclaimed. `backlog` replaces
-- waiting_by_origin, which the release before still names in its queries.
CREATE INDEX backlog ON requests (origin) WHERE work = 'PENDING' AND claim > 0;
CREATE INDEX waiting ON requests (due) WHERE work = 'PENDING' AND claim > 0;

-- For edits by hand, and for the release before, which runs beside this one for a while: a job that
-- it ends, and one that it schedules by the wall clock.
CREATE TRIGGER due_of_ended_job AFTER UPDATE OF status ON requests
WHEN NEW.due IS NOT NULL AND NEW.work IN ('COMPLETED', 'FAILED') BEGIN
    UPDATE requests SET due = NULL WHERE id = NEW.id;
END;
CREATE TRIGGER due_by_wall_clock AFTER UPDATE OF next_attempt_at ON requests
WHEN NEW.next_attempt_at IS NOT NULL BEGIN
    UPDATE requests SET due = (SELECT saved FROM clock)
        + CAST(1000 * (unixepoch(next_attempt_at, 'subsec') - unixepoch('now', 'subsec')) AS INTEGER)
    WHERE id = NEW.id;
END;
