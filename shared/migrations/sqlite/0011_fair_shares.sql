-- Whether the job is expected to run for long; 0 once its result is stored, and at its end. Long
-- jobs get a part of a worker's slots only. Jobs that the release before accepts or claims count as
-- short.
ALTER TABLE requests ADD COLUMN is_long INTEGER NOT NULL DEFAULT 0
    CHECK (is_long IN (0, 1));
UPDATE requests SET is_long = 1
WHERE status = 'PENDING' AND result_payload IS NULL
  AND iif(json_valid(input_payload), input_payload ->> '$.records' > 500, 0);

-- The jobs of each tenant in the order in which they are due; those that have ended, which are due
-- at no time, in the order of ids.
CREATE INDEX requests_by_status ON requests (status, is_long, created_by, due);
CREATE INDEX redeliveries_by_status ON redeliveries (status, created_by, due);

-- New jobs of the release before have no due time: they are due at once.
CREATE INDEX requests_undated ON requests (id) WHERE status = 'PENDING' AND due IS NULL;

-- For edits by hand, and for the release before, which runs beside this one for a while. A job that
-- is put back is due at some time, and has the origin of its callback; a time that the release
-- before schedules is by the wall clock. What is claimed or has ended is due at no time.
CREATE TRIGGER due_of_status AFTER UPDATE OF status, due, next_attempt_at ON requests
WHEN (NEW.due IS NULL) = (NEW.status = 'PENDING')
    OR NEW.next_attempt_at IS NOT OLD.next_attempt_at
    OR (NEW.origin IS NULL AND NEW.status = 'PENDING' AND NEW.callback_url IS NOT NULL)
BEGIN
    UPDATE requests SET
        is_long = iif(NEW.status = 'PENDING', is_long, 0),
        due = CASE
            WHEN NEW.status <> 'PENDING' THEN NULL
            WHEN NEW.next_attempt_at IS NULL THEN coalesce(due, 0)
            WHEN NEW.next_attempt_at IS OLD.next_attempt_at THEN coalesce(due, 0)
            ELSE coalesce((SELECT saved FROM clock), 0) + CAST(1000 * (
                unixepoch(next_attempt_at, 'subsec') - unixepoch('now', 'subsec')) AS INTEGER)
        END,
        origin = coalesce(origin,
            substr(coalesce(callback_target, callback_url), 1,
                   7 + instr(substr(coalesce(callback_target, callback_url), 9), '/')))
    WHERE id = NEW.id;
END;
